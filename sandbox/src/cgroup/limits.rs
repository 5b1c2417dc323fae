//! Limits, as the files of v1 and v2 want them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use podbus_common_cri::runtime::LinuxContainerResources;

use podbus_sandbox_linux::device::confine;

use super::check::page_size;
use super::layout::Hierarchy;
use super::{CgroupError, Layout, device, failed};
use crate::runtime::Device;

/// No pod may fill the node's table of processes.
const PIDS_MAX: u64 = 4096;
/// The kernel's least, which Kubernetes gives to what requests no CPU.
const CPU_SHARES_MIN: u64 = 2;
/// The kernel's own period, microseconds.
const CPU_PERIOD: i64 = 100_000;

/// Limits of one cgroup; what is `None` is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    cpu_shares: Option<u64>,
    /// Microseconds; a quota below 0 is none.
    cpu_quota: Option<i64>,
    cpu_period: Option<i64>,
    memory: Option<i64>,
    /// Memory and swap together.
    memory_and_swap: Option<i64>,
    pids: Option<u64>,
    cpuset_cpus: String,
    cpuset_mems: String,
    /// By the kernel's name of the page size.
    hugepages: Vec<(String, u64)>,
    devices: bool,
    /// Further rules of the device controller.
    device_rules: Vec<String>,
    unified: Vec<(String, String)>,
}

impl Limits {
    /// Those of a pause process.
    pub(crate) fn pause() -> Self {
        Self { cpu_shares: Some(CPU_SHARES_MIN), ..Self::default() }
    }

    /// Those of a new container.
    pub(crate) fn container(resources: &LinuxContainerResources, privileged: bool) -> Self {
        Self { pids: Some(PIDS_MAX), devices: !privileged, ..Self::change(resources) }
    }

    /// Lets the container use these devices as well.
    pub(crate) fn with_devices(mut self, devices: &[Device]) -> Self {
        self.device_rules.extend(devices.iter().map(|device| device.rule.clone()));
        self
    }

    /// Those that a request changes: zero says nothing.
    pub(crate) fn change(resources: &LinuxContainerResources) -> Self {
        let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        let memory = (resources.memory_limit_in_bytes != 0).then_some(resources.memory_limit_in_bytes);
        let swap = match resources.memory_swap_limit_in_bytes {
            0 => memory, // memory alone is limited: no swap
            limit => Some(limit),
        };
        Self {
            cpu_shares: positive(resources.cpu_shares),
            cpu_quota: (resources.cpu_quota != 0).then_some(resources.cpu_quota),
            cpu_period: (resources.cpu_period > 0).then_some(resources.cpu_period),
            memory,
            memory_and_swap: swap,
            pids: None,
            cpuset_cpus: resources.cpuset_cpus.clone(),
            cpuset_mems: resources.cpuset_mems.clone(),
            hugepages: resources
                .hugepage_limits
                .iter()
                .filter_map(|it| Some((page_size(&it.page_size)?, it.limit)))
                .collect(),
            devices: false,
            device_rules: Vec::new(),
            unified: resources.unified.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    /// Whether a v1 hierarchy that few need is needed for these.
    pub(super) fn needs(&self, hierarchy: &Hierarchy) -> bool {
        let sets = !self.cpuset_cpus.is_empty() || !self.cpuset_mems.is_empty();
        hierarchy.has("cpuset") && sets || hierarchy.has("hugetlb") && !self.hugepages.is_empty()
    }

    /// Writes them to a new cgroup. Asking for a limit that the node cannot set is an error; a default that it cannot
    /// set is not.
    pub(super) fn apply(&self, layout: &Layout, path: &str) -> Result<(), CgroupError> {
        self.writes(layout, path)?.iter().try_for_each(Write::carry_out)?;
        if self.devices && layout.is_v2() { self.confine_devices(layout, path) } else { Ok(()) }
    }

    /// Writes them to a cgroup that is in use: all or, where one is refused, none.
    pub(super) fn change_all(&self, layout: &Layout, path: &str) -> Result<(), CgroupError> {
        let writes = self.writes(layout, path)?;
        let before: Vec<_> = writes.iter().map(Write::before).collect();
        for (at, write) in writes.iter().enumerate() {
            if let Err(error) = write.carry_out() {
                for undo in before[..at].iter().rev().flatten() {
                    if let Err(error) = undo.carry_out() {
                        tracing::warn!(%error, "a limit stays changed though others of its request were refused");
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn writes(&self, layout: &Layout, path: &str) -> Result<Vec<Write>, CgroupError> {
        let mut writes = Writes { layout, path, list: Vec::new() };
        if layout.is_v2() { self.write_v2(&mut writes) } else { self.write_v1(&mut writes) }?;
        Ok(writes.list)
    }

    fn write_v1(&self, to: &mut Writes<'_>) -> Result<(), CgroupError> {
        if let Some(shares) = self.shares(to.has("cpu", "cpu.shares")) {
            to.add("cpu", "cpu.shares", &shares)?;
        }
        if let Some(period) = self.cpu_period.or(self.cpu_quota.map(|_| CPU_PERIOD)) {
            to.add("cpu", "cpu.cfs_period_us", &period)?;
        }
        if let Some(quota) = self.cpu_quota {
            to.add("cpu", "cpu.cfs_quota_us", &quota)?;
        }
        if let Some(limit) = self.memory {
            let both = self.memory_and_swap.unwrap_or(limit);
            let has_both = to.has("memory", "memory.memsw.limit_in_bytes");
            // The limit may never be above that of memory and swap: growing begins with the latter.
            let order = if to.read("memory", "memory.limit_in_bytes").is_some_and(|now| limit < 0 || limit > now) {
                [("memory.memsw.limit_in_bytes", both), ("memory.limit_in_bytes", limit)]
            } else {
                [("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", both)]
            };
            for (name, value) in order {
                if has_both || name == "memory.limit_in_bytes" {
                    to.add("memory", name, &value)?;
                }
            }
        }
        self.write_sets(to)?;
        if let Some(pids) = self.pids.filter(|_| to.has("pids", "pids.max")) {
            to.add("pids", "pids.max", &pids)?;
        }
        if self.devices {
            to.add("devices", "devices.deny", &"a *:* rwm")?;
            let rules = device::DEFAULT.into_iter().chain(self.device_rules.iter().map(String::as_str));
            to.add_all("devices", "devices.allow", rules.map(str::to_owned).collect())?;
        }
        Ok(())
    }

    /// CPUs, memory nodes, huge pages. The latter are asked for with every container, also where there are none.
    fn write_sets(&self, to: &mut Writes<'_>) -> Result<(), CgroupError> {
        for (name, list) in [("cpuset.cpus", &self.cpuset_cpus), ("cpuset.mems", &self.cpuset_mems)] {
            if !list.is_empty() {
                to.add("cpuset", name, &list)?;
            }
        }
        for (size, limit) in &self.hugepages {
            let name = if to.layout.is_v2() {
                format!("hugetlb.{size}.max")
            } else {
                format!("hugetlb.{size}.limit_in_bytes")
            };
            if to.has("hugetlb", &name) {
                to.add("hugetlb", &name, &limit)?;
            }
        }
        Ok(())
    }

    /// The shares to set. The least that there can be asks for nothing: a node without the controller may ignore it.
    fn shares(&self, has_controller: bool) -> Option<u64> {
        self.cpu_shares.filter(|shares| has_controller || *shares > CPU_SHARES_MIN)
    }

    fn write_v2(&self, to: &mut Writes<'_>) -> Result<(), CgroupError> {
        if let Some(shares) = self.shares(to.has("cpu", "cpu.weight")) {
            to.add("cpu", "cpu.weight", &weight(shares))?;
        }
        match (self.cpu_quota, self.cpu_period) {
            (None, None) => {}
            (None, Some(period)) => {
                let now = to.text("cpu", "cpu.max").unwrap_or_default();
                to.add("cpu", "cpu.max", &format!("{} {period}", now.split(' ').next().unwrap_or("max")))?;
            }
            (Some(quota), period) => {
                let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
                to.add("cpu", "cpu.max", &format!("{quota} {}", period.unwrap_or(CPU_PERIOD)))?;
            }
        }
        if let Some(limit) = self.memory {
            to.add("memory", "memory.max", &if limit < 0 { "max".to_owned() } else { limit.to_string() })?;
        }
        if let Some(both) = self.memory_and_swap.filter(|_| to.has("memory", "memory.swap.max")) {
            let swap = both - self.memory.unwrap_or(0).max(0);
            to.add("memory", "memory.swap.max", &if both < 0 { "max".to_owned() } else { swap.max(0).to_string() })?;
        }
        self.write_sets(to)?;
        if let Some(pids) = self.pids.filter(|_| to.has("pids", "pids.max")) {
            to.add("pids", "pids.max", &pids)?;
        }
        if self.devices && to.has("memory", "memory.oom.group") {
            to.add("memory", "memory.oom.group", &1)?; // one that lost a process at random would be neither alive nor dead
        }
        for (name, value) in &self.unified {
            to.add("", name, &value)?;
        }
        Ok(())
    }

    /// Without the kernel's program a container could make and open any device of the node: then it does not start.
    fn confine_devices(&self, layout: &Layout, path: &str) -> Result<(), CgroupError> {
        let Some(dir) = layout.v2(path) else { return Ok(()) };
        let all = device::DEFAULT.iter().copied().chain(self.device_rules.iter().map(String::as_str));
        let rules: Vec<_> = all.filter_map(device::parse).collect();
        let opened = std::fs::File::open(&dir).map_err(failed("open", &dir))?;
        confine(opened.as_raw_fd(), &rules).map_err(|errno| failed("restrict devices in", &dir)(errno.into()))
    }
}

/// The weight that v2 has for shares of v1.
fn weight(shares: u64) -> u64 {
    1 + shares.clamp(2, 262_144).saturating_sub(2) * 9999 / 262_142
}

/// What is to be written, in order.
struct Writes<'a> {
    layout: &'a Layout,
    path: &'a str,
    list: Vec<Write>,
}

impl Writes<'_> {
    fn file(&self, controller: &str, name: &str) -> Option<PathBuf> {
        self.layout.file(controller, self.path, name, name).filter(|file| file.exists())
    }

    fn has(&self, controller: &str, name: &str) -> bool {
        self.file(controller, name).is_some()
    }

    fn text(&self, controller: &str, name: &str) -> Option<String> {
        std::fs::read_to_string(self.file(controller, name)?).ok()
    }

    fn read(&self, controller: &str, name: &str) -> Option<i64> {
        self.text(controller, name)?.trim().parse().ok()
    }

    fn add(&mut self, controller: &str, name: &str, value: &impl ToString) -> Result<(), CgroupError> {
        self.add_all(controller, name, vec![value.to_string()])
    }

    fn add_all(&mut self, controller: &str, name: &str, values: Vec<String>) -> Result<(), CgroupError> {
        let Some(file) = self.file(controller, name) else {
            let missing = std::io::Error::from(std::io::ErrorKind::Unsupported);
            let value = values.join(", ");
            return Err(failed(format!("set {value}: this node lacks the controller, for"), name.as_ref())(missing));
        };
        self.list.push(Write { file, values });
        Ok(())
    }
}

/// What one file is told, each by a write of its own.
struct Write {
    file: PathBuf,
    values: Vec<String>,
}

impl Write {
    fn carry_out(&self) -> Result<(), CgroupError> {
        let mut opened = OpenOptions::new().write(true).open(&self.file).map_err(failed("open", &self.file))?;
        self.values.iter().try_for_each(|value| {
            opened.write_all(value.as_bytes()).map_err(failed(format!("write {value} to"), &self.file))
        })
    }

    /// What takes it back.
    fn before(&self) -> Option<Self> {
        let value = std::fs::read_to_string(&self.file).ok()?.trim().to_owned();
        Some(Self { file: self.file.clone(), values: vec![value] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_as_runc_has_them() {
        assert_eq!([weight(0), weight(2), weight(1024), weight(262_144)], [1, 1, 39, 10_000]);
    }

    #[test]
    fn a_zero_says_nothing_and_a_memory_limit_forbids_swap() {
        let resources = LinuxContainerResources { memory_limit_in_bytes: 1 << 20, ..Default::default() };
        let limits = Limits::change(&resources);
        let expected = Limits { memory: Some(1 << 20), memory_and_swap: Some(1 << 20), ..Limits::default() };
        assert_eq!(limits, expected);
    }
}
