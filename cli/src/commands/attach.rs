//! `podbus attach`: the process that a container was started with, and its terminal.

use podbus_common::model::{Pod, RestartPolicy};
use podbus_common::proto::{self, open_stream};
use podbus_common::subject::{self, PodStream};

use super::process::{self, ProcessArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::resource::pod_name;
use crate::rows::typed;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "podbus attach [-it] [-c NAME] POD",
    after_help = "Examples:\n  podbus attach web\n  podbus attach -it shell -c main\n\n\
                  It ends with the container; Ctrl-C ends it alone, unless a terminal hands that key on. Input needs\n\
                  `stdin: true` in the container's spec, a terminal needs `tty: true`."
)]
pub(crate) struct Args {
    /// The pod
    pod: String,
    #[command(flatten)]
    process: ProcessArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let Args { pod, process } = args;
    let session = Session::connect(&process.bus).await?;
    let pod: Pod = typed(&session.api.get(Some(&process.namespace.namespace), "pods", &pod_name(&pod)?).await?)?;
    attach(&session, &pod, process, terminal).await
}

/// Talks with a container of `pod` until one of both ends it.
pub(super) async fn attach(session: &Session, pod: &Pod, mut process: ProcessArgs, terminal: &Terminal) -> Outcome {
    let name = process::container(process.container.as_deref(), pod, "attach a container in", terminal)?;
    let container = pod.spec.containers.iter().chain(&pod.spec.init_containers).find(|c| c.name == name);
    let (has_stdin, has_tty) = container.map_or((false, false), |container| (container.stdin, container.tty));
    if process.tty && !has_tty {
        process.note(&format!("error: Unable to use a TTY - container {name} did not allocate one"), terminal);
        process.tty = false;
    }
    if process.stdin && !has_stdin {
        process.note(&format!("error: Unable to use stdin - container {name} did not ask for it"), terminal);
        process.stdin = false;
    }
    let tty = process.tty && process.stdin && process.usable_tty(terminal);
    // The true size follows: a size that changes lets a program draw its screen again, as with kubectl.
    let (rows, columns) = if tty { process::size() } else { (0, 0) };
    let larger = |length: u32| if tty { length + 1 } else { 0 };
    let request = proto::AttachRequest {
        namespace: pod.metadata.namespace.clone(),
        pod: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        container: name.clone(),
        stdin: process.stdin,
        rows: larger(rows),
        columns: larger(columns),
    };
    let node = &pod.spec.node_name;
    let subject = subject::pod_stream(node, &pod.metadata.namespace, PodStream::Attach);
    let stream = session.open(node, &subject, open_stream::Request::Attach(request)).await?;
    if tty {
        process.note("If you don't see a command prompt, try pressing enter.", terminal);
    }
    let code = process::talk(stream, process.stdin, tty).await?;
    if tty && pod.spec.restart_policy == RestartPolicy::Always {
        let command = format!("podbus attach {} -c {name} -i -t", pod.metadata.name);
        process.note(&format!("Session ended, resume using '{command}' command when the pod is running"), terminal);
    }
    // The container's own exit code is in its status: attach has none.
    if code == 0 { Ok(()) } else { Err(Failure::Code(u8::try_from(code).unwrap_or(1))) }
}
