//! `kill -9` of a daemon at every step of its start.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use podbus_common_cri::runtime::PodSandboxState;

use super::scene::{Request, Scene};
use super::tracer::{Doom, Follow};
use super::truth::{assert_states_are_true, files};
use crate::runtime::host::{Host, is_alive, until, wait_until, with_networks};

/// What the dead daemon had in hand, one after the other.
const IN_HAND: [Request; 9] = [
    Request::RunPodSandbox,
    Request::CreateContainer,
    Request::StartContainer,
    Request::StopContainer,
    Request::RemoveContainer,
    Request::StopPodSandbox,
    Request::RemovePodSandbox,
    Request::Load,
    Request::RemoveImage,
];
/// How many steps further it was with that each time around: to the end of the longest by the last point of a start.
const STEPS: usize = 3;

#[test]
fn over_what_a_dead_one_left() {
    with_networks(1, |mut host| async move {
        host.wait_for_spares().await;
        let before = state(&host);
        for points in 0.. {
            let (around, at) = (points / IN_HAND.len(), points % IN_HAND.len());
            let mut scene = Scene::set(&mut host, IN_HAND[at]).await;
            let witness = Witness::set(&mut host).await;
            host.wait_for_spares().await;
            let doom = Doom::on(host.daemon_pid(), around * STEPS, Follow::Threads);
            let answer = scene.send(&mut host).await;
            let first = doom.call_off();
            host.kill_daemon();
            witness.end(0);
            let second = start_and_die(&mut host, points, || witness.end(1)).await;
            eprintln!("{:?}, {}; point {points}: {}", IN_HAND[at], told(&first), told(&second));
            host.run_daemon().await;
            witness.check(&mut host).await;
            scene.check(&mut host, answer.is_ok()).await;
            assert_states_are_true(&mut host).await;
            scene.clear(&mut host).await;
            host.remove_pod(&witness.pod).await;
            assert_only_itself_is_left(&host, &before).await;
            if second.is_none() {
                return host;
            }
        }
        unreachable!("points without end")
    });
}

#[test]
fn on_an_empty_state_directory() {
    with_networks(1, |mut host| async move {
        empty(&mut host);
        host.run_daemon().await;
        host.wait_for_spares().await;
        let before = state(&host);
        for points in 0.. {
            empty(&mut host);
            let death = start_and_die(&mut host, points, || {}).await;
            eprintln!("point {points}: {}", told(&death));
            host.run_daemon().await;
            let pod = host.run_pod("web").await;
            assert_eq!(host.pod_status(&pod).await.state(), PodSandboxState::SandboxReady);
            assert_states_are_true(&mut host).await;
            host.remove_pod(&pod).await;
            assert_only_itself_is_left(&host, &before).await;
            if death.is_none() {
                return host;
            }
        }
        unreachable!("points without end")
    });
}

/// Starts a daemon that dies after so many points, where it does before it serves and has made all in advance. One
/// that lives to that dies then. `meanwhile` is called when it has begun.
async fn start_and_die(host: &mut Host, points: usize, meanwhile: impl FnOnce()) -> Option<String> {
    let old = host.spare_pauses(); // which may not have left yet
    let stdin = host.spawn_daemon(Stdio::piped());
    let doom = Doom::on(host.daemon_pid(), points, Follow::Threads);
    drop(stdin);
    meanwhile();
    let has_died = || !is_alive(host.daemon_pid());
    wait_until("all is made in advance", || has_died() || host.spare_pauses().iter().any(|it| !old.contains(it))).await;
    // Last: it takes steps for whom it serves.
    wait_until("the daemon serves", || has_died() || UnixStream::connect(host.socket()).is_ok()).await;
    let lived = is_alive(host.daemon_pid());
    let death = doom.call_off();
    assert!(lived || death.is_some(), "the daemon ended by itself:\n{}", host.daemon_log());
    host.kill_daemon();
    death
}

fn told(death: &Option<String>) -> &str {
    death.as_deref().unwrap_or("at the end")
}

/// A pod that runs all the time, of whose containers one does so too. Containers with their process ids.
struct Witness {
    pod: String,
    pause: i32,
    runs: (String, i32),
    end: [(String, i32); 2],
}

impl Witness {
    async fn set(host: &mut Host) -> Self {
        let pod = host.run_pod("witness").await;
        let mut containers = Vec::new();
        for name in ["runs", "first", "second"] {
            let id = host.run(&pod, name, "while ! [ -e /tmp/go ]; do sleep 0.02; done; exit 9").await;
            let pid = host.pid(&id).await;
            containers.push((id, pid));
        }
        let [runs, first, second] = containers.try_into().unwrap();
        Self { pause: host.pause_pid(&pod).await, pod, runs, end: [first, second] }
    }

    /// Lets one of its containers end.
    fn end(&self, which: usize) {
        std::fs::write(format!("/proc/{}/root/tmp/go", self.end[which].1), "").unwrap();
    }

    async fn check(&self, host: &mut Host) {
        assert_eq!(host.pod_status(&self.pod).await.state(), PodSandboxState::SandboxReady);
        let pids = (host.pause_pid(&self.pod).await, host.pid(&self.runs.0).await);
        assert_eq!(pids, (self.pause, self.runs.1));
        assert!(is_alive(pids.0) && is_alive(pids.1), "what runs is dead");
        for (id, _) in &self.end {
            assert_eq!(host.exit(id).await.exit_code, 9);
        }
        assert_eq!(host.exec(&self.runs.0, "echo hi").await, ("hi\n".into(), 0));
    }
}

/// A new node, with a name that was another's.
fn empty(host: &mut Host) {
    host.kill_daemon();
    host.destroy();
    std::fs::remove_dir_all(host.path("state")).unwrap();
}

/// What a daemon without pods has on the disk, but for what it makes in advance.
fn state(host: &Host) -> BTreeSet<PathBuf> {
    let spares = host.path("state/spare");
    files(&host.path("state"))
        .into_iter()
        .filter(|path| path.parent().is_none_or(|it| !it.starts_with(&spares)))
        .collect()
}

/// Of all daemons there is nothing but what the last one has without a pod.
async fn assert_only_itself_is_left(host: &Host, before: &BTreeSet<PathBuf>) {
    host.assert_nothing_is_left().await;
    let after = state(host);
    let differs: Vec<&PathBuf> = after.symmetric_difference(before).collect();
    assert!(differs.is_empty(), "left or lost: {differs:?}");
    host.wait_for_spares().await;
    until(async || {
        let named = processes_of(&host.path("state"));
        // The spawner, and the shim of the spare.
        (named.len() == 2).then_some(()).ok_or_else(|| format!("processes are left: {named:?}"))
    })
    .await;
}

/// Spawners and shims, which share the words of their commands.
fn processes_of(state: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = entries.filter_map(|entry| {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        command.starts_with("podbus-spawner\0").then_some(command)
    });
    commands.filter(|command| command.split('\0').nth(1).is_some_and(|it| Path::new(it) == state)).collect()
}
