//! A process in a container and the person who talks to it, for `exec` and `attach`: stdin, output, the terminal.

mod raw;

use std::io::{IsTerminal as _, Read as _, Write as _};

use podbus_common::model::Pod;
use podbus_common::proto::chunk;
use podbus_common_bus::stream::{ClientReader, ClientStream, ClientWriter};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::{BusArgs, NamespaceArgs};
use crate::bus::stream_error;
use crate::failure::{Failure, Outcome};
use crate::resource::node_of;
use crate::terminal::Terminal;

/// So much of stdin is read at once.
const STDIN_BYTES_MAX: usize = 32 * 1024;

/// Which container, and how it is talked to.
#[derive(Debug, clap::Args)]
pub(super) struct ProcessArgs {
    #[command(flatten)]
    pub(super) namespace: NamespaceArgs,
    /// The container; by default the one of the annotation kubectl.kubernetes.io/default-container, else the first
    #[arg(short, long, value_name = "NAME")]
    pub(super) container: Option<String>,
    /// Hand stdin to it
    #[arg(short = 'i', long)]
    pub(super) stdin: bool,
    /// With a terminal
    #[arg(short = 't', long)]
    pub(super) tty: bool,
    /// Say nothing of our own
    #[arg(short, long)]
    pub(super) quiet: bool,
    #[command(flatten)]
    pub(super) bus: BusArgs,
}

impl ProcessArgs {
    /// A sentence of our own.
    pub(super) fn note(&self, text: &str, terminal: &Terminal) {
        if !self.quiet {
            terminal.note(text);
        }
    }

    /// Whether a terminal that is wanted can be handed on: only by someone who has one.
    pub(super) fn usable_tty(&self, terminal: &Terminal) -> bool {
        if !self.stdin {
            return std::io::stdout().is_terminal();
        }
        let is_terminal = std::io::stdin().is_terminal();
        if !is_terminal {
            self.note("Unable to use a TTY - input is not a terminal or the right kind of file", terminal);
        }
        is_terminal
    }
}

/// The container of a pod that runs; `doing`: what cannot be done to one that does not.
pub(super) fn container(wanted: Option<&str>, pod: &Pod, doing: &str, terminal: &Terminal) -> Outcome<String> {
    let name = &pod.metadata.name;
    if let Some(status) = pod.status.as_ref().filter(|status| status.phase.is_terminal()) {
        let phase = status.phase.as_str();
        return Err(Failure::local(format!("cannot {doing} a completed pod; current phase is {phase}")));
    }
    node_of(pod)?;
    let Some(wanted) = wanted else { return super::logs::default_container(pod, terminal) };
    let known = pod.spec.containers.iter().chain(&pod.spec.init_containers).any(|c| c.name == *wanted);
    let unknown = || Failure::local(format!("container {wanted} is not valid for pod {name}"));
    known.then(|| wanted.to_owned()).ok_or_else(unknown)
}

/// Rows and columns of our terminal.
pub(super) fn size() -> (u32, u32) {
    raw::size()
}

/// Talks until the process or the person ends it; the exit code.
pub(super) async fn talk(stream: ClientStream, stdin: bool, tty: bool) -> Outcome<i32> {
    let (mut chunks, frames) = stream.split();
    // From here to its drop the terminal is raw; the guard restores it on every way out, a panic too.
    let raw = if tty && stdin { Some(raw::RawTerminal::enter()?) } else { None };
    let input = tokio::spawn(send_input(frames, stdin, tty));
    let ended = tokio::select! {
        ended = print_until_end(&mut chunks) => ended,
        signal = deadly_signal() => signal,
    };
    input.abort();
    drop(raw);
    chunks.leave().await;
    ended
}

/// The process's output as it comes; its exit code at the end.
async fn print_until_end(chunks: &mut ClientReader) -> Outcome<i32> {
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
            chunk::Kind::Json | chunk::Kind::Ack | chunk::Kind::Eof => {}
        }
    }
    Err(Failure::local("the stream ended before the process did").hint("did its node or the pod go away?"))
}

/// Stdin and changes of the window's size, until one of both sides ends.
async fn send_input(mut frames: ClientWriter, stdin: bool, tty: bool) -> Outcome {
    let mut input = stdin.then(read_stdin);
    let mut resized = signal(SignalKind::window_change())?;
    if tty {
        let (rows, columns) = raw::size();
        frames.resize(rows, columns).await?;
    }
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
