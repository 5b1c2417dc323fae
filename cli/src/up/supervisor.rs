//! The processes of one cluster: kept running, told about, and ended with or without their pods.

use std::path::Path;

use futures::future::join_all;
use ipnet::Ipv4Net;
use podbus_common_bus::Bus;

use super::cidr;
use super::layout::{Layout, NodeLayout};
use super::pods::{self, Fate};
use super::process::{FAILURES_MAX, Life, Supervised};
use super::start::{Common, Share};
use super::status::{Part, State};
use super::watcher::{self, View};
use crate::failure::{Failure, Outcome};

/// The bus, the schedulers and the nodes.
pub(crate) struct Supervisor {
    /// `None`: the bus is not ours.
    pub(crate) bus: Option<Supervised>,
    /// What the bus is, for a person: `nats-server 2.9.10 on 127.0.0.1:4222`.
    pub(crate) bus_detail: String,
    /// Why it does not do its work though it runs.
    pub(crate) bus_trouble: Option<String>,
    /// One of them leads. None: only nodes run, for `down`.
    pub(crate) schedulers: Vec<Supervised>,
    /// Each node's processes.
    pub(crate) nodes: Vec<Node>,
}

/// A node's two processes.
pub(crate) struct Node {
    /// Its places.
    pub(crate) layout: NodeLayout,
    /// The runtime.
    pub(crate) sandbox: Supervised,
    /// The agent, which waits for the runtime.
    pub(crate) agent: Supervised,
}

impl Node {
    fn start(&self) {
        self.sandbox.start();
        self.agent.start();
    }

    async fn stop(&self, kill: bool) {
        for process in [&self.agent, &self.sandbox] {
            if kill {
                process.kill().await;
            } else {
                process.stop().await;
            }
        }
    }

    fn part(&self, view: &View) -> Part {
        let name = self.layout.name.clone();
        if !self.agent.is_wanted() {
            return Part { name, state: State::Stopped, detail: "by `podbus node stop`".to_owned() };
        }
        let (sandbox, agent) = (self.sandbox.life(), self.agent.life());
        let (state, detail) = match (failing("sandbox", &sandbox), failing("agent", &agent)) {
            (Some(why), _) | (None, Some(why)) => (State::Failing, why),
            _ if agent.pid.is_none() => (State::Starting, "waiting for its runtime".to_owned()),
            _ if view.ready.contains(&name) => (State::Ready, String::new()),
            _ => (State::Starting, "waiting for its heartbeat".to_owned()),
        };
        Part { name, state, detail }
    }
}

impl Supervisor {
    /// Starts a node again.
    pub(crate) fn start_node(&self, name: &str) -> Outcome {
        self.node(name).map(Node::start)
    }

    /// Ends a node's agent and runtime; its pods run on.
    pub(crate) async fn stop_node(&self, name: &str, kill: bool) -> Outcome {
        self.node(name)?.stop(kill).await;
        Ok(())
    }

    fn node(&self, name: &str) -> Outcome<&Node> {
        let node = self.nodes.iter().find(|node| node.layout.name == name);
        node.ok_or_else(|| {
            let names: Vec<_> = self.nodes.iter().map(|node| node.layout.name.as_str()).collect();
            Failure::local(format!("there is no node {name:?} here; there are {}", names.join(", ")))
        })
    }

    /// How each part does.
    pub(crate) fn parts(&self, view: &View) -> Vec<Part> {
        let mut parts = vec![self.bus_part(view)];
        parts.extend(self.schedulers.iter().zip(1..).map(|(scheduler, number)| {
            let name = if number == 1 { "scheduler".to_owned() } else { format!("scheduler-{number}") };
            scheduler_part(&name, &scheduler.life(), self.schedulers.len(), view)
        }));
        parts.extend(self.nodes.iter().map(|node| node.part(view)));
        parts
    }

    fn bus_part(&self, view: &View) -> Part {
        let life = self.bus.as_ref().map(Supervised::life).unwrap_or_default();
        if let Some(detail) = self.bus_trouble.clone() {
            return Part { name: "bus".to_owned(), state: State::Failing, detail };
        }
        service_part("bus", &life, view.connected, self.bus_detail.clone())
    }

    /// A process that does not come up, with what it logged.
    pub(crate) fn hopeless(&self) -> Option<Failure> {
        let nodes = self.nodes.iter().flat_map(|node| {
            [
                (format!("the sandbox of {}", node.layout.name), &node.sandbox),
                (format!("the agent of {}", node.layout.name), &node.agent),
            ]
        });
        let bus = self.bus.iter().map(|process| ("nats-server".to_owned(), process));
        let services = bus.chain(self.schedulers.iter().map(|process| ("the scheduler".to_owned(), process)));
        let (name, process) = services.chain(nodes).find(|(_, process)| process.life().failures >= FAILURES_MAX)?;
        Some(does_not_start(&name, process))
    }

    /// Ends everything, agents first so that nobody makes the pods again.
    ///
    /// # Errors
    /// When pods of a node could not be stopped; the processes have ended all the same.
    pub(crate) async fn end(&self, fate: Fate, bus: Option<&Bus>) -> Outcome {
        let graces = match (fate, bus) {
            (Fate::Keep, _) | (_, None) => pods::Graces::new(),
            (_, Some(bus)) => watcher::graces(bus).await,
        };
        join_all(self.nodes.iter().map(|node| node.agent.stop())).await;
        let ended = join_all(self.nodes.iter().map(async |node| {
            if fate != Fate::Keep {
                // A node that was stopped has pods too.
                node.sandbox.start();
                node.sandbox.wait_listening(&node.layout.socket).await;
            }
            pods::end(&node.layout.socket, fate, &graces).await.map_err(|error| (&node.layout.name, error))
        }))
        .await;
        self.end_processes().await;
        let failures = ended.into_iter().filter_map(Result::err);
        Failure::all(
            failures
                .map(|(node, error)| {
                    error.chain().fold(Failure::local(format!("cannot stop the pods of {node}")), Failure::because)
                })
                .collect(),
        )
    }

    /// Ends all processes and leaves the pods as they are.
    pub(crate) async fn end_processes(&self) {
        join_all(self.nodes.iter().map(|node| node.stop(false))).await;
        // The leader last: its followers would take over only to end.
        for process in self.schedulers.iter().rev().chain(&self.bus) {
            process.stop().await;
        }
    }
}

/// Only the runtimes of these nodes, not started yet: enough to end their pods.
pub(crate) fn sandboxes_only(podbus: &Path, layout: &Layout, pod_cidr: Ipv4Net, numbers: &[u16]) -> Supervisor {
    let common = Common { podbus: podbus.to_owned(), layout: layout.clone(), url: String::new(), token_file: None };
    let share = Share::of_machine(1, 0, 1);
    let nodes = numbers.iter().filter_map(|number| {
        let (layout, cidr) = (layout.node(*number), cidr::of_node(pod_cidr, *number)?);
        let sandbox = Supervised::new(common.sandbox(&layout, cidr));
        let agent = Supervised::new(common.agent(&layout, cidr, &share));
        Some(Node { layout, sandbox, agent })
    });
    Supervisor {
        bus: None,
        bus_detail: String::new(),
        bus_trouble: None,
        schedulers: Vec::new(),
        nodes: nodes.collect(),
    }
}

/// Why a process that should have started did not.
pub(crate) fn does_not_start(name: &str, process: &Supervised) -> Failure {
    let ended = process.life().ended.unwrap_or_else(|| "does not answer".to_owned());
    let failure = Failure::local(format!("{name} does not start: it {ended}"));
    process.log_tail().lines().fold(failure, Failure::because)
}

/// A scheduler that follows cannot be asked, so it counts as Ready while it runs beside one that leads.
fn scheduler_part(name: &str, life: &Life, count: usize, view: &View) -> Part {
    let leads = life.pid.is_some() && life.pid == view.leader;
    let detail = match (leads, count) {
        (_, 1) => "",
        (true, _) => "leads",
        (false, _) => "follows",
    };
    service_part(name, life, view.scheduler, detail.to_owned())
}

fn service_part(name: &str, life: &Life, answers: bool, detail: String) -> Part {
    let (state, detail) = match failing(name, life) {
        Some(why) => (State::Failing, why),
        None if answers => (State::Ready, detail),
        None => (State::Starting, detail),
    };
    Part { name: name.to_owned(), state, detail }
}

/// What to say of a process that ended and does not run again yet.
fn failing(name: &str, life: &Life) -> Option<String> {
    let ended = life.ended.as_ref().filter(|_| life.pid.is_none())?;
    Some(format!("{name} {ended}; starting it again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_ready_when_it_runs_and_answers() {
        let running = Life { pid: Some(1), starts: 1, ..Life::default() };
        assert_eq!(service_part("bus", &running, false, String::new()).state, State::Starting);
        assert_eq!(service_part("bus", &running, true, String::new()).state, State::Ready);
        let dead = Life { ended: Some("was killed by signal 9".into()), failures: 1, ..Life::default() };
        let part = service_part("bus", &dead, true, String::new());
        assert_eq!((part.state, part.detail.contains("signal 9")), (State::Failing, true));
    }
}
