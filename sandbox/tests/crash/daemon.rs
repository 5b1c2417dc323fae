//! `kill -9` of the daemon at every step of every request.

use super::scene::Request;
use super::tracer::Follow;
use super::truth::assert_states_are_true;
use crate::runtime::cni::with_fakes;
use crate::runtime::handlers::with_handlers;
use crate::runtime::host::{Host, with_networks};

/// Nothing made in advance: what the daemon does by itself would come between.
fn killed_at_every_step(request: Request) {
    with_so_much_in_advance(0, request);
}

fn with_so_much_in_advance(ready: usize, request: Request) {
    with_networks(ready, |host| on(host, request));
}

/// Pods have the networks of plugins.
fn with_plugins(request: Request) {
    with_networks(0, |mut host| async move {
        with_fakes(&mut host).await;
        on(host, request).await
    });
}

/// Containers are made by a runtime handler.
fn by_handler(request: Request) {
    with_networks(0, |mut host| async move {
        with_handlers(&mut host, "chroot").await;
        on(host, request).await
    });
}

/// One that lives to the answer dies then. Each time another daemon takes over.
async fn on(host: Host, request: Request) -> Host {
    super::killed_at_every_step(host, request, Follow::Threads, Host::daemon_pid, async |host, scene, answered| {
        host.kill_daemon();
        host.run_daemon().await;
        scene.check(host, answered).await;
        assert_states_are_true(host).await;
        scene.repeat(host).await;
    })
    .await
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
fn run_pod_sandbox_with_plugins() {
    with_plugins(Request::RunPodSandbox);
}

#[test]
fn stop_pod_sandbox() {
    killed_at_every_step(Request::StopPodSandbox);
}

#[test]
fn stop_pod_sandbox_with_plugins() {
    with_plugins(Request::StopPodSandbox);
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
fn start_container_by_a_handler() {
    by_handler(Request::StartContainer);
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
