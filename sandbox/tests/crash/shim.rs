//! `kill -9` of shims, of the spawner, and of processes on their way into a container, at every step of theirs.

use super::scene::{Request, Scene};
use super::tracer::{Doom, Follow};
use super::truth::assert_states_are_true;
use crate::runtime::host::{Host, with_networks};

/// Sends a request, and kills who makes the first step for it, the second, and so on; the daemon lives, and tells what is.
fn killed_at_every_step(request: Request, who: impl Fn(&Host) -> i32) {
    with_so_much_in_advance(1, request, who);
}

fn with_so_much_in_advance(ready: usize, request: Request, who: impl Fn(&Host) -> i32) {
    with_networks(ready, |mut host: Host| async move {
        let daemon = host.daemon_pid();
        for points in 0.. {
            let mut scene = Scene::set(&mut host, request).await;
            host.wait_for_spares().await;
            let doom = Doom::on(who(&host), points, Follow::Children);
            let answer = scene.send(&mut host).await;
            let death = doom.call_off();
            assert_states_are_true(&mut host).await;
            scene.check_survivors(&mut host, answer.is_ok()).await;
            scene.clear(&mut host).await;
            host.assert_nothing_is_left().await;
            eprintln!("{request:?}, point {points}: {}", death.as_deref().unwrap_or("after the answer"));
            assert_eq!(host.daemon_pid(), daemon);
            if death.is_none() {
                answer.unwrap();
                assert!(points > 0, "the request did nothing");
                return host;
            }
        }
        unreachable!("points without end")
    });
}

#[test]
fn run_pod_sandbox() {
    with_so_much_in_advance(0, Request::RunPodSandbox, Host::spawner);
}

#[test]
fn run_pod_sandbox_of_a_shim_made_in_advance() {
    killed_at_every_step(Request::RunPodSandbox, |host| host.spares()[0]);
}

#[test]
fn stop_pod_sandbox() {
    killed_at_every_step(Request::StopPodSandbox, |host| host.shims()[0]);
}

#[test]
fn start_container() {
    killed_at_every_step(Request::StartContainer, |host| host.shims()[0]);
}

#[test]
fn stop_container() {
    killed_at_every_step(Request::StopContainer, |host| host.shims()[0]);
}

#[test]
fn reopen_container_log() {
    killed_at_every_step(Request::ReopenContainerLog, |host| host.shims()[0]);
}

#[test]
fn exec_sync() {
    killed_at_every_step(Request::ExecSync, |host| host.shims()[0]);
}
