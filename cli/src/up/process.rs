//! One process that `up` keeps running: started again when it dies, later each time that it dies soon.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// In the environment of each process of a cluster: the state directory. By it a later `up` knows them again.
pub(crate) const MARKER: &str = "PODBUS_STATE_DIR";
/// A process that ran so long starts again at once when it dies.
const STEADY: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long a process may take to end when asked to; then it is killed.
const STOP_MAX: Duration = Duration::from_secs(5);
/// A process that failed so often in a row will not come up by itself.
pub(crate) const FAILURES_MAX: u32 = 6;
/// A log that is longer at a start is set aside, and the one set aside before is dropped.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Between two looks for a socket.
const SOCKET_RETRY: Duration = Duration::from_millis(10);
/// How much of a log's end an error quotes.
const TAIL_BYTES: u64 = 4 << 10;
const TAIL_LINES: usize = 8;

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments, after its own name.
    pub(crate) arguments: Vec<OsString>,
    /// Where stdout and stderr go.
    pub(crate) log: PathBuf,
    /// The cluster's state directory.
    pub(crate) state_dir: PathBuf,
    /// A unix socket on which somebody must listen first.
    pub(crate) needs: Option<PathBuf>,
}

/// How a process does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// Its process ID while it runs.
    pub(crate) pid: Option<u32>,
    /// How often it was started.
    pub(crate) starts: u32,
    /// How often in a row it ended soon.
    pub(crate) failures: u32,
    /// How it ended last.
    pub(crate) ended: Option<String>,
    /// Where in its log the last start begins.
    pub(crate) log_start: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Stop,
    Kill,
}

/// A process under supervision. Dropping this leaves the process running, and alone.
#[derive(Debug)]
pub(crate) struct Supervised {
    log: PathBuf,
    orders: watch::Sender<Order>,
    life: watch::Receiver<Life>,
}

impl Supervised {
    /// Takes `spec` under supervision; it does not run before [`Self::start`].
    pub(crate) fn new(spec: Spec) -> Self {
        let (orders, orders_rx) = watch::channel(Order::Stop);
        let (life_tx, life) = watch::channel(Life::default());
        let log = spec.log.clone();
        tokio::spawn(supervise(spec, orders_rx, life_tx));
        Self { log, orders, life }
    }

    /// Has it run from now on.
    pub(crate) fn start(&self) {
        self.orders.send_replace(Order::Run);
    }

    /// Ends it and returns when it has ended: SIGTERM and, when it does not heed that, SIGKILL.
    pub(crate) async fn stop(&self) {
        self.end(Order::Stop).await;
    }

    /// Ends it by SIGKILL.
    pub(crate) async fn kill(&self) {
        self.end(Order::Kill).await;
    }

    async fn end(&self, order: Order) {
        self.orders.send_replace(order);
        // An error means that its task has gone, and so the process.
        let _ = self.life.clone().wait_for(|life| life.pid.is_none()).await;
    }

    /// Until it listens on `socket`, or has failed to start several times.
    pub(crate) async fn wait_listening(&self, socket: &Path) {
        let mut life = self.life.clone();
        tokio::select! {
            () = wait_socket(socket) => {}
            _ = life.wait_for(|life| life.failures >= FAILURES_MAX) => {}
        }
    }

    /// Whether it is to run.
    pub(crate) fn is_wanted(&self) -> bool {
        *self.orders.borrow() == Order::Run
    }

    /// How it does.
    pub(crate) fn life(&self) -> Life {
        self.life.borrow().clone()
    }

    /// The last lines that it logged.
    pub(crate) fn log_tail(&self) -> String {
        log_tail(&self.log, self.life.borrow().log_start)
    }
}

async fn supervise(spec: Spec, mut orders: watch::Receiver<Order>, life: watch::Sender<Life>) {
    while orders.wait_for(|order| *order == Order::Run).await.is_ok() {
        if let Some(socket) = &spec.needs {
            tokio::select! {
                () = wait_socket(socket) => {}
                _ = orders.wait_for(|order| *order != Order::Run) => continue,
            }
        }
        let started = Instant::now();
        life.send_modify(|life| life.log_start = std::fs::metadata(&spec.log).map_or(0, |meta| meta.len()));
        let ended = match spec.spawn() {
            Ok(child) => {
                life.send_modify(|life| {
                    life.pid = child.id();
                    life.starts += 1;
                });
                run(child, &mut orders).await
            }
            Err(error) => Some(format!("cannot be started: {error}")),
        };
        let failures = if started.elapsed() >= STEADY { 1 } else { life.borrow().failures.saturating_add(1) };
        let asked = ended.is_none();
        life.send_modify(|life| {
            life.pid = None;
            life.ended = ended;
            life.failures = if asked { 0 } else { failures };
        });
        if !asked {
            // An error means that nobody supervises any more; the loop's head sees that.
            let _ = timeout(delay(failures), orders.wait_for(|order| *order != Order::Run)).await;
        }
    }
}

/// Until the process ends. `None` when it was asked to.
async fn run(mut child: Child, orders: &mut watch::Receiver<Order>) -> Option<String> {
    let order = tokio::select! {
        status = child.wait() => return Some(status.map_or_else(|error| error.to_string(), describe)),
        order = orders.wait_for(|order| *order != Order::Run) => order.map(|order| *order),
    };
    let Ok(order) = order else {
        // Supervision ends, the process does not.
        return None;
    };
    if order == Order::Stop {
        signal(&child, Signal::SIGTERM);
        if timeout(STOP_MAX, child.wait()).await.is_ok() {
            return None;
        }
    }
    signal(&child, Signal::SIGKILL);
    let _ = child.wait().await;
    None
}

fn signal(child: &Child, signal: Signal) {
    // The ID is this child's until it is waited for; that it has just ended is no error.
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// What came before this start counts: 0, 0.2, 0.4, 0.8 ... 5 s.
fn delay(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => BACKOFF_MIN.saturating_mul(1 << (n - 2).min(16)).min(BACKOFF_MAX),
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

impl Spec {
    fn spawn(&self) -> std::io::Result<Child> {
        let log = open_log(&self.log)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env(MARKER, &self.state_dir)
            .env_remove("PODBUS_NATS_URL")
            .env_remove(super::URL_VARIABLE)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C in the terminal is for `up` alone, which stops the pods before the services.
            .process_group(0)
            .current_dir("/");
        command.spawn()
    }
}

/// Opens a log for appending.
pub(crate) fn open_log(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(directory) = path.parent() {
        fs_err::create_dir_all(directory)?;
    }
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
        fs_err::rename(path, path.with_extension("log.1"))?;
    }
    File::options().create(true).append(true).mode(0o640).open(path)
}

/// The last lines of a log after `start`; empty when there are none.
fn log_tail(path: &Path, start: u64) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES).max(start)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Until somebody listens on the socket. Nobody tells when that is, so it asks again and again.
pub(crate) async fn wait_socket(path: &Path) {
    while UnixStream::connect(path).await.is_err() {
        sleep(SOCKET_RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(directory: &Path, script: &str) -> Supervised {
        Supervised::new(Spec {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: directory.join("sh.log"),
            state_dir: directory.to_owned(),
            needs: None,
        })
    }

    async fn wait(process: &Supervised, condition: impl FnMut(&Life) -> bool) -> Life {
        let mut life = process.life.clone();
        timeout(Duration::from_secs(30), life.wait_for(condition)).await.expect("in time").unwrap().clone()
    }

    #[tokio::test]
    async fn what_dies_is_started_again_and_what_is_stopped_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let process = shell(directory.path(), "sleep 60");
        process.start();
        let first = wait(&process, |life| life.pid.is_some()).await.pid;
        kill(Pid::from_raw(i32::try_from(first.unwrap()).unwrap()), Signal::SIGKILL).unwrap();
        let second = wait(&process, |life| life.pid.is_some() && life.pid != first).await;
        assert_eq!((second.starts, second.ended.as_deref()), (2, Some("was killed by signal 9")));
        process.stop().await;
        assert!(process.life().pid.is_none() && !process.is_wanted());
        process.start();
        assert_eq!(wait(&process, |life| life.pid.is_some()).await.starts, 3);
        process.kill().await;
    }

    #[tokio::test]
    async fn a_process_that_fails_at_once_is_counted_and_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let process = shell(directory.path(), "echo no luck >&2; exit 7");
        process.start();
        let life = wait(&process, |life| life.failures >= 2).await;
        assert_eq!(life.ended.as_deref(), Some("ended with exit code 7"));
        assert!(process.log_tail().ends_with("no luck"));
        process.stop().await;
    }

    #[test]
    fn the_delay_grows_to_its_limit() {
        let ms: Vec<_> = (1..9).map(|n| delay(n).as_millis()).collect();
        assert_eq!(ms, [0, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
