//! Pods and observations for tests: a case names what matters, the rest is hidden here.

use podbus_common::model::{Container, ObjectMeta, Pod, PodSpec, RestartPolicy, Timestamp};

use crate::hash::container_hash;
use crate::model::{ContainerObserved, DesiredPod, Exit, Observed, RunState, SandboxObserved};

/// A moment well after the epoch, so that nothing falls below it.
pub(crate) const START: i64 = 100_000;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::default().plus_seconds(START + seconds)
}

pub(crate) fn container(name: &str) -> Container {
    Container { name: name.into(), image: "busybox:1".into(), ..Container::default() }
}

pub(crate) fn sidecar(name: &str) -> Container {
    Container { restart_policy: Some(RestartPolicy::Always), ..container(name) }
}

pub(crate) fn pod(names: &[&str]) -> Pod {
    Pod {
        api_version: "v1".into(),
        kind: "Pod".into(),
        metadata: ObjectMeta {
            name: "web".into(),
            namespace: "default".into(),
            uid: "u-1".into(),
            ..ObjectMeta::default()
        },
        spec: PodSpec { containers: names.iter().map(|n| container(n)).collect(), ..PodSpec::default() },
        status: None,
    }
}

pub(crate) fn desired(pod: Pod) -> DesiredPod {
    DesiredPod { pod: pod.into(), generation: 1, stop: None }
}

pub(crate) fn with_resources(container: &mut Container, requests: &[(&str, &str)], limits: &[(&str, &str)]) {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    container.resources.requests = map(requests);
    container.resources.limits = map(limits);
}

pub(crate) fn sandbox(attempt: u32, ready: bool) -> SandboxObserved {
    let ip = Some("10.0.0.2".to_owned()).filter(|_| ready);
    SandboxObserved { id: format!("sb{attempt}"), attempt, ready, created_at: at(i64::from(attempt)), ip }
}

/// A run of `name` in sandbox `sb<sandbox>`.
pub(crate) fn run(name: &str, attempt: u32, sandbox: u32, state: RunState) -> ContainerObserved {
    ContainerObserved {
        id: format!("{name}-{attempt}"),
        name: name.into(),
        attempt,
        sandbox_id: format!("sb{sandbox}"),
        created_at: at(i64::from(attempt)),
        state,
        image: "busybox:1".into(),
        image_id: "sha256:1".into(),
        spec_hash: Some(container_hash(&container(name))),
    }
}

pub(crate) fn running() -> RunState {
    RunState::Running { started_at: at(1) }
}

pub(crate) fn exited(exit_code: i32) -> RunState {
    exited_at(exit_code, 10)
}

pub(crate) fn exited_at(exit_code: i32, seconds: i64) -> RunState {
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    RunState::Exited(Exit {
        exit_code,
        reason: reason.into(),
        message: String::new(),
        started_at: at(1),
        finished_at: at(seconds),
    })
}

/// One ready sandbox, attempt 0, and one run of each name in it.
pub(crate) fn observed(runs: &[(&str, RunState)]) -> Observed {
    Observed {
        sandboxes: vec![sandbox(0, true)],
        containers: runs.iter().map(|(name, state)| run(name, 0, 0, state.clone())).collect(),
    }
}
