//! Processes in containers that somebody asked for: with the container's user, environment and limits, never more.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use podbus_sandbox_linux::message::{Message, kind};
use podbus_sandbox_linux::plan::tag;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::{Container, Outcome, Runtime, RuntimeError, doing};
use crate::cgroup::Door;
use crate::link::{ExecEnd, Link};
use crate::plan::Draft;
use crate::process::Invalid;
use crate::record::ProcessBody;

/// What ExecSync keeps of each stream; together they fit into a message.
const OUTPUT_BYTES_MAX: usize = 7 << 20;
/// How long output is waited for when the process has ended but something it left holds the pipe.
const DRAIN: Duration = Duration::from_secs(2);

/// A process that runs in a container. Dropping it kills the process and all that it started.
pub(crate) struct Exec {
    pub(super) number: u64,
    pub(super) link: Arc<Link>,
    pub(super) ended: oneshot::Receiver<ExecEnd>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) cgroup: String,
    pub(super) is_ended: bool,
}

/// The standard descriptors that the process gets.
pub(crate) enum Standard {
    /// A terminal of the container's own.
    Terminal,
    /// These.
    Pipes {
        /// `None`: nothing to read.
        input: Option<OwnedFd>,
        output: OwnedFd,
        error: OwnedFd,
    },
}

impl Runtime {
    /// Starts `command` in a container; the other side of its terminal, where it has one.
    pub(crate) async fn exec(
        self: &Arc<Self>,
        container: &Container,
        command: &[String],
        standard: Standard,
    ) -> Outcome<(Exec, Option<OwnedFd>)> {
        if command.is_empty() || command.iter().any(|word| word.contains('\0')) {
            return Err(Invalid("no command, or one with a NUL byte".to_owned()).into());
        }
        if !container.is_running() {
            return Err(RuntimeError::WrongState(format!("the container {} is not running", container.body.id)));
        }
        if let Some(handler) = &container.sandbox().body.handler {
            return self.exec_by_handler(container, handler, command, standard).await;
        }
        let link = container.sandbox().link()?;
        let number = self.execs.fetch_add(1, Ordering::Relaxed);
        let path = container.cgroup(container.sandbox());
        let name = format!("exec-{number}");
        let door = self.cgroups.open_exec_door(&path, &name)?;
        let plan = exec_plan(container, command, &standard, &door).seal().map_err(doing("write the plan"))?;
        let exec = Exec {
            number,
            ended: link.expect_exec(number),
            link: Arc::clone(&link),
            runtime: Arc::clone(self),
            cgroup: format!("{path}/{name}"),
            is_ended: false,
        };
        let message = Message { kind: kind::EXEC, number, text: container.body.id.as_bytes(), ..Message::default() };
        let answer = link.request(message, plan.fds()).await?;
        drop(standard); // our copies of its ends: their end has to be the end of the process
        Ok((exec, answer.fds.into_iter().next()))
    }

    /// Runs a command to its end: output, errors, exit code.
    pub(crate) async fn exec_sync(
        self: &Arc<Self>,
        container: &Container,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Outcome<(Vec<u8>, Vec<u8>, i32)> {
        let (out_sender, out) = pipe().map_err(doing("make a pipe"))?;
        let (err_sender, err) = pipe().map_err(doing("make a pipe"))?;
        let standard = Standard::Pipes { input: None, output: out_sender, error: err_sender };
        let (mut exec, _) = self.exec(container, command, standard).await?;
        let out = tokio::spawn(collect(out));
        let err = tokio::spawn(collect(err));
        let ended = match timeout {
            Some(limit) => tokio::time::timeout(limit, exec.wait()).await.map_err(|_| {
                RuntimeError::Deadline(format!("the command did not end within {limit:?}: {command:?}"))
            })?,
            None => exec.wait().await,
        };
        let drained = |task: tokio::task::JoinHandle<Vec<u8>>| async move {
            tokio::time::timeout(DRAIN, task).await.ok().and_then(Result::ok).unwrap_or_default()
        };
        let (code, _) = ended?;
        Ok((drained(out).await, drained(err).await, code))
    }
}

/// The process that runs `command` as the container's own would.
pub(super) fn exec_process(container: &Container, command: &[String], standard: &Standard) -> ProcessBody {
    let mut process = container.body.process.clone().unwrap_or_default();
    process.arguments = command.iter().map(|word| word.clone().into_bytes()).collect();
    process.terminal = matches!(standard, Standard::Terminal);
    if process.terminal && !process.environment.iter().any(|entry| entry.starts_with(b"TERM=")) {
        process.environment.push(b"TERM=xterm".to_vec());
    }
    process
}

fn exec_plan(container: &Container, command: &[String], standard: &Standard, door: &Door) -> Draft {
    let process = exec_process(container, command, standard);
    let mut draft = Draft::default();
    draft.process(&process);
    draft.owner(container.sandbox().mapping(), process.user);
    draft.door(door);
    draft.bytes(tag::TARGET, &container.body.id);
    draft.bytes(tag::OOM_SCORE, container.resources().oom_score_adj.to_string());
    if let Standard::Pipes { input, output, error } = standard {
        if let Some(input) = input {
            draft.fd(tag::FD_STDIN, input.as_raw_fd());
        }
        draft.fd(tag::FD_STDOUT, output.as_raw_fd());
        draft.fd(tag::FD_STDERR, error.as_raw_fd());
    }
    draft
}

impl Exec {
    /// Waits for the end: exit code and signal. May be dropped and called again.
    pub(crate) async fn wait(&mut self) -> Outcome<ExecEnd> {
        let ended = (&mut self.ended).await;
        self.is_ended = true;
        ended.map_err(|_| RuntimeError::Link(crate::link::LinkError::Gone))
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let (link, runtime, number) = (Arc::clone(&self.link), Arc::clone(&self.runtime), self.number);
        let (cgroup, is_ended) = (std::mem::take(&mut self.cgroup), self.is_ended);
        tokio::spawn(async move {
            if !is_ended {
                let message = Message { kind: kind::EXEC_KILL, number, ..Message::default() };
                if let Err(error) = link.request(message, &[]).await {
                    tracing::debug!(%error, "cannot kill a process by its shim");
                }
            }
            if let Err(error) = runtime.cgroups.remove(&cgroup).await {
                tracing::debug!(%error, "the cgroup of a process that ended is still there");
            }
        });
    }
}

/// The end for the process, and ours to read.
fn pipe() -> std::io::Result<(OwnedFd, pipe::Receiver)> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((theirs, pipe::Receiver::from_owned_fd(ours)?))
}

/// Reads to the end, keeps the beginning.
async fn collect(mut source: pipe::Receiver) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = source.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}
