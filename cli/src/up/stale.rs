//! Services that an `up` which was killed left running: found, proven to be ours, and ended.
//!
//! No process ID is read from a disk. A process is ours when its environment names our state directory and its
//! arguments are a service's; it is held by a descriptor before that is read, so the signal can meet no other process.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::MARKER;

/// How long they have to end by themselves.
const STOP_MAX: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// A service that runs without a supervisor.
#[derive(Debug)]
pub(crate) struct Stale {
    pidfd: OwnedFd,
}

/// Finds the services of the cluster whose state is in `state_dir`.
pub(crate) fn find(state_dir: &Path) -> Vec<Stale> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| look(pid, state_dir))
        .collect()
}

fn look(pid: i32, state_dir: &Path) -> Option<Stale> {
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    names_directory(&environment, state_dir).then_some(())?;
    is_service(&arguments).then_some(())?;
    // What was read could be of a later process only if the held one had ended by now.
    pidfd_send_signal(&pidfd, Signal::CONT).ok()?;
    Some(Stale { pidfd })
}

fn names_directory(environment: &[u8], state_dir: &Path) -> bool {
    let wanted = [MARKER.as_bytes(), b"=", state_dir.as_os_str().as_encoded_bytes()].concat();
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
}

/// Whether these arguments start a service: its shims and spawners have its environment too.
fn is_service(arguments: &[u8]) -> bool {
    let mut arguments = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program = arguments.next().unwrap_or_default();
    let first = arguments.next().unwrap_or_default();
    Path::new(&*program).file_name().is_some_and(|name| name == "nats-server")
        || ["scheduler", "node-agent", "sandbox"].contains(&&*first)
}

/// Ends them: SIGTERM and, for those that do not heed it, SIGKILL.
pub(crate) async fn end(services: Vec<Stale>) {
    if services.is_empty() {
        return;
    }
    for service in &services {
        // One that has ended meanwhile is as it should be.
        let _ = pidfd_send_signal(&service.pidfd, Signal::TERM);
    }
    // The wait blocks; an error would be its panic.
    let _ = tokio::task::spawn_blocking(move || {
        for service in &services {
            if !ends_within(&service.pidfd, &STOP_MAX) {
                let _ = pidfd_send_signal(&service.pidfd, Signal::KILL);
                ends_within(&service.pidfd, &STOP_MAX);
            }
        }
    })
    .await;
}

/// Whether the process ends in time: then its descriptor becomes readable.
fn ends_within(pidfd: &OwnedFd, limit: &Timespec) -> bool {
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(limit)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn a_service_is_known_by_its_arguments() {
        assert!(is_service(b"/usr/bin/podbus\0sandbox\0--state-dir\0/s\0"));
        assert!(is_service(b"/usr/sbin/nats-server\0-c\0/s/nats.conf\0"));
        for other in [&b"podbus\0up\0--state-dir\0/s\0"[..], b"podbus-shim\0", b"pause\0", b""] {
            assert!(!is_service(other));
        }
    }

    #[tokio::test]
    async fn only_processes_that_name_the_directory_are_found_and_ended() {
        let directory = tempfile::tempdir().unwrap();
        let server = directory.path().join("nats-server");
        std::os::unix::fs::symlink("/bin/sh", &server).unwrap();
        let spawn = |marker: &Path| {
            Command::new(&server).args(["-c", "read line"]).stdin(Stdio::piped()).env(MARKER, marker).spawn().unwrap()
        };
        let (mut ours, mut other) = (spawn(directory.path()), spawn(Path::new("/elsewhere")));
        // A process that is just being made has no environment yet.
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut found = find(directory.path());
        while found.is_empty() && Instant::now() < deadline {
            found = find(directory.path());
        }
        assert_eq!(found.len(), 1);
        end(found).await;
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
