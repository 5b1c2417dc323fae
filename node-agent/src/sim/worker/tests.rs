use std::sync::Arc;

use podbus_common::model::Pod;
use podbus_common::proto::{ContainerState, PodReport};
use podbus_node_agent_core::model::{AfterStop, Stop};

use super::*;

/// A pod and its world, with a clock that the test moves.
struct World {
    worker: Worker,
    behaviour: Behaviour,
    chance: Chance,
    ids: u64,
    slowness: f64,
    start: Instant,
    reports: Vec<PodReport>,
    others: Vec<Update>,
}

fn wanted(restart_policy: &str) -> Wanted {
    let pod = serde_json::json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u1"},
        "spec": {"restartPolicy": restart_policy, "containers": [{"name": "main", "image": "busybox"}]},
    });
    let json = serde_json::value::to_raw_value(&pod).unwrap();
    Wanted {
        pod: Arc::new(serde_json::from_value::<Pod>(pod).unwrap()),
        json: Arc::from(json),
        generation: 1,
        admitted: Timestamp::from_unix_ms(0),
        stop: None,
        forgotten: false,
        failed: None,
    }
}

impl World {
    fn new(restart_policy: &str) -> Self {
        let second = Distribution::Constant(Duration::from_secs(1));
        let behaviour =
            Behaviour { start_latency: second, stop_latency: second, crashes_per_hour: 0.0, run_time: None };
        Self {
            worker: Worker::new(wanted(restart_policy)),
            behaviour,
            chance: Chance::new(7, 0),
            ids: 0,
            slowness: 1.0,
            start: Instant::now(),
            reports: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Looks `ms` after the start; when it wants to look again, in the same clock.
    fn look_at(&mut self, ms: u64) -> Option<u64> {
        let wall = Timestamp::from_unix_ms(i64::try_from(ms).unwrap());
        let now = Now { instant: self.start + Duration::from_millis(ms), wall };
        let mut around = Surroundings {
            behaviour: &self.behaviour,
            chance: &mut self.chance,
            ids: &mut self.ids,
            slowness: self.slowness,
            address: &|id| format!("10.0.0.{id}"),
        };
        let mut updates = Vec::new();
        let next = self.worker.look(now, &mut around, &mut updates);
        for update in updates {
            match update {
                Update::Report(report) => self.reports.push(*report),
                other => self.others.push(other),
            }
        }
        next.map(|at| u64::try_from((at - self.start).as_millis()).unwrap())
    }

    fn delete(&mut self, at_ms: i64) {
        let deadline = Timestamp::from_unix_ms(at_ms + 30_000);
        self.worker.want(Wanted { stop: Some(Stop { deadline, then: AfterStop::Remove }), ..wanted("Always") });
    }

    fn state(&self) -> (ContainerState, u32) {
        let container = &self.reports.last().unwrap().containers[0];
        (container.state(), container.attempt)
    }
}

#[test]
fn a_pod_runs_after_its_start_latency_and_tells_so_with_its_events() {
    let mut world = World::new("Always");
    assert_eq!(world.look_at(0), Some(1000));
    assert!(!world.worker.runs());
    assert_eq!(world.look_at(1000), None);
    assert_eq!(world.state(), (ContainerState::ContainerRunning, 0));
    let events: Vec<_> = world.reports.last().unwrap().events.iter().map(|event| event.reason.as_str()).collect();
    assert_eq!(events, ["Pulled", "Created", "Started"]);
}

#[test]
fn a_slow_node_takes_so_many_times_longer() {
    let mut world = World::new("Always");
    world.slowness = 10.0;
    assert_eq!(world.look_at(0), Some(10_000));
}

#[test]
fn a_container_whose_time_is_over_ends_and_the_restart_policy_decides() {
    for (policy, starts_again) in [("Always", true), ("OnFailure", false), ("Never", false)] {
        let mut world = World::new(policy);
        world.behaviour.run_time = Some(Distribution::Constant(Duration::from_secs(5)));
        world.look_at(0);
        assert_eq!(world.look_at(1000), Some(6000), "{policy}");
        world.look_at(6000);
        // The first restart has no back-off to wait for, only its start latency.
        world.look_at(7000);
        world.look_at(17_000);
        world.look_at(18_000);
        let finished = world.others.iter().any(|update| matches!(update, Update::Finished { .. }));
        assert_eq!(
            (world.reports.last().unwrap().containers[0].attempt > 0, finished),
            (starts_again, !starts_again),
            "{policy}"
        );
    }
}

#[test]
fn a_deleted_pod_is_gone_once_its_exit_was_acked() {
    let mut world = World::new("Always");
    world.look_at(0);
    world.look_at(1000);
    world.delete(2000);
    assert_eq!(world.look_at(2000), Some(3000));
    world.look_at(3000);
    let last = world.reports.last().unwrap().clone();
    assert_eq!(last.exits[0].exit.as_ref().unwrap().exit_code, EXIT_TERMINATED);
    assert!(world.others.is_empty(), "nobody acked the exit");
    assert!(world.worker.ack(last.sequence), "the ack is what it waits for");
    world.look_at(3001);
    assert!(matches!(world.others[..], [Update::Gone { .. }]));
}

#[test]
fn an_ack_of_a_running_pod_asks_for_no_look() {
    let mut world = World::new("Always");
    world.look_at(0);
    world.look_at(1000);
    assert!(!world.worker.ack(world.reports.last().unwrap().sequence));
    assert!(world.worker.runs());
}
