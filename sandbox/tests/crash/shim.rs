//! `kill -9` of shims, of the spawner, and of processes on their way into a container, at every step of theirs.

use super::scene::Request;
use super::tracer::Follow;
use super::truth::assert_states_are_true;
use crate::runtime::host::{Host, with_networks};

fn killed_at_every_step(request: Request, who: impl Fn(&Host) -> i32) {
    with_so_much_in_advance(1, request, who);
}

/// The daemon lives, and tells what is.
fn with_so_much_in_advance(ready: usize, request: Request, who: impl Fn(&Host) -> i32) {
    with_networks(ready, |host| {
        super::killed_at_every_step(host, request, Follow::Children, who, async |host, scene, answered| {
            assert_states_are_true(host).await;
            scene.check_survivors(host, answered).await;
        })
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
