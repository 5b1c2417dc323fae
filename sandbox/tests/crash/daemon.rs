//! `kill -9` of the daemon at every step of every request.

use super::scene::{Request, Scene};
use super::tracer::{Doom, Follow};
use super::truth::{assert_states_are_true, files};
use crate::runtime::host::{Host, with_networks};

/// Sends a request to a daemon that dies at the first point, to one that dies at the second, and so on: until one lives
/// to the answer, and dies then. Each time another daemon takes over.
fn killed_at_every_step(request: Request) {
    // Nothing made in advance: what the daemon does by itself would come between.
    with_so_much_in_advance(0, request);
}

fn with_so_much_in_advance(ready: usize, request: Request) {
    with_networks(ready, |mut host: Host| async move {
        let empty = files(&host.path("state/images"));
        for points in 0.. {
            let mut scene = Scene::set(&mut host, request).await;
            host.wait_for_spares().await;
            let doom = Doom::on(host.daemon_pid(), points, Follow::Threads);
            let answer = scene.send(&mut host).await;
            let death = doom.call_off();
            host.kill_daemon();
            eprintln!("{request:?}, point {points}: {}", death.as_deref().unwrap_or("after the answer"));
            host.run_daemon().await;
            scene.check(&mut host, answer.is_ok()).await;
            assert_states_are_true(&mut host).await;
            scene.repeat(&mut host).await;
            scene.clear(&mut host).await;
            host.assert_nothing_is_left().await;
            let left: Vec<_> = files(&host.path("state/images")).difference(&empty).cloned().collect();
            assert!(left.is_empty(), "left in the image store: {left:?}");
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
    killed_at_every_step(Request::RunPodSandbox);
}

#[test]
fn run_pod_sandbox_of_what_was_made_in_advance() {
    with_so_much_in_advance(1, Request::RunPodSandbox);
}

#[test]
fn stop_pod_sandbox() {
    killed_at_every_step(Request::StopPodSandbox);
}

#[test]
fn remove_pod_sandbox() {
    killed_at_every_step(Request::RemovePodSandbox);
}

#[test]
fn create_container() {
    killed_at_every_step(Request::CreateContainer);
}

#[test]
fn start_container() {
    killed_at_every_step(Request::StartContainer);
}

#[test]
fn stop_container() {
    killed_at_every_step(Request::StopContainer);
}

#[test]
fn remove_container() {
    killed_at_every_step(Request::RemoveContainer);
}

#[test]
fn update_container_resources() {
    killed_at_every_step(Request::UpdateContainerResources);
}

#[test]
fn reopen_container_log() {
    killed_at_every_step(Request::ReopenContainerLog);
}

#[test]
fn exec_sync() {
    killed_at_every_step(Request::ExecSync);
}

#[test]
fn pull_image() {
    killed_at_every_step(Request::PullImage);
}

#[test]
fn load() {
    killed_at_every_step(Request::Load);
}

#[test]
fn remove_image() {
    killed_at_every_step(Request::RemoveImage);
}
