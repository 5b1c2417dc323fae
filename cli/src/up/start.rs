//! What the processes of a cluster are told: programs, arguments and files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use podbus_common_telemetry::Address;

use super::layout::{Layout, NodeLayout};
use super::process::Spec;

/// How many user ids of this machine a node has for its pods: those of 256 pods.
const USER_IDS: u32 = 1 << 24;

/// What all services of a cluster have in common.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    /// This program.
    pub(crate) podbus: PathBuf,
    /// The cluster's places.
    pub(crate) layout: Layout,
    /// The bus, without its token.
    pub(crate) url: String,
    /// The bus's token is in this file, if it wants one.
    pub(crate) token_file: Option<PathBuf>,
}

/// What a node offers, as a quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// CPU, such as `666m`.
    pub(crate) cpu: String,
    /// Memory, such as `8227032Ki`.
    pub(crate) memory: String,
}

impl Share {
    /// One of `nodes` equal parts of a machine.
    pub(crate) fn of_machine(cpus: usize, memory_kib: u64, nodes: u16) -> Self {
        let nodes = u64::from(nodes.max(1));
        let cpu_millis = u64::try_from(cpus).unwrap_or(1).saturating_mul(1000) / nodes;
        Self { cpu: format!("{}m", cpu_millis.max(1)), memory: format!("{}Ki", memory_kib / nodes) }
    }
}

/// `MemTotal` of /proc/meminfo, in KiB.
pub(crate) fn memory_total_kib(meminfo: &str) -> Option<u64> {
    meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_ascii_whitespace().next()?.parse().ok()
}

impl Common {
    /// The bus.
    pub(crate) fn bus(&self, program: &Path, config: &Path) -> Spec {
        let arguments = vec!["-c".into(), config.into()];
        Spec {
            program: program.to_owned(),
            arguments,
            log: self.layout.file("nats.log"),
            state_dir: self.state_dir(),
            needs: None,
        }
    }

    /// A scheduler: the first, or one that follows.
    pub(crate) fn scheduler(&self, number: u16, not_ready_toleration: &str) -> Spec {
        let mut arguments = vec!["scheduler".into()];
        self.push_bus(&mut arguments);
        arguments.extend(["--not-ready-toleration".into(), not_ready_toleration.into()]);
        let name = if number == 1 { "scheduler".to_owned() } else { format!("scheduler-{number}") };
        self.push_metrics(&mut arguments, &name);
        self.spec(arguments, self.layout.file(&format!("{name}.log")))
    }

    /// A node's runtime.
    pub(crate) fn sandbox(&self, node: &NodeLayout, pod_cidr: Ipv4Net) -> Spec {
        let mut arguments = vec![
            "sandbox".into(),
            "--state-dir".into(),
            node.sandbox_dir.clone().into(),
            "--socket".into(),
            node.socket.clone().into(),
            "--pod-cidr".into(),
            pod_cidr.to_string().into(),
            "--instance".into(),
            node.instance.clone().into(),
        ];
        self.push_metrics(&mut arguments, &format!("{}.sandbox", node.name));
        self.spec(arguments, node.sandbox_log.clone())
    }

    /// A node's agent.
    pub(crate) fn agent(&self, node: &NodeLayout, pod_cidr: Ipv4Net, share: &Share) -> Spec {
        let mut arguments = vec!["node-agent".into()];
        self.push_bus(&mut arguments);
        arguments.extend([
            "--node".into(),
            node.name.clone().into(),
            "--state-dir".into(),
            node.agent_dir.clone().into(),
            "--runtime".into(),
            node.socket.clone().into(),
            "--pod-cidr".into(),
            pod_cidr.to_string().into(),
            // All of a node's cgroups in one place, where `down` removes them.
            "--cgroup-root".into(),
            format!("podbus-{}", node.instance).into(),
            "--user-ids".into(),
            user_ids(node.number).into(),
            "--cpu".into(),
            share.cpu.clone().into(),
            "--memory".into(),
            share.memory.clone().into(),
        ]);
        self.push_metrics(&mut arguments, &format!("{}.agent", node.name));
        Spec { needs: Some(node.socket.clone()), ..self.spec(arguments, node.agent_log.clone()) }
    }

    fn push_bus(&self, arguments: &mut Vec<OsString>) {
        arguments.extend(["--nats".into(), self.url.clone().into()]);
        if let Some(file) = &self.token_file {
            arguments.extend(["--token-file".into(), file.clone().into()]);
        }
    }

    /// A socket of its own: no port that others may have, and nobody but root reads the names of pods.
    fn push_metrics(&self, arguments: &mut Vec<OsString>, service: &str) {
        let address = Address::Unix(self.layout.metrics_socket(service));
        arguments.extend(["--metrics".into(), address.to_string().into()]);
    }

    fn spec(&self, arguments: Vec<OsString>, log: PathBuf) -> Spec {
        Spec { program: self.podbus.clone(), arguments, log, state_dir: self.state_dir(), needs: None }
    }

    fn state_dir(&self) -> PathBuf {
        self.layout.state_dir.clone()
    }
}

/// The user ids of this machine that the pods of a node may have, of which no other node's pod has any.
fn user_ids(number: u16) -> String {
    format!("{}:{USER_IDS}", (1 << 16) + u32::from(number - 1) * USER_IDS)
}

#[cfg(test)]
mod tests {
    use super::super::layout::NODES_MAX;
    use super::*;

    #[test]
    fn nodes_share_the_machine_and_never_offer_more_than_it_has() {
        assert_eq!(Share::of_machine(2, 24_681_096, 3), Share { cpu: "666m".into(), memory: "8227032Ki".into() });
        assert_eq!(Share::of_machine(1, 1000, 99).cpu, "10m");
    }

    #[test]
    fn no_two_nodes_have_the_same_user_ids() {
        assert_eq!((user_ids(1), user_ids(2)), ("65536:16777216".into(), "16842752:16777216".into()));
        assert_eq!(user_ids(NODES_MAX), "1644232704:16777216");
    }

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(memory_total_kib("MemTotal:       24681096 kB\nMemFree: 1 kB\n"), Some(24_681_096));
        assert_eq!(memory_total_kib(""), None);
    }
}
