//! What processes take: memory, processor time, and what is left of pods that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podbus_test_support::wait::rest;

/// The numbers in a file of `/proc/<pid>`, in kilobytes, by the word before the colon.
fn kilobytes(pid: u32, file: &str, key: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Resident memory of a process, in MB.
pub(crate) fn resident(pid: u32) -> f64 {
    kilobytes(pid, "status", "VmRSS").unwrap_or_default() * 1024.0 / 1e6
}

/// The proportional share of memory of processes together, in MB.
pub(crate) fn proportional(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| kilobytes(*pid, "smaps_rollup", "Pss")).sum::<f64>() * 1024.0 / 1e6
}

/// Processor time of each thread of a process, in nanoseconds, from the scheduler's own account.
fn busy(pid: u32) -> BTreeMap<OsString, u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some((task.file_name(), text.split(' ').next()?.parse().ok()?))
    });
    nanos.collect()
}

/// Processor time that a process takes while nobody asks anything of it, in milliseconds a second. Threads may end
/// meanwhile, and take what they had used before with them.
pub(crate) async fn idle_milliseconds_a_second(pid: u32, watched: Duration) -> f64 {
    let (begin, before) = (Instant::now(), busy(pid));
    rest(watched).await;
    let used = |(task, after): (OsString, u64)| after.saturating_sub(before.get(&task).copied().unwrap_or(0));
    let used = Duration::from_nanos(busy(pid).into_iter().map(used).sum());
    used.as_secs_f64() * 1e3 / begin.elapsed().as_secs_f64()
}

/// The processes of which the command line or the cgroup contains a text.
pub(crate) fn processes(file: &str, text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(text)
    };
    pids.filter(has).collect()
}

/// What is counted before and after many pods have come and gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftovers {
    pub(crate) descriptors: usize,
    pub(crate) mounts: usize,
    pub(crate) cgroups: usize,
    pub(crate) namespaces: usize,
    pub(crate) links: usize,
    pub(crate) files: usize,
    pub(crate) processes: usize,
}

impl Leftovers {
    /// Counts for the daemon `pid`, whose state is in `state_dir` and whose cgroups are named after `instance`.
    pub(crate) fn count(pid: u32, state_dir: &Path, instance: &str) -> Self {
        let entries = |path: String| std::fs::read_dir(path).map_or(0, Iterator::count);
        let lines = |path: String| std::fs::read_to_string(path).unwrap_or_default().lines().count();
        Self {
            descriptors: entries(format!("/proc/{pid}/fd")),
            mounts: lines(format!("/proc/{pid}/mountinfo")),
            cgroups: cgroups(instance),
            namespaces: network_namespaces(),
            links: lines(format!("/proc/{pid}/net/dev")),
            files: files(state_dir),
            processes: processes("cgroup", &format!("podbus-{instance}")).len(),
        }
    }

    /// How many more there are than before, of all kinds together.
    pub(crate) fn since(&self, before: &Self) -> usize {
        let pairs = [
            (self.descriptors, before.descriptors),
            (self.mounts, before.mounts),
            (self.cgroups, before.cgroups),
            (self.namespaces, before.namespaces),
            (self.links, before.links),
            (self.files, before.files),
            (self.processes, before.processes),
        ];
        pairs.into_iter().map(|(after, before)| after.saturating_sub(before)).sum()
    }
}

fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| 1 + if entry.path().is_symlink() { 0 } else { files(&entry.path()) }).sum()
}

fn network_namespaces() -> usize {
    let pids = processes("cgroup", "");
    let links = pids.into_iter().filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok());
    links.collect::<BTreeSet<PathBuf>>().len()
}

fn cgroups(instance: &str) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let trees = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let directories = |dir: PathBuf| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
    };
    trees.map(|tree| directories(Path::new(tree).join(format!("podbus-{instance}")))).sum()
}
