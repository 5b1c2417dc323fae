//! Commands of a handler that the daemon runs itself: `start`, `kill`, `delete`. Each has a clean
//! environment, no descriptor of ours, and a deadline.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::record::HandlerBody;

/// What a handler finds in its environment, and nothing else.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a command may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// What is kept of a command's output: more than any message.
const OUTPUT_BYTES_MAX: u64 = 256 << 10;

/// Why a command of a handler failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("cannot run {}", binary.display())]
    Run { binary: PathBuf, source: std::io::Error },
    #[error("{} {command} did not end within {} s, and was killed", binary.display(), limit.as_secs())]
    Deadline { binary: PathBuf, command: String, limit: Duration },
    #[error("{} {command}: {message}", binary.display())]
    Failed { binary: PathBuf, command: String, message: String },
}

/// Where a handler keeps its state, and says what goes wrong.
pub(crate) struct Places<'a> {
    /// `--root`.
    pub(crate) root: &'a Path,
    /// `--log`: JSON lines.
    pub(crate) log: &'a Path,
}

/// The words of a command: `crun --root R --log L --log-format json create ID`.
pub(crate) fn words(handler: &HandlerBody, places: &Places<'_>, command: &[&str]) -> Vec<String> {
    let mut words = vec![handler.binary.clone()];
    words.extend(handler.options.iter().cloned());
    let path = |path: &Path| path.to_string_lossy().into_owned();
    words.extend(["--root".to_owned(), path(places.root), "--log".to_owned(), path(places.log)]);
    words.extend(["--log-format", "json"].map(str::to_owned));
    words.extend(command.iter().map(ToString::to_string));
    words
}

/// Runs a command to its end. What it says on a failure is in the error.
pub(crate) async fn run(handler: &HandlerBody, places: &Places<'_>, command: &[&str]) -> Result<(), CommandError> {
    let words = words(handler, places, command);
    let (code, _, error) = spawn(&words, &[], None, DEADLINE, command.first().unwrap_or(&"")).await?;
    if code == Some(0) {
        return Ok(());
    }
    Err(failed(handler, command.first().unwrap_or(&""), places.log, code, &error))
}

/// The error of a command that ended with `code`: its log says why, or else its standard error.
pub(crate) fn failed(
    handler: &HandlerBody,
    command: &str,
    log: &Path,
    code: Option<i32>,
    standard_error: &str,
) -> CommandError {
    let logged = std::fs::read_to_string(log).ok().and_then(|text| last_message(&text));
    let said = || standard_error.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned());
    let message = logged.or_else(said).unwrap_or_else(|| match code {
        Some(code) => format!("ended with code {code} and said nothing"),
        None => "was killed".to_owned(),
    });
    CommandError::Failed { binary: PathBuf::from(&handler.binary), command: command.to_owned(), message }
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    msg: String,
}

/// The last error in a log of JSON lines.
fn last_message(log: &str) -> Option<String> {
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let is_error = |line: &Line| ["", "error", "fatal"].contains(&line.level.as_str());
    lines.filter(is_error).map(|line| line.msg).next()
}

/// Runs a program: exit code, output and errors. It finds `PATH` and `environment`, and reads `input`. It has a process
/// group of its own, which is killed as a whole.
pub(crate) async fn spawn(
    words: &[String],
    environment: &[(&str, String)],
    input: Option<&[u8]>,
    limit: Duration,
    name: &str,
) -> Result<(Option<i32>, String, String), CommandError> {
    let binary = PathBuf::from(&words[0]);
    let (_, path) = PATH.split_once('=').unwrap_or_default();
    let mut child = Command::new(&binary)
        .args(&words[1..])
        .env_clear()
        .env("PATH", path)
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| CommandError::Run { binary: binary.clone(), source })?;
    let group = child.id();
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let ended = tokio::time::timeout(limit, async {
        let (output, error) = (collect(stdout), collect(stderr));
        let (status, output, error, ()) = tokio::join!(child.wait(), output, error, feed(stdin, input));
        (status, output, error)
    });
    match ended.await {
        Ok((Ok(status), output, error)) => Ok((status.code(), output, error)),
        Ok((Err(source), ..)) => Err(CommandError::Run { binary, source }),
        Err(_) => {
            // Not reaped yet, so that the group is still its own.
            if let Some(group) = group.and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            Err(CommandError::Deadline { binary, command: name.to_owned(), limit })
        }
    }
}

/// One that does not read all of it has its reasons, and tells them by its exit code.
async fn feed(stdin: Option<tokio::process::ChildStdin>, input: Option<&[u8]>) {
    if let (Some(mut stdin), Some(input)) = (stdin, input) {
        let _ = stdin.write_all(input).await;
    }
}

async fn collect(source: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(mut source) = source else { return String::new() };
    let mut kept = Vec::new();
    let _ = (&mut source).take(OUTPUT_BYTES_MAX).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut source, &mut tokio::io::sink()).await; // so that it never waits for us
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_command_has_a_clean_environment_and_no_descriptor_of_ours() {
        podbus_sandbox_linux::file::cloexec_from(3).unwrap(); // as the daemon does for what it was started with
        let kept = std::fs::File::open("/dev/null").unwrap();
        let (code, output, _) = spawn(&shell("env; ls /proc/self/fd | wc -l"), &[], None, DEADLINE, "x").await.unwrap();
        drop(kept);
        assert_eq!(code, Some(0));
        let lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("PWD=")).collect();
        assert_eq!(lines, [PATH, "4"], "three and that of the directory itself");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $! > {0}; echo $$ >> {0}; wait", pids.display());
        let error = spawn(&shell(&script), &[], None, Duration::from_millis(500), "create").await.unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh create did not end within 0 s, and was killed");
        let deadline = std::time::Instant::now() + DEADLINE;
        for pid in std::fs::read_to_string(pids).unwrap().lines() {
            let is_dead =
                || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
            while !is_dead() {
                assert!(std::time::Instant::now() < deadline, "{pid} lives");
                tokio::task::yield_now().await;
            }
        }
    }

    #[test]
    fn the_reason_of_a_failure_is_the_last_error_of_the_log() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"no such file\"}\nnot json\n";
        assert_eq!(last_message(log).as_deref(), Some("no such file"));
        assert_eq!(last_message("{\"msg\":\"bare\"}").as_deref(), Some("bare"));
        let handler = HandlerBody { binary: "/bin/x".into(), ..HandlerBody::default() };
        let error = failed(&handler, "create", Path::new("/nowhere"), Some(3), "first\nlast \n\n");
        assert_eq!(error.to_string(), "/bin/x create: last");
        let error = failed(&handler, "start", Path::new("/nowhere"), Some(3), "");
        assert_eq!(error.to_string(), "/bin/x start: ended with code 3 and said nothing");
    }
}
