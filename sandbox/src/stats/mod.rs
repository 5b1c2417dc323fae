//! What containers and pods use. All of it is read when someone asks; a node at rest does nothing.

pub(crate) mod disk;
pub(crate) mod network;
pub(crate) mod rate;

use std::sync::Arc;

use podbus_common_cri::runtime::{
    ContainerAttributes, ContainerStats, CpuUsage, FilesystemIdentifier, FilesystemUsage, IoUsage,
    LinuxPodSandboxStats, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes, PodSandboxStats,
    ProcessUsage, PsiData, PsiStats, SwapUsage, UInt64Value,
};
use podbus_sandbox_linux::time;

use self::network::Interface;
use crate::cgroup::pressure::{Pressure, Stall};
use crate::cgroup::usage::Usage;
use crate::runtime::{Container, Runtime, Sandbox};

/// What a sandbox or a container keeps from one request to the next.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    cpu: rate::Rate,
    pub(crate) disk: Arc<disk::Meter>,
}

/// A number that is told, as opposed to none.
pub(crate) fn value(number: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value: number })
}

fn psi(pressure: Option<Pressure>) -> Option<PsiStats> {
    let data = |it: Stall| PsiData { total: it.nanos, avg10: it.avg10, avg60: it.avg60, avg300: it.avg300 };
    pressure.map(|it| PsiStats { full: Some(data(it.full)), some: Some(data(it.some)) })
}

fn memory(usage: &Usage, timestamp: i64, pressure: Option<Pressure>) -> Option<MemoryUsage> {
    let bytes = usage.memory?;
    let working_set = bytes.saturating_sub(usage.inactive_file);
    Some(MemoryUsage {
        timestamp,
        working_set_bytes: value(working_set),
        available_bytes: value(usage.memory_limit.map_or(0, |limit| limit.saturating_sub(working_set))),
        usage_bytes: value(bytes),
        rss_bytes: value(usage.rss),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
        psi: psi(pressure),
    })
}

fn swap(usage: &Usage, timestamp: i64) -> Option<SwapUsage> {
    usage.swap.map(|swap| SwapUsage {
        timestamp,
        swap_available_bytes: swap.available.and_then(value),
        swap_usage_bytes: value(swap.used),
    })
}

fn network(interfaces: Vec<Interface>, timestamp: i64) -> Option<NetworkUsage> {
    let mut usages = interfaces.into_iter().map(|it| NetworkInterfaceUsage {
        name: it.name,
        rx_bytes: value(it.received.bytes),
        rx_errors: value(it.received.errors),
        tx_bytes: value(it.sent.bytes),
        tx_errors: value(it.sent.errors),
    });
    let default_interface = Some(usages.next()?);
    Some(NetworkUsage { timestamp, default_interface, interfaces: usages.collect() })
}

impl Runtime {
    /// What a container uses; one that does not run has its attributes and its writable layer only.
    pub(crate) fn container_stats(&self, container: &Container) -> ContainerStats {
        let config = container.config();
        let attributes = ContainerAttributes {
            id: container.body.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        let timestamp = time::unix_nanos();
        let mut stats = ContainerStats {
            attributes: Some(attributes),
            writable_layer: self.writable_layer(container, timestamp),
            ..ContainerStats::default()
        };
        if container.is_running() {
            let cgroup = container.cgroup(container.sandbox());
            let usage = self.cgroups.usage(&cgroup);
            stats.cpu = self.cpu(&cgroup, &usage, timestamp, &container.gauges);
            stats.memory = memory(&usage, timestamp, self.cgroups.pressure(&cgroup, "memory"));
            stats.swap = swap(&usage, timestamp);
            stats.io = self.io(&cgroup, timestamp);
        }
        stats
    }

    fn cpu(&self, cgroup: &str, usage: &Usage, timestamp: i64, gauges: &Gauges) -> Option<CpuUsage> {
        usage.cpu_nanos.map(|nanos| CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(nanos),
            usage_nano_cores: gauges.cpu.nanocores(timestamp, nanos).and_then(value),
            psi: psi(self.cgroups.pressure(cgroup, "cpu")),
        })
    }

    fn io(&self, cgroup: &str, timestamp: i64) -> Option<IoUsage> {
        psi(self.cgroups.pressure(cgroup, "io")).map(|psi| IoUsage { timestamp, psi: Some(psi) })
    }

    /// Named by the directory that ImageFsInfo names: one file system holds both.
    fn writable_layer(&self, container: &Container, timestamp: i64) -> Option<FilesystemUsage> {
        container.writable_layer().map(|holding| FilesystemUsage {
            timestamp,
            fs_id: Some(FilesystemIdentifier { mountpoint: self.image_dir().to_string_lossy().into_owned() }),
            used_bytes: value(holding.bytes),
            inodes_used: value(holding.inodes),
        })
    }

    /// What a pod uses, from the cgroup that holds all of it.
    pub(crate) fn sandbox_stats(&self, sandbox: &Sandbox) -> PodSandboxStats {
        let config = sandbox.config();
        let timestamp = time::unix_nanos();
        let cgroup = &sandbox.body.cgroup;
        let usage = self.cgroups.usage(cgroup);
        let containers = self.containers_of(&sandbox.body.id);
        let running: Vec<_> = containers.iter().filter(|container| container.is_running()).collect();
        let processes =
            running.iter().filter_map(|container| self.cgroups.usage(&container.cgroup(sandbox)).processes).sum();
        PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: sandbox.body.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: self.cpu(cgroup, &usage, timestamp, &sandbox.gauges),
                memory: memory(&usage, timestamp, self.cgroups.pressure(cgroup, "memory")),
                network: network(sandbox.interfaces(), timestamp),
                process: Some(ProcessUsage { timestamp, process_count: value(processes) }),
                containers: running.iter().map(|container| self.container_stats(container)).collect(),
                io: self.io(cgroup, timestamp),
            }),
            windows: None,
        }
    }
}
