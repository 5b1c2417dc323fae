use std::collections::BTreeMap;

use podbus_common::api::LeaseTerm;
use podbus_common::proto::{Heartbeat, NodeDescription, SyncRequest, Term};

use super::*;
use crate::cluster::Cluster;
use crate::leader::{Settings, Start, TICK_EVERY};
use crate::lineage::Lineage;
use crate::writing::{Step, Writing};
use crate::{Input, Now};

/// A leader, its clock, and a store that takes all.
struct Scene {
    leader: Leader,
    now: Instant,
    revision: u64,
}

impl Scene {
    fn with_node() -> Self {
        let now = Instant::now();
        let term = Term { epoch: 1, nonce: "n".into() };
        let lineage = Lineage::new(vec![LeaseTerm { epoch: 1, nonce: "n".into(), revision: 0, cold: true }], 1);
        let start = Start { cluster: Cluster::default(), term, lineage, remembered: None };
        let settings = Settings { toleration_seconds: 300, scheduling: podbus_scheduler_core::Config::default() };
        let leader = Leader::new(start, "control".into(), settings, [7; 32], at(now));
        let mut scene = Self { leader, now, revision: 1 };
        let amounts = [("cpu", "1"), ("memory", "1Gi"), ("pods", "10")];
        let amounts: BTreeMap<_, _> = amounts.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let description = NodeDescription { capacity: amounts.clone(), allocatable: amounts, ..Default::default() };
        let request = SyncRequest {
            node: "node-1".into(),
            node_id: "id".into(),
            instance: "i".into(),
            description: Some(description),
            last_page: true,
            ..Default::default()
        };
        scene.hear(Input::Sync { request: Box::new(request), reply: "reply".into() });
        let (node, instance) = ("node-1".to_owned(), "i".to_owned());
        let heartbeat = Heartbeat { node, instance, agent_epoch: 1, ..Default::default() };
        scene.hear(Input::Heartbeat(Box::new(heartbeat)));
        scene
    }

    fn hear(&mut self, input: Input) {
        self.leader.handle(input, at(self.now)).unwrap();
        for output in self.leader.outputs() {
            if let Output::Write { object, writes } = output {
                let mut writing = Writing::new(1, writes);
                while let Some(step) = writing.step() {
                    assert!(matches!(step, Step::Write { .. }), "nobody else writes");
                    self.revision += 1;
                    writing.wrote(Ok(self.revision));
                }
                self.hear(Input::Written { object, outcome: writing.finish() });
            }
        }
    }

    fn tick_for(&mut self, time: Duration, caught_up: bool) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK_EVERY;
            self.hear(Input::Tick { caught_up });
        }
    }

    fn node_is(&self) -> &str {
        nodes::status_of(&self.leader.cluster.node("node-1").unwrap().node)
    }
}

fn at(instant: Instant) -> Now {
    Now { instant, wall: Timestamp::from_unix_ms(1_700_000_000_000) }
}

#[test]
fn a_node_that_says_nothing_is_lost_unless_it_may_not_have_been_heard() {
    let mut scene = Scene::with_node();
    assert_eq!(scene.node_is(), "True");
    // The leader is behind with what it was told: what the node said may still be waiting.
    scene.tick_for(Duration::from_secs(20), false);
    scene.tick_for(Duration::from_secs(4), true);
    assert_eq!(scene.node_is(), "True");
    scene.tick_for(Duration::from_secs(2), true);
    assert_eq!(scene.node_is(), "Unknown");
}
