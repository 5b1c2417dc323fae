//! What is known of the node's pods by what passes between workers and agent. Pure: the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use podbus_common::model::{Pod, Timestamp};
use podbus_common::proto::{ContainerState, PodReport, SandboxState};
use podbus_common_telemetry::{Kind, Samples};

/// The node's pods, as their workers reported them last.
#[derive(Debug)]
pub(super) struct Pods {
    /// Of the agent: pods that ran before it did not start under it.
    began: Timestamp,
    held: BTreeMap<String, Held>,
}

#[derive(Debug)]
struct Held {
    at: Timestamp,
    created: Option<Timestamp>,
    containers: usize,
    runs_init_containers: bool,
    sandbox_ready: bool,
    running: usize,
    exited: usize,
    started: bool,
}

/// A pod that runs for the first time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) since_held: Duration,
    /// `None`: it had init containers to run first.
    pub(super) since_created: Option<Duration>,
}

impl Pods {
    pub(super) fn new(began: Timestamp) -> Self {
        Self { began, held: BTreeMap::new() }
    }

    pub(super) fn hold(&mut self, uid: &str, pod: &Pod, now: Timestamp) {
        self.held.entry(uid.to_owned()).or_insert_with(|| Held {
            at: now,
            created: pod.metadata.creation_timestamp,
            containers: pod.spec.containers.len(),
            runs_init_containers: !pod.spec.init_containers.is_empty(),
            sandbox_ready: false,
            running: 0,
            exited: 0,
            started: false,
        });
    }

    pub(super) fn end(&mut self, uid: &str) {
        self.held.remove(uid);
    }

    /// `Some`: all of its containers run now, for the first time.
    pub(super) fn report(&mut self, report: &PodReport, now: Timestamp) -> Option<Start> {
        let held = self.held.get_mut(&report.uid)?;
        let count = |state| report.containers.iter().filter(|container| container.state() == state).count();
        held.sandbox_ready = report.sandbox.as_ref().is_some_and(|s| s.state() == SandboxState::SandboxReady);
        held.running = count(ContainerState::ContainerRunning);
        held.exited = count(ContainerState::ContainerExited);
        // The report has init containers too, of which sidecars run on.
        if held.started || held.running < held.containers {
            return None;
        }
        held.started = true;
        let started_ms = report.containers.iter().map(|container| container.started_at_ms).max()?;
        (started_ms >= self.began.unix_ms).then(|| Start {
            since_held: between(held.at, now),
            since_created: held.created.filter(|_| !held.runs_init_containers).map(|created| between(created, now)),
        })
    }

    pub(super) fn read(&self, samples: &mut Samples) {
        let sum = |of: fn(&Held) -> usize| self.held.values().map(of).sum::<usize>() as u64;
        gauge(samples, "kubelet_running_pods", "Pods with a sandbox that is ready.", sum(|it| it.sandbox_ready.into()));
        let name = "kubelet_running_containers";
        samples.family(Kind::Gauge, name, "Containers, by their state.");
        for (state, count) in [("running", sum(|it| it.running)), ("exited", sum(|it| it.exited))] {
            #[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
            samples.add(name, vec![("container_state".into(), state.to_owned())], count as f64);
        }
        let help = "Pods that the node holds, whatever their state.";
        gauge(samples, "kubelet_desired_pods", help, self.held.len() as u64);
    }
}

pub(super) fn gauge(samples: &mut Samples, name: &'static str, help: &'static str, value: u64) {
    samples.family(Kind::Gauge, name, help);
    #[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
    samples.add(name, Vec::new(), value as f64);
}

/// Clocks of different machines may disagree: never less than nothing.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(to.unix_ms - from.unix_ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use podbus_common::proto::{ContainerStatus, SandboxStatus};
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1000)
    }

    fn pod(init: bool) -> Pod {
        let init = if init { json!([{"name": "i", "image": "i"}]) } else { json!([]) };
        let containers = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
        let metadata = json!({"name": "web", "uid": "u", "creationTimestamp": at(100).to_string()});
        serde_json::from_value(
            json!({"metadata": metadata, "spec": {"initContainers": init, "containers": containers}}),
        )
        .unwrap()
    }

    fn report(states: &[ContainerState], started_s: i64) -> PodReport {
        let container = |state: &ContainerState| ContainerStatus {
            state: (*state).into(),
            started_at_ms: started_s * 1000,
            ..Default::default()
        };
        let sandbox = SandboxStatus { state: SandboxState::SandboxReady.into(), ..Default::default() };
        let containers = states.iter().map(container).collect();
        PodReport { uid: "u".into(), sandbox: Some(sandbox), containers, ..Default::default() }
    }

    #[test]
    fn a_pod_has_started_once_all_of_its_containers_run() {
        use ContainerState::{ContainerRunning as Runs, ContainerWaiting as Waits};
        let mut pods = Pods::new(at(50));
        pods.hold("u", &pod(false), at(101));
        assert_eq!(pods.report(&report(&[Runs, Waits], 102), at(102)), None);
        let start = Start { since_held: Duration::from_secs(2), since_created: Some(Duration::from_secs(3)) };
        assert_eq!(pods.report(&report(&[Runs, Runs], 103), at(103)), Some(start));
        assert_eq!(pods.report(&report(&[Runs, Runs], 104), at(104)), None, "a restart is no start");
    }

    #[test]
    fn what_ran_before_this_agent_is_no_start_of_its_own() {
        let runs = [ContainerState::ContainerRunning; 2];
        let mut pods = Pods::new(at(200));
        pods.hold("u", &pod(false), at(201));
        assert_eq!(pods.report(&report(&runs, 103), at(201)), None);
    }

    #[test]
    fn init_containers_are_no_part_of_the_sli() {
        let runs = [ContainerState::ContainerRunning; 2];
        let mut pods = Pods::new(at(50));
        pods.hold("u", &pod(true), at(101));
        assert_eq!(pods.report(&report(&runs, 103), at(103)).unwrap().since_created, None);
    }

    #[test]
    fn counts_are_those_of_the_last_reports() {
        use ContainerState::{ContainerExited as Ended, ContainerRunning as Runs};
        let text = |pods: &Pods| {
            let mut samples = Samples::default();
            pods.read(&mut samples);
            samples.into_text()
        };
        let mut pods = Pods::new(at(50));
        pods.hold("u", &pod(false), at(101));
        pods.report(&report(&[Runs, Ended], 103), at(103));
        for line in ["kubelet_running_pods 1.0", "kubelet_running_containers{container_state=\"running\"} 1.0"] {
            assert!(text(&pods).lines().any(|found| found == line), "{line}");
        }
        pods.end("u");
        assert!(text(&pods).contains("kubelet_running_pods 0.0"));
    }
}
