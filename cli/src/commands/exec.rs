//! `podbus exec`: a command inside a container, with the terminal handed through.

use podbus_common::model::Pod;
use podbus_common::proto::{self, open_stream};
use podbus_common::subject::{self, PodStream};
use podbus_common_bus::stream::ClientStream;

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
    let container = process::container(process.container.as_deref(), &pod, "exec into a container in", terminal)?;
    let tty = process.tty && process.usable_tty(terminal);
    let (rows, columns) = if tty { process::size() } else { (0, 0) };
    let stdin = process.stdin;
    let request = proto::ExecRequest { container, command, stdin, tty, rows, columns, ..Default::default() };
    let stream = open(&session, &pod, request).await?;
    match process::talk(stream, process.stdin, tty).await? {
        0 => Ok(()),
        code => {
            process.note(&format!("command terminated with exit code {code}"), terminal);
            Err(Failure::Code(u8::try_from(code).unwrap_or(1)))
        }
    }
}

/// Starts a command in a container of `pod`, whom the request need not name.
pub(super) async fn open(session: &Session, pod: &Pod, request: proto::ExecRequest) -> Outcome<ClientStream> {
    let (metadata, node) = (&pod.metadata, &pod.spec.node_name);
    let request = proto::ExecRequest {
        namespace: metadata.namespace.clone(),
        pod: metadata.name.clone(),
        uid: metadata.uid.clone(),
        ..request
    };
    let subject = subject::pod_stream(node, &metadata.namespace, PodStream::Exec);
    session.open(node, &subject, open_stream::Request::Exec(request)).await
}
