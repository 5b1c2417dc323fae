//! An agent that runs nothing: it registers, beats, holds what it is told, and reports what the test says.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt as _;
use podbus_common::digest::desired_set;
use podbus_common::model::Pod;
use podbus_common::proto::{
    Assignment, ContainerExit, ContainerState, ContainerStatus, Heartbeat, HeldPod, NodeDescription, NodeEvent,
    PodReport, SandboxState, SandboxStatus, StatusReply, StatusRequest, SyncReply, SyncRequest, pod_ack, refusal,
    verdict,
};
use podbus_common::subject;
use podbus_common_bus::Bus;
use podbus_test_support::wait::PATIENCE;
use prost::Message as _;
use tokio::time::{Instant, timeout};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Agent {
    bus: Bus,
    pub(crate) node: String,
    node_id: String,
    instance: String,
    pub(crate) agent_epoch: u64,
    pub(crate) leader_epoch: u64,
    counter: u64,
    /// (generation, revision, pod) by UID.
    pub(crate) pods: BTreeMap<String, (u64, u64, Pod)>,
    /// What it was told to remove.
    pub(crate) removed: Vec<String>,
    assignments: Subscriber,
}

impl Agent {
    /// Registers a node of 4 CPUs.
    pub(crate) async fn register(bus: &Bus, node: &str) -> Self {
        let mut agent = Self::new(bus, node, "id").await;
        let reply = agent.try_register().await;
        assert_eq!(reply.refusal, None);
        agent.take_sync(reply);
        agent
    }

    pub(crate) async fn new(bus: &Bus, node: &str, node_id: &str) -> Self {
        Self {
            bus: bus.clone(),
            node: node.to_owned(),
            node_id: node_id.to_owned(),
            instance: uuid::Uuid::new_v4().to_string(),
            agent_epoch: 0,
            leader_epoch: 0,
            counter: 0,
            pods: BTreeMap::new(),
            removed: Vec::new(),
            assignments: bus.client().subscribe(subject::assign(node)).await.unwrap(),
        }
    }

    pub(crate) async fn try_register(&self) -> SyncReply {
        let amounts: [(&str, &str); 3] = [("cpu", "4"), ("memory", "4Gi"), ("pods", "110")];
        let amounts = amounts.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
        let description = NodeDescription {
            capacity: amounts.clone().collect(),
            allocatable: amounts.collect(),
            internal_ip: "10.0.0.1".into(),
            ..Default::default()
        };
        self.ask(SyncRequest { agent_epoch: 0, description: Some(description), ..self.request() }).await
    }

    pub(crate) async fn sync(&mut self) -> SyncReply {
        let reply = self.ask(self.request()).await;
        self.take_sync(reply.clone());
        reply
    }

    fn request(&self) -> SyncRequest {
        let held = self.pods.iter().map(|(uid, (generation, revision, pod))| HeldPod {
            uid: uid.clone(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            generation: *generation,
            revision: *revision,
            ..Default::default()
        });
        SyncRequest {
            node: self.node.clone(),
            node_id: self.node_id.clone(),
            instance: self.instance.clone(),
            agent_epoch: self.agent_epoch,
            agent_epoch_seen: self.agent_epoch,
            held: held.collect(),
            last_page: true,
            ..Default::default()
        }
    }

    async fn ask(&self, request: SyncRequest) -> SyncReply {
        self.bus.request_proto(&subject::sync(&self.node), &request, REQUEST_TIMEOUT).await.unwrap()
    }

    fn take_sync(&mut self, reply: SyncReply) {
        assert_eq!(reply.refusal.as_ref().map_or(0, |r| r.reason), i32::from(refusal::Reason::None));
        self.agent_epoch = reply.agent_epoch;
        self.leader_epoch = reply.term.clone().unwrap_or_default().epoch;
        self.counter = reply.counter;
        for pod in reply.missing {
            self.pods.insert(pod.uid, (pod.generation, pod.revision, serde_json::from_slice(&pod.pod).unwrap()));
        }
        for verdict in reply.verdicts {
            if verdict.kind() == verdict::Kind::Remove {
                self.pods.remove(&verdict.uid);
                self.removed.push(verdict.uid);
            }
        }
    }

    /// One heartbeat; `silent_for` is nobody's business.
    pub(crate) async fn beat(&self) {
        let digest =
            desired_set(self.pods.iter().map(|(uid, (generation, _, pod))| {
                (uid.as_str(), *generation, pod.metadata.deletion_timestamp.is_some())
            }));
        let heartbeat = Heartbeat {
            node: self.node.clone(),
            instance: self.instance.clone(),
            agent_epoch: self.agent_epoch,
            leader_epoch: self.leader_epoch,
            counter: self.counter,
            digest: digest.to_vec().into(),
            ..Default::default()
        };
        let subject = subject::heartbeat(&self.node);
        self.bus.client().publish(subject, heartbeat.encode_to_vec().into()).await.unwrap();
    }

    /// Beats each 100 ms until the returned handle is aborted.
    pub(crate) fn keep_beating(&self) -> tokio::task::JoinHandle<()> {
        let (client, subject) = (self.bus.client().clone(), subject::heartbeat(&self.node));
        let heartbeat = Heartbeat {
            node: self.node.clone(),
            instance: self.instance.clone(),
            agent_epoch: self.agent_epoch,
            leader_epoch: self.leader_epoch,
            ..Default::default()
        };
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tick.tick().await;
                client.publish(subject.clone(), heartbeat.encode_to_vec().into()).await.unwrap();
            }
        })
    }

    /// Takes assignments in until one of them satisfies `wanted`.
    pub(crate) async fn until_assigned(&mut self, wanted: impl Fn(&Assignment) -> bool) -> Assignment {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no such assignment");
            let message = timeout(PATIENCE, self.assignments.next()).await.unwrap().unwrap();
            let assignment = Assignment::decode(message.payload).unwrap();
            self.counter = self.counter.max(assignment.counter);
            for pod in &assignment.assigned {
                let held = (pod.generation, pod.revision, serde_json::from_slice(&pod.pod).unwrap());
                self.pods.insert(pod.uid.clone(), held);
            }
            self.removed.extend(assignment.removed.iter().map(|removal| removal.uid.clone()));
            if wanted(&assignment) {
                return assignment;
            }
        }
    }

    /// Takes in the next pod that it is to run.
    pub(crate) async fn until_pod(&mut self) -> Pod {
        let assignment = self.until_assigned(|assignment| !assignment.assigned.is_empty()).await;
        serde_json::from_slice(&assignment.assigned[0].pod).unwrap()
    }

    /// Reports pods; gives what the leader says of the first.
    pub(crate) async fn report(&self, report: PodReport) -> pod_ack::Kind {
        self.report_as(self.agent_epoch, report).await
    }

    pub(crate) async fn report_as(&self, agent_epoch: u64, report: PodReport) -> pod_ack::Kind {
        let request = StatusRequest { node: self.node.clone(), agent_epoch, pods: vec![report], ..Default::default() };
        let subject = subject::status(&self.node);
        let reply: StatusReply = self.bus.request_proto(&subject, &request, REQUEST_TIMEOUT).await.unwrap();
        assert_eq!(reply.acks.len(), 1);
        reply.acks[0].kind()
    }

    /// The pod ended and its node is clean.
    pub(crate) async fn end(&mut self, uid: &str, report: PodReport) -> pod_ack::Kind {
        let kind = self.report(PodReport { ended: true, ..report }).await;
        self.pods.remove(uid);
        kind
    }
}

/// The report of a pod of one container that runs.
pub(crate) fn running(pod: &Pod, sequence: u64) -> PodReport {
    PodReport {
        uid: pod.metadata.uid.clone(),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        generation: pod.metadata.generation,
        sequence,
        sandbox: Some(SandboxStatus {
            state: SandboxState::SandboxReady.into(),
            ip: "10.1.0.2".into(),
            ..Default::default()
        }),
        containers: vec![ContainerStatus {
            name: "c".into(),
            state: ContainerState::ContainerRunning.into(),
            id: "x".into(),
            ready: true,
            started: true,
            ..Default::default()
        }],
        events: vec![NodeEvent {
            kind: "Normal".into(),
            reason: "Started".into(),
            message: "Container started".into(),
            container: "c".into(),
            at_ms: 1,
            ..Default::default()
        }],
        start_time_ms: 1,
        ..Default::default()
    }
}

/// The report of the same pod after its container exited.
pub(crate) fn exited(pod: &Pod, sequence: u64, exit_code: i32) -> PodReport {
    let mut report = running(pod, sequence);
    report.sandbox = Some(SandboxStatus { state: SandboxState::SandboxAbsent.into(), ..Default::default() });
    report.containers[0].state = ContainerState::ContainerExited.into();
    report.containers[0].ready = false;
    report.containers[0].exit = Some(ContainerExit { exit_code, reason: "Error".into(), ..Default::default() });
    report.events.clear();
    report
}
