//! `podbus exec`: a command inside a container, with the terminal handed through.

mod raw;

use std::io::{IsTerminal as _, Read as _, Write as _};

use podbus_common::model::Pod;
use podbus_common::proto::{self, chunk, open_stream};
use podbus_common::subject::{self, PodStream};
use podbus_common_bus::stream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::{BusArgs, NamespaceArgs};
use crate::bus::{Session, stream_error, stream_failure};
use crate::failure::{Failure, Outcome};
use crate::resource::pod_name;
use crate::rows::typed;
use crate::terminal::Terminal;

/// So much of stdin is read at once.
const STDIN_BYTES_MAX: usize = 32 * 1024;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "podbus exec [-it] [-c NAME] POD -- COMMAND [ARG]...",
    after_help = "Examples:\n  podbus exec web -- date\n  podbus exec -it web -c sidecar -- sh"
)]
pub(crate) struct Args {
    /// The pod
    pod: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// The container; by default the first
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Hand stdin to the command
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Say nothing of our own
    #[arg(short, long)]
    quiet: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let session = Session::connect(&args.bus).await?;
    let namespace = args.namespace.namespace.as_str();
    let pod: Pod = typed(&session.api.get(Some(namespace), "pods", &pod_name(&args.pod)?).await?)?;
    let tty = args.tty && usable_tty(&args, terminal);
    let request = request(&args, &pod, tty, terminal)?;
    let subject = subject::pod_stream(&pod.spec.node_name, namespace, PodStream::Exec);
    let opened = stream::open(&session.bus, &subject, open_stream::Request::Exec(request)).await;
    let (mut chunks, frames) = opened.map_err(|error| stream_failure(error, &pod.spec.node_name))?.split();

    // From here to its drop the terminal is raw; the guard restores it on every way out, a panic too.
    let raw = if tty && args.stdin { Some(raw::RawTerminal::enter()?) } else { None };
    let input = tokio::spawn(send_input(frames, args.stdin, tty));
    let ended = tokio::select! {
        ended = print_until_end(&mut chunks) => ended,
        signal = deadly_signal() => signal,
    };
    input.abort();
    drop(raw);
    match ended? {
        0 => Ok(()),
        code => {
            if !args.quiet {
                terminal.note(&format!("command terminated with exit code {code}"));
            }
            Err(Failure::Code(u8::try_from(code).unwrap_or(1)))
        }
    }
}

/// A terminal can only be handed on by someone who has one.
fn usable_tty(args: &Args, terminal: &Terminal) -> bool {
    if !args.stdin {
        return std::io::stdout().is_terminal();
    }
    let is_terminal = std::io::stdin().is_terminal();
    if !is_terminal && !args.quiet {
        terminal.note("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    is_terminal
}

fn request(args: &Args, pod: &Pod, tty: bool, terminal: &Terminal) -> Outcome<proto::ExecRequest> {
    let name = &pod.metadata.name;
    if pod.spec.node_name.is_empty() {
        return Err(Failure::local(format!("pod {name} runs on no node yet"))
            .hint(format!("`podbus describe pod {name}` says what it waits for")));
    }
    if let Some(status) = pod.status.as_ref().filter(|status| status.phase.is_terminal()) {
        return Err(Failure::local(format!(
            "cannot exec into a container in a completed pod; current phase is {}",
            status.phase.as_str()
        )));
    }
    let container = match &args.container {
        None => super::logs::default_container(pod, terminal)?,
        Some(wanted) => {
            let known = pod.spec.containers.iter().chain(&pod.spec.init_containers).any(|c| c.name == *wanted);
            if !known {
                return Err(Failure::local(format!("container {wanted} is not valid for pod {name}")));
            }
            wanted.clone()
        }
    };
    let (rows, columns) = if tty { raw::size() } else { (0, 0) };
    Ok(proto::ExecRequest {
        namespace: pod.metadata.namespace.clone(),
        pod: name.clone(),
        uid: pod.metadata.uid.clone(),
        container,
        command: args.command.clone(),
        stdin: args.stdin,
        tty,
        rows,
        columns,
    })
}

/// The command's output as it comes; its exit code at the end.
async fn print_until_end(chunks: &mut stream::ClientReader) -> Outcome<i32> {
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        match chunk.kind() {
            chunk::Kind::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(&chunk.data)?;
                out.flush()?;
            }
            chunk::Kind::Stderr => std::io::stderr().lock().write_all(&chunk.data)?,
            chunk::Kind::End => {
                return chunk.error.as_ref().map_or(Ok(chunk.exit_code), |error| Err(stream_error(error)));
            }
            chunk::Kind::Json | chunk::Kind::Ack => {}
        }
    }
    Err(Failure::local("the stream ended before the command did").hint("did its node or the pod go away?"))
}

/// Stdin and changes of the window's size, until one of both sides ends.
async fn send_input(mut frames: stream::ClientWriter, stdin: bool, tty: bool) -> Outcome {
    let mut input = stdin.then(read_stdin);
    let mut resized = signal(SignalKind::window_change())?;
    loop {
        tokio::select! {
            // cancel-safe: tokio's docs of `mpsc::Receiver::recv` and `Signal::recv`
            bytes = async { match &mut input { Some(input) => input.recv().await, None => std::future::pending().await } } => {
                match bytes {
                    Some(bytes) => frames.data(bytes.into()).await?,
                    None => {
                        frames.eof().await?;
                        input = None;
                    }
                }
            }
            Some(()) = resized.recv(), if tty => {
                let (rows, columns) = raw::size();
                frames.resize(rows, columns).await?;
            }
        }
    }
}

/// A thread of its own reads: a read of a terminal cannot be cancelled, and the process must not wait for it.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; STDIN_BYTES_MAX];
        while let Ok(length @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Ends with the code of a shell: 128 + the signal's number.
async fn deadly_signal() -> Outcome<i32> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let kind = tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = hang_up.recv() => SignalKind::hangup(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    };
    Err(Failure::Code(u8::try_from(128 + kind.as_raw_value()).unwrap_or(1)))
}
