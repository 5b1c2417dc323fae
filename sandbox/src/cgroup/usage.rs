//! What a cgroup has used.

use std::path::PathBuf;

use super::Cgroups;

/// A measurement; `None` where the node does not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Nanoseconds of processor time.
    pub(crate) cpu_nanos: Option<u64>,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Bytes of file cache that could be given back at once.
    pub(crate) inactive_file: u64,
    /// Bytes.
    pub(crate) rss: u64,
    /// Bytes; `None`: no limit.
    pub(crate) memory_limit: Option<u64>,
    pub(crate) page_faults: u64,
    pub(crate) major_page_faults: u64,
    pub(crate) processes: Option<u64>,
    /// Bytes of swap in use, and how many more there may be; `None` where swap is not counted.
    pub(crate) swap: Option<Swap>,
}

/// Bytes of swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Swap {
    pub(crate) used: u64,
    /// `None`: no limit.
    pub(crate) available: Option<u64>,
}

/// Above it a v1 limit is none.
const UNLIMITED: u64 = 1 << 62;

impl Cgroups {
    /// Reads what a cgroup has used so far.
    pub(crate) fn usage(&self, path: &str) -> Usage {
        let layout = self.layout();
        let read = |file: Option<PathBuf>| file.and_then(|file| std::fs::read_to_string(file).ok());
        let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok());
        let is_v2 = layout.is_v2();
        let cpu = read(layout.file("cpuacct", path, "cpuacct.usage", "cpu.stat"));
        let stat = read(layout.file("memory", path, "memory.stat", "memory.stat")).unwrap_or_default();
        let (inactive, rss, faults, major) = if is_v2 {
            ("inactive_file", "anon", "pgfault", "pgmajfault")
        } else {
            ("total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault")
        };
        let of = |key: &str| line(&stat, key).unwrap_or(0);
        Usage {
            cpu_nanos: if is_v2 {
                cpu.and_then(|text| line(&text, "usage_usec")).map(|us| us * 1000)
            } else {
                number(cpu)
            },
            memory: number(read(layout.file("memory", path, "memory.usage_in_bytes", "memory.current"))),
            inactive_file: of(inactive),
            rss: of(rss),
            memory_limit: number(read(layout.file("memory", path, "memory.limit_in_bytes", "memory.max")))
                .filter(|limit| *limit < UNLIMITED),
            page_faults: of(faults),
            major_page_faults: of(major),
            processes: number(read(layout.file("pids", path, "pids.current", "pids.current"))),
            swap: self.swap(path),
        }
    }

    /// On v1 memory and swap have one counter and one limit, from which those of memory are taken away.
    fn swap(&self, path: &str) -> Option<Swap> {
        let number = |v1: &str, v2: &str| -> Option<u64> {
            let file = self.layout().file("memory", path, v1, v2)?;
            std::fs::read_to_string(file).ok()?.trim().parse().ok()
        };
        if self.layout().is_v2() {
            let used = number("", "memory.swap.current")?;
            return Some(Swap { used, available: number("", "memory.swap.max").map(|max| max.saturating_sub(used)) });
        }
        let used = number("memory.memsw.usage_in_bytes", "")?.saturating_sub(number("memory.usage_in_bytes", "")?);
        let limit = number("memory.memsw.limit_in_bytes", "").filter(|limit| *limit < UNLIMITED);
        let memory = number("memory.limit_in_bytes", "").unwrap_or_default();
        Some(Swap { used, available: limit.map(|limit| limit.saturating_sub(memory).saturating_sub(used)) })
    }
}

pub(super) fn line(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
