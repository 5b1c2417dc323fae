//! `podbus cp`: files and directories into containers and out of them.
//!
//! One command in the container does each copy: `cat` of a file, `tar` of a directory; here it is a file, or `tar`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use bytes::{Bytes, BytesMut};
use podbus_common::model::Pod;
use podbus_common::proto::{self, chunk};
use podbus_common_bus::stream::{ClientReader, ClientStream, ClientWriter};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::{exec, process};
use crate::args::{BusArgs, NamespaceArgs};
use crate::bus::{Session, stream_error};
use crate::failure::{Failure, Outcome};
use crate::rows::typed;
use crate::terminal::Terminal;

/// What is read of a file at once.
const READ_BYTES: usize = 64 << 10;
/// The longest first line of an answer.
const HEAD_BYTES_MAX: usize = 64;

/// Writes what comes on stdin: `$1` is where, `$2` the name that it gets in a directory, `$3` `directory` or a file's
/// mode.
const TAKE: &str = r#"to=$1
if [ -d "$to" ] && [ -n "$2" ]; then to=$to/$2; fi
if [ "$3" = directory ]; then mkdir -p -- "$to" && exec tar -xmf - -C "$to"; fi
cat > "$to" && chmod "$3" -- "$to""#;

/// Says `directory` or a file's mode in the first line, then what is in `$1`.
const GIVE: &str = r#"if [ -d "$1" ]; then echo directory && exec tar -cf - -C "$1" .; fi
stat -L -c %a -- "$1" && exec cat -- "$1""#;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "podbus cp [-c NAME] FILE POD:FILE\n       podbus cp [-c NAME] POD:FILE FILE",
    after_help = "Examples:\n  podbus cp page.html web:/pages/index.html\n  podbus cp -c sidecar web:/pages ./pages\n  \
                  podbus cp team-a/web:/etc/hosts .\n\n\
                  Into a directory that is there a copy goes under its own name. The container needs sh and cat, and tar\n\
                  for directories."
)]
pub(crate) struct Args {
    /// What is copied: a path here, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to: the other of the two
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// The container; by default the one of the annotation kubectl.kubernetes.io/default-container, else the first
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    #[command(flatten)]
    bus: BusArgs,
}

/// Where a file is.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Here(&'a Path),
    Pod { namespace: Option<&'a str>, pod: &'a str, path: &'a str },
}

impl<'a> Place<'a> {
    /// Reads `[NAMESPACE/]POD:PATH`; what is no such thing is a path here, as is what begins as a path does.
    fn parse(text: &'a str) -> Outcome<Self> {
        let Some((pod, path)) = text.split_once(':').filter(|_| !text.starts_with(['/', '.'])) else {
            return Ok(Self::Here(Path::new(text)));
        };
        let (namespace, pod) = pod.split_once('/').map_or((None, pod), |(namespace, pod)| (Some(namespace), pod));
        if pod.is_empty() || pod.contains('/') || path.is_empty() || namespace == Some("") {
            return Err(Failure::local(format!("`{text}` is not [NAMESPACE/]POD:PATH")));
        }
        Ok(Self::Pod { namespace, pod, path })
    }
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    match (Place::parse(&args.from)?, Place::parse(&args.to)?) {
        (Place::Here(from), Place::Pod { namespace, pod, path }) => {
            let source = Source::open(from)?;
            let name = base_name(from);
            let command = ["sh", "-c", TAKE, "sh", path, &name, &source.kind];
            let stream = start(&args, namespace, pod, &command, true, terminal).await?;
            source.send(stream).await
        }
        (Place::Pod { namespace, pod, path }, Place::Here(to)) => {
            let command = ["sh", "-c", GIVE, "sh", path];
            let stream = start(&args, namespace, pod, &command, false, terminal).await?;
            receive(stream, to, &base_name(Path::new(path))).await
        }
        _ => Err(Failure::local("one of src or dest must be a local file specification, the other one POD:PATH")),
    }
}

/// The last name of a path; empty where it has none, as `/`.
fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

async fn start(
    args: &Args,
    namespace: Option<&str>,
    pod: &str,
    command: &[&str],
    stdin: bool,
    terminal: &Terminal,
) -> Outcome<ClientStream> {
    let session = Session::connect(&args.bus).await?;
    let namespace = namespace.unwrap_or(&args.namespace.namespace);
    let pod: Pod = typed(&session.api.get(Some(namespace), "pods", pod).await?)?;
    let container = process::container(args.container.as_deref(), &pod, "copy files of", terminal)?;
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    exec::open(&session, &pod, proto::ExecRequest { container, command, stdin, ..Default::default() }).await
}

/// `tar` of this machine. What it makes belongs to who runs it, without the bits that would let others be them.
fn tar(directory: &Path, arguments: &[&str]) -> Command {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(directory).args(arguments).kill_on_drop(true);
    tar
}

fn not_started(error: std::io::Error) -> Failure {
    Failure::local("cannot start tar, which copies directories").because(error)
}

/// What a tar that ran here made of it.
fn ended(status: std::io::Result<ExitStatus>) -> Outcome {
    match status? {
        status if status.success() => Ok(()),
        status => Err(Failure::local(format!("tar on this machine failed: {status}"))),
    }
}

/// What is copied into a container.
struct Source {
    /// `directory`, or a file's mode.
    kind: String,
    bytes: Box<dyn AsyncRead + Unpin>,
    tar: Option<Child>,
}

impl Source {
    fn open(path: &Path) -> Outcome<Self> {
        let unreadable = |error| Failure::local(format!("cannot read {}", path.display())).because(error);
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_dir() {
            let kind = format!("{:o}", metadata.permissions().mode() & 0o777);
            return Ok(Self { kind, bytes: Box::new(tokio::fs::File::from_std(file)), tar: None });
        }
        let mut tar = tar(path, &["-cf", "-", "."]).stdout(Stdio::piped()).spawn().map_err(not_started)?;
        let bytes = tar.stdout.take().ok_or_else(|| Failure::local("tar has no output"))?;
        Ok(Self { kind: "directory".to_owned(), bytes: Box::new(bytes), tar: Some(tar) })
    }

    async fn send(mut self, stream: ClientStream) -> Outcome {
        let (mut chunks, frames) = stream.split();
        let feed = async {
            match feed(&mut self.bytes, frames).await {
                // Now it is for the container to say how it ended.
                Ok(()) => std::future::pending().await,
                Err(failure) => failure,
            }
        };
        tokio::select! {
            ended = end_of(&mut chunks) => ended?,
            failure = feed => return Err(failure),
        }
        match &mut self.tar {
            Some(tar) => ended(tar.wait().await),
            None => Ok(()),
        }
    }
}

/// Sends all bytes. That the stream has ended shows on its other half.
async fn feed(bytes: &mut (impl AsyncRead + Unpin), mut frames: ClientWriter) -> Outcome {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        let count = bytes.read_buf(&mut buffer).await?;
        let sent = if count == 0 { frames.eof().await } else { frames.data(buffer.split().freeze()).await };
        if count == 0 || sent.is_err() {
            return Ok(());
        }
    }
}

/// Waits for the end of a command that says nothing but errors.
async fn end_of(chunks: &mut ClientReader) -> Outcome {
    while let Some(chunk) = chunks.next().await {
        if let Some(ended) = end_or_error(&chunk?)? {
            return ended;
        }
    }
    Err(cut_short())
}

/// The end of a command, if this is it; its errors go to ours.
fn end_or_error(chunk: &proto::Chunk) -> Outcome<Option<Outcome>> {
    Ok(match (chunk.kind(), &chunk.error, chunk.exit_code) {
        (chunk::Kind::Stderr, ..) => {
            std::io::Write::write_all(&mut std::io::stderr().lock(), &chunk.data)?;
            None
        }
        (chunk::Kind::End, Some(error), _) => Some(Err(stream_error(error))),
        (chunk::Kind::End, None, 0) => Some(Ok(())),
        (chunk::Kind::End, None, code) => {
            Some(Err(Failure::local(format!("command in the container terminated with exit code {code}"))))
        }
        _ => None,
    })
}

fn cut_short() -> Failure {
    Failure::local("the stream ended before the copy did").hint("did its node or the pod go away?")
}

/// Where a copy out of a container goes.
struct Sink {
    bytes: Box<dyn AsyncWrite + Unpin>,
    tar: Option<Child>,
}

impl Sink {
    /// `kind` is `directory`, or a file's mode; `name` what the copy is called in a directory that is there.
    fn open(kind: &str, to: &Path, name: &str) -> Outcome<Self> {
        let to: PathBuf = if to.is_dir() { to.join(name) } else { to.to_owned() };
        let unwritable = |error| Failure::local(format!("cannot write {}", to.display())).because(error);
        if kind == "directory" {
            std::fs::create_dir_all(&to).map_err(unwritable)?;
            let arguments = ["--no-same-owner", "--no-same-permissions", "-xf", "-"];
            let mut tar = tar(&to, &arguments).stdin(Stdio::piped()).spawn().map_err(not_started)?;
            let bytes = tar.stdin.take().ok_or_else(|| Failure::local("tar has no input"))?;
            return Ok(Self { bytes: Box::new(bytes), tar: Some(tar) });
        }
        let mode = u32::from_str_radix(kind, 8).map_err(|_| Failure::local(format!("`{kind}` is no file's mode")))?;
        let file = std::fs::File::create(&to).map_err(unwritable)?;
        file.set_permissions(Permissions::from_mode(mode & 0o777)).map_err(unwritable)?;
        Ok(Self { bytes: Box::new(tokio::fs::File::from_std(file)), tar: None })
    }

    async fn write(&mut self, bytes: &Bytes) -> Outcome {
        // A tar that has left says why itself: not the quiet end of a pipe to whoever reads our output.
        let written = self.bytes.write_all(bytes).await;
        written.map_err(|error| Failure::local("cannot write what comes out of the container").because(error))
    }

    async fn finish(mut self) -> Outcome {
        self.bytes.shutdown().await?;
        drop(self.bytes);
        match &mut self.tar {
            Some(tar) => ended(tar.wait().await),
            None => Ok(()),
        }
    }
}

async fn receive(mut stream: ClientStream, to: &Path, name: &str) -> Outcome {
    let (mut head, mut sink) = (BytesMut::new(), None::<Sink>);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        match (chunk.kind(), &mut sink) {
            (chunk::Kind::Stdout, Some(sink)) => sink.write(&chunk.data).await?,
            (chunk::Kind::Stdout, None) => {
                head.extend_from_slice(&chunk.data);
                if let Some(end) = head.iter().take(HEAD_BYTES_MAX).position(|byte| *byte == b'\n') {
                    let rest = head.split_off(end + 1).freeze();
                    let mut opened = Sink::open(String::from_utf8_lossy(&head[..end]).trim_end(), to, name)?;
                    opened.write(&rest).await?;
                    sink = Some(opened);
                } else if head.len() >= HEAD_BYTES_MAX {
                    return Err(Failure::local("the container does not say what it sends"));
                }
            }
            _ => {
                if let Some(ended) = end_or_error(&chunk)? {
                    ended?;
                    return match sink {
                        Some(sink) => sink.finish().await,
                        None => Err(cut_short()),
                    };
                }
            }
        }
    }
    Err(cut_short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_pod_before_a_colon_is_in_it_and_all_else_is_here() {
        let pod = |namespace, pod, path| Place::Pod { namespace, pod, path };
        for (text, place) in [
            ("web:/etc/hosts", pod(None, "web", "/etc/hosts")),
            ("web:page.html", pod(None, "web", "page.html")),
            ("team-a/web:/a:b", pod(Some("team-a"), "web", "/a:b")),
            ("page.html", Place::Here(Path::new("page.html"))),
            ("./a:b", Place::Here(Path::new("./a:b"))),
            ("/tmp/a:b", Place::Here(Path::new("/tmp/a:b"))),
        ] {
            assert_eq!(Place::parse(text).unwrap(), place, "{text}");
        }
        for text in ["web:", ":x", "a/:/x", "a/b/web:/x"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
