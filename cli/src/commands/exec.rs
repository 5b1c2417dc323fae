//! `podbus exec`: a command inside a container, with the terminal handed through.

use podbus_common::model::Pod;
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
    override_usage = "podbus exec [-it] [-c NAME] POD -- COMMAND [ARG]...",
    after_help = "Examples:\n  podbus exec web -- date\n  podbus exec -it web -c sidecar -- sh"
)]
pub(crate) struct Args {
    /// The pod
    pod: String,
    #[command(flatten)]
    process: ProcessArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let Args { pod, process, command } = args;
    let session = Session::connect(&process.bus).await?;
    let namespace = process.namespace.namespace.as_str();
    let pod: Pod = typed(&session.api.get(Some(namespace), "pods", &pod_name(&pod)?).await?)?;
    let container = process.container(&pod, "exec into a container in", terminal)?;
    let tty = process.tty && process.usable_tty(terminal);
    let (rows, columns) = if tty { process::size() } else { (0, 0) };
    let request = proto::ExecRequest {
        namespace: pod.metadata.namespace.clone(),
        pod: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        container,
        command,
        stdin: process.stdin,
        tty,
        rows,
        columns,
    };
    let node = &pod.spec.node_name;
    let subject = subject::pod_stream(node, namespace, PodStream::Exec);
    let stream = session.open(node, &subject, open_stream::Request::Exec(request)).await?;
    match process::talk(stream, process.stdin, tty).await? {
        0 => Ok(()),
        code => {
            process.note(&format!("command terminated with exit code {code}"), terminal);
            Err(Failure::Code(u8::try_from(code).unwrap_or(1)))
        }
    }
}
