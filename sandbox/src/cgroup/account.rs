//! All that the kernel counts for a cgroup, for metrics: [`super::usage`] has the few figures that everyone asks for.

use std::path::Path;

use super::Cgroups;
use super::usage::line;

/// A reading; 0 where the node does not count it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    /// Processes killed for want of memory.
    pub(crate) oom_kills: u64,
    /// The most processes and threads that there may be; `None`: no limit.
    pub(crate) threads_max: Option<u64>,
    /// By device; empty where nothing is counted.
    pub(crate) io: Vec<DeviceIo>,
    /// By page size.
    pub(crate) huge_pages: Vec<HugePages>,
}

/// Nanoseconds, and counts of periods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) user: u64,
    pub(crate) system: u64,
    pub(crate) periods: u64,
    pub(crate) throttled_periods: u64,
    pub(crate) throttled: u64,
}

/// Bytes, and counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) cache: u64,
    pub(crate) mapped_file: u64,
    pub(crate) swap: u64,
    pub(crate) kernel: u64,
    pub(crate) usage_max: u64,
    /// How often the limit was hit.
    pub(crate) limit_hits: u64,
    pub(crate) page_faults: Faults,
    pub(crate) major_page_faults: Faults,
}

/// Of the cgroup, and of all beneath it as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) own: u64,
    pub(crate) hierarchy: u64,
}

/// What was read from and written to a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeviceIo {
    /// `major:minor`.
    pub(crate) device: String,
    pub(crate) read_bytes: u64,
    pub(crate) write_bytes: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HugePages {
    /// `2MB`.
    pub(crate) page_size: String,
    pub(crate) usage: u64,
    pub(crate) usage_max: u64,
}

impl Cgroups {
    /// Reads the accounts of a cgroup.
    pub(crate) fn account(&self, path: &str) -> Account {
        let reader = Reader { cgroups: self, path };
        if self.layout().is_v2() { reader.v2() } else { reader.v1() }
    }

    /// The processes of a cgroup and beneath it.
    pub(crate) fn processes(&self, path: &str) -> Vec<rustix::process::Pid> {
        self.layout().dirs(path).last().map(|dir| super::pids(dir)).unwrap_or_default()
    }
}

struct Reader<'a> {
    cgroups: &'a Cgroups,
    path: &'a str,
}

impl Reader<'_> {
    fn text(&self, controller: &str, name: &str) -> String {
        let file = self.cgroups.layout().file(controller, self.path, name, name);
        file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default()
    }

    fn number(&self, controller: &str, name: &str) -> u64 {
        self.text(controller, name).trim().parse().unwrap_or_default()
    }

    fn v1(&self) -> Account {
        let cpu = self.text("cpu", "cpu.stat");
        let memory = self.text("memory", "memory.stat");
        let of = |text: &str, key: &str| line(text, key).unwrap_or_default();
        let faults = |key: &str| Faults { own: of(&memory, key), hierarchy: of(&memory, &format!("total_{key}")) };
        Account {
            cpu: Cpu {
                user: self.number("cpuacct", "cpuacct.usage_user"),
                system: self.number("cpuacct", "cpuacct.usage_sys"),
                periods: of(&cpu, "nr_periods"),
                throttled_periods: of(&cpu, "nr_throttled"),
                throttled: of(&cpu, "throttled_time"),
            },
            memory: Memory {
                cache: of(&memory, "total_cache"),
                mapped_file: of(&memory, "total_mapped_file"),
                swap: of(&memory, "total_swap"),
                kernel: self.number("memory", "memory.kmem.usage_in_bytes"),
                usage_max: self.number("memory", "memory.max_usage_in_bytes"),
                limit_hits: self.number("memory", "memory.failcnt"),
                page_faults: faults("pgfault"),
                major_page_faults: faults("pgmajfault"),
            },
            oom_kills: of(&self.text("memory", "memory.oom_control"), "oom_kill"),
            threads_max: self.text("pids", "pids.max").trim().parse().ok(),
            io: Vec::new(),
            huge_pages: self.huge_pages("usage_in_bytes", "max_usage_in_bytes"),
        }
    }

    fn v2(&self) -> Account {
        let cpu = self.text("cpu", "cpu.stat");
        let memory = self.text("memory", "memory.stat");
        let of = |text: &str, key: &str| line(text, key).unwrap_or_default();
        // v2 counts hierarchies only.
        let faults = |key: &str| Faults { own: of(&memory, key), hierarchy: of(&memory, key) };
        Account {
            cpu: Cpu {
                user: of(&cpu, "user_usec") * 1000,
                system: of(&cpu, "system_usec") * 1000,
                periods: of(&cpu, "nr_periods"),
                throttled_periods: of(&cpu, "nr_throttled"),
                throttled: of(&cpu, "throttled_usec") * 1000,
            },
            memory: Memory {
                cache: of(&memory, "file"),
                mapped_file: of(&memory, "file_mapped"),
                swap: self.number("memory", "memory.swap.current"),
                kernel: of(&memory, "kernel"),
                usage_max: self.number("memory", "memory.peak"),
                limit_hits: 0, // not counted by v2
                page_faults: faults("pgfault"),
                major_page_faults: faults("pgmajfault"),
            },
            oom_kills: of(&self.text("memory", "memory.events"), "oom_kill"),
            threads_max: self.text("pids", "pids.max").trim().parse().ok(),
            io: self.text("io", "io.stat").lines().filter_map(device_io).collect(),
            huge_pages: self.huge_pages("current", "max_usage"),
        }
    }

    /// `hugetlb.2MB.<usage>` of each page size that the kernel has.
    fn huge_pages(&self, usage: &str, usage_max: &str) -> Vec<HugePages> {
        let Some(dir) = self.cgroups.layout().file("hugetlb", self.path, "", "") else { return Vec::new() };
        sizes(&dir, usage)
            .into_iter()
            .map(|page_size| HugePages {
                usage: self.number("hugetlb", &format!("hugetlb.{page_size}.{usage}")),
                usage_max: self.number("hugetlb", &format!("hugetlb.{page_size}.{usage_max}")),
                page_size,
            })
            .collect()
    }
}

fn sizes(dir: &Path, usage: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let size = |name: String| {
        let (size, file) = name.strip_prefix("hugetlb.")?.split_once('.')?;
        (file == usage).then(|| size.to_owned())
    };
    names.filter_map(size).collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn device_io(text: &str) -> Option<DeviceIo> {
    let (device, rest) = text.split_once(' ')?;
    let of = |key: &str| {
        let value = rest.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|text| text.parse().ok()).unwrap_or_default()
    };
    Some(DeviceIo {
        device: device.to_owned(),
        read_bytes: of("rbytes"),
        write_bytes: of("wbytes"),
        reads: of("rios"),
        writes: of("wios"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_to_a_device_is_read_by_name() {
        let read = device_io("8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0").unwrap();
        assert_eq!((read.device.as_str(), read.read_bytes, read.write_bytes), ("8:0", 4096, 8192));
        assert_eq!((read.reads, read.writes), (1, 2));
        assert_eq!(device_io("8:0"), None);
    }
}
