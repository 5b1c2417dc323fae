//! Metrics of pods and containers (KEP-2371): what a kubelet's `/metrics/cadvisor` is made of.

mod families;
mod processes;

use podbus_common_cri::runtime::{ContainerMetrics, Metric, MetricDescriptor, PodSandboxMetrics};
use podbus_sandbox_linux::time;

use self::families::FAMILIES;
use self::processes::Processes;
use crate::runtime::{Container, Runtime, Sandbox};
use crate::stats::value;

const NANOS: u64 = 1_000_000_000;
/// What the kernel gives to a cgroup that nobody set.
const CPU_SHARES: i64 = 1024;
const CPU_PERIOD: i64 = 100_000;

/// What every metric is called and means.
pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    FAMILIES.iter().map(families::Family::descriptor).collect()
}

/// Metrics with the same common labels, read at the same time.
struct Samples {
    timestamp: i64,
    /// The values of [`families::COMMON_KEYS`].
    labels: [String; families::COMMON_KEYS.len()],
    metrics: Vec<Metric>,
}

impl Samples {
    fn add(&mut self, name: &str, number: u64) {
        self.add_of(name, &[], number);
    }

    /// Adds one with the values of the label keys that only this metric has.
    fn add_of(&mut self, name: &str, more: &[&str], number: u64) {
        let family = FAMILIES.iter().find(|family| family.name == name);
        debug_assert!(family.is_some_and(|family| family.keys.len() == more.len()), "{name} {more:?}");
        let Some(family) = family else { return };
        let common = self.labels.iter().cloned();
        self.metrics.push(Metric {
            name: name.to_owned(),
            timestamp: self.timestamp,
            metric_type: family.kind.into(),
            label_values: common.chain(more.iter().map(ToString::to_string)).collect(),
            value: value(number),
        });
    }
}

/// The file system of all writable layers.
struct Disk {
    device: String,
    bytes: u64,
    inodes: u64,
    inodes_free: u64,
}

impl Runtime {
    /// The metrics of a sandbox and of its running containers. Reads much: not for an async worker.
    pub(crate) fn metrics(&self, sandbox: &Sandbox) -> PodSandboxMetrics {
        let running = self.containers_of(&sandbox.body.id).into_iter().filter(|container| container.is_running());
        let disk = self.disk();
        PodSandboxMetrics {
            pod_sandbox_id: sandbox.body.id.clone(),
            metrics: network(sandbox),
            container_metrics: running
                .map(|container| ContainerMetrics {
                    container_id: container.body.id.clone(),
                    metrics: self.of_container(&container, disk.as_ref()),
                })
                .collect(),
        }
    }

    fn of_container(&self, container: &Container, disk: Option<&Disk>) -> Vec<Metric> {
        let mut samples = samples(container.sandbox(), Some(container));
        self.cpu_and_memory(container, &mut samples);
        self.pressures(container, &mut samples);
        if let Some(disk) = disk {
            self.files(container, disk, &mut samples);
        }
        self.processes(container, &mut samples);
        limits(container, &mut samples);
        samples.metrics
    }

    fn cpu_and_memory(&self, container: &Container, to: &mut Samples) {
        let cgroup = container.cgroup(container.sandbox());
        let (usage, account) = (self.cgroups.usage(&cgroup), self.cgroups.account(&cgroup));
        to.add("container_cpu_usage_seconds_total", usage.cpu_nanos.unwrap_or_default() / NANOS);
        to.add("container_cpu_user_seconds_total", account.cpu.user / NANOS);
        to.add("container_cpu_system_seconds_total", account.cpu.system / NANOS);
        to.add("container_cpu_cfs_periods_total", account.cpu.periods);
        to.add("container_cpu_cfs_throttled_periods_total", account.cpu.throttled_periods);
        to.add("container_cpu_cfs_throttled_seconds_total", account.cpu.throttled / NANOS);
        let (bytes, memory) = (usage.memory.unwrap_or_default(), account.memory);
        to.add("container_memory_usage_bytes", bytes);
        to.add("container_memory_working_set_bytes", bytes.saturating_sub(usage.inactive_file));
        to.add("container_memory_rss", usage.rss);
        to.add("container_memory_cache", memory.cache);
        to.add("container_memory_mapped_file", memory.mapped_file);
        to.add("container_memory_swap", memory.swap);
        to.add("container_memory_kernel_usage", memory.kernel);
        to.add("container_memory_max_usage_bytes", memory.usage_max);
        to.add("container_memory_failcnt", memory.limit_hits);
        for (kind, faults) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)] {
            to.add_of("container_memory_failures_total", &[kind, "container"], faults.own);
            to.add_of("container_memory_failures_total", &[kind, "hierarchy"], faults.hierarchy);
        }
        to.add("container_oom_events_total", account.oom_kills);
        to.add("container_threads_max", account.threads_max.unwrap_or_default());
        for pages in &account.huge_pages {
            to.add_of("container_hugetlb_usage_bytes", &[&pages.page_size], pages.usage);
            to.add_of("container_hugetlb_max_usage_bytes", &[&pages.page_size], pages.usage_max);
        }
        for io in &account.io {
            let (major, minor) = io.device.split_once(':').unwrap_or((&io.device, ""));
            for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
                to.add_of("container_blkio_device_usage_total", &[&io.device, major, minor, operation], bytes);
            }
            to.add_of("container_fs_reads_bytes_total", &[&io.device], io.read_bytes);
            to.add_of("container_fs_reads_total", &[&io.device], io.reads);
            to.add_of("container_fs_writes_bytes_total", &[&io.device], io.write_bytes);
            to.add_of("container_fs_writes_total", &[&io.device], io.writes);
        }
    }

    fn pressures(&self, container: &Container, to: &mut Samples) {
        let cgroup = container.cgroup(container.sandbox());
        for resource in ["cpu", "io", "memory"] {
            let Some(pressure) = self.cgroups.pressure(&cgroup, resource) else { continue };
            to.add(&format!("container_pressure_{resource}_waiting_seconds_total"), pressure.some.nanos / NANOS);
            to.add(&format!("container_pressure_{resource}_stalled_seconds_total"), pressure.full.nanos / NANOS);
        }
    }

    fn files(&self, container: &Container, disk: &Disk, to: &mut Samples) {
        let device: &[&str] = &[&disk.device];
        to.add_of("container_fs_limit_bytes", device, disk.bytes);
        to.add_of("container_fs_inodes_total", device, disk.inodes);
        to.add_of("container_fs_inodes_free", device, disk.inodes_free);
        if let Some(holding) = container.writable_layer() {
            to.add_of("container_fs_usage_bytes", device, holding.bytes);
        }
    }

    fn processes(&self, container: &Container, to: &mut Samples) {
        let processes = Processes::read(&self.cgroups.processes(&container.cgroup(container.sandbox())));
        to.add("container_processes", processes.count);
        to.add("container_threads", processes.threads);
        to.add("container_file_descriptors", processes.descriptors);
        to.add("container_sockets", processes.sockets);
    }

    fn disk(&self) -> Option<Disk> {
        let dir = self.image_dir();
        let stat = rustix::fs::statvfs(&dir).ok()?;
        Some(Disk {
            device: dir.to_string_lossy().into_owned(),
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
        })
    }
}

/// Common labels as the kubelet has them: a pod's own metrics have no container and no image.
fn samples(sandbox: &Sandbox, container: Option<&Container>) -> Samples {
    let pod = sandbox.config().metadata.clone().unwrap_or_default();
    let config = container.map(Container::config);
    let cgroup = container.map_or_else(|| sandbox.body.cgroup.clone(), |container| container.cgroup(sandbox));
    let image = config.and_then(|config| config.image.as_ref());
    let metadata = config.and_then(|config| config.metadata.as_ref());
    let labels = [
        format!("/{cgroup}"),
        container.map_or(&sandbox.body.id, |container| &container.body.id).clone(),
        image.map(|image| image.image.clone()).unwrap_or_default(),
        metadata.map(|metadata| metadata.name.clone()).unwrap_or_default(),
        pod.name,
        pod.namespace,
    ];
    Samples { timestamp: time::unix_nanos(), labels, metrics: Vec::new() }
}

fn network(sandbox: &Sandbox) -> Vec<Metric> {
    let mut samples = samples(sandbox, None);
    for interface in sandbox.interfaces() {
        for (direction, counts) in [("receive", interface.received), ("transmit", interface.sent)] {
            for (what, number) in [
                ("bytes", counts.bytes),
                ("packets", counts.packets),
                ("errors", counts.errors),
                ("packets_dropped", counts.dropped),
            ] {
                samples.add_of(&format!("container_network_{direction}_{what}_total"), &[&interface.name], number);
            }
        }
    }
    samples.metrics
}

/// What was asked for, and since when it runs.
fn limits(container: &Container, to: &mut Samples) {
    let resources = container.resources();
    let or = |asked: i64, default: i64| if asked > 0 { asked.unsigned_abs() } else { default.unsigned_abs() };
    to.add("container_spec_cpu_period", or(resources.cpu_period, CPU_PERIOD));
    to.add("container_spec_cpu_shares", or(resources.cpu_shares, CPU_SHARES));
    if resources.cpu_quota > 0 {
        to.add("container_spec_cpu_quota", resources.cpu_quota.unsigned_abs());
    }
    let memory = or(resources.memory_limit_in_bytes, 0);
    to.add("container_spec_memory_limit_bytes", memory);
    to.add("container_spec_memory_swap_limit_bytes", or(resources.memory_swap_limit_in_bytes, 0).max(memory));
    let reservation = resources.unified.get("memory.min").and_then(|bytes| bytes.parse().ok());
    to.add("container_spec_memory_reservation_limit_bytes", reservation.unwrap_or_default());
    let seconds = |nanos: i64| u64::try_from(nanos).unwrap_or_default() / NANOS;
    to.add("container_last_seen", seconds(to.timestamp));
    if let Some(started) = container.stage().started {
        to.add("container_start_time_seconds", seconds(started.time));
        if let Some(files) = processes::open_files_max(started.pid) {
            to.add_of("container_ulimits_soft", &["max_open_files"], files);
        }
    }
}
