//! What pods leave that came and went: nothing.

use std::collections::BTreeMap;
use std::path::Path;

use super::host::{Host, on_host, until, wait_until};

/// Lives of a pod, unless [`CYCLES_VARIABLE`] says otherwise: `make soak` has 10,000.
const CYCLES: usize = 25;
const CYCLES_VARIABLE: &str = "PODBUS_SOAK_CYCLES";
/// What is allocated once is by then.
const WARM_UP: usize = 10;
/// What an allocator and the stacks of threads may still take. A kilobyte kept for each of 10,000 pods is more.
const MORE_MEMORY_KIB: usize = 8 << 10;

/// How much a node has of what a pod takes while it lives.
type Holdings = BTreeMap<&'static str, usize>;

#[test]
fn pods_that_came_and_went_leave_everything_where_it_was() {
    let cycles = std::env::var(CYCLES_VARIABLE).map_or(CYCLES, |text| text.parse().unwrap());
    on_host(|mut host| async move {
        live(&mut host, WARM_UP).await;
        host.assert_nothing_is_left().await;
        host.wait_for_spares().await;
        wait_until("the network is made in advance", || host.veths() == 1).await;
        let (before, resident) = (holdings(&host), resident_kib(&host));
        live(&mut host, cycles).await;
        // The kernel ends namespaces when it finds the time, and the daemon prepares for the next pod.
        let after = until(async || {
            let after = holdings(&host);
            let more: Vec<_> = before.keys().filter(|name| after[*name] > before[*name]).collect();
            if more.is_empty() { Ok(after) } else { Err(format!("more {more:?} than {before:?}: {after:?}")) }
        })
        .await;
        let resident_after = resident_kib(&host);
        println!("{cycles} cycles: before {before:?}, {resident} KiB; after {after:?}, {resident_after} KiB");
        assert!(resident_after < resident + MORE_MEMORY_KIB, "the daemon grew from {resident} to {resident_after} KiB");
        host
    });
}

/// Runs and removes pods with a container each, one after the other.
async fn live(host: &mut Host, count: usize) {
    for _ in 0..count {
        let sandbox = host.run_pod("web").await;
        host.run(&sandbox, "main", "sleep 1000").await;
        host.remove_pod(&sandbox).await;
    }
}

fn holdings(host: &Host) -> Holdings {
    let entries = |path: String| std::fs::read_dir(path).map_or(0, Iterator::count);
    let daemon = host.daemon_pid();
    let mounts = std::fs::read_to_string(format!("/proc/{daemon}/mountinfo")).unwrap();
    let (files, blocks) = disk(&host.path("state"));
    BTreeMap::from([
        ("descriptors", entries(format!("/proc/{daemon}/fd"))),
        ("descriptors of the spawner", entries(format!("/proc/{}/fd", host.spawner()))),
        ("mounts", mounts.lines().count()),
        ("cgroups", host.cgroups().len()),
        ("links", host.links().lines().count()),
        ("shims", host.shims().len() + host.spares().len()),
        ("files", files),
        ("blocks", blocks),
    ])
}

/// Files and the blocks of 512 bytes that they take.
fn disk(dir: &Path) -> (usize, usize) {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = (0, 0);
    // What is removed meanwhile counts no more.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let beneath =
            if metadata.is_dir() { disk(&entry.path()) } else { (0, usize::try_from(metadata.blocks()).unwrap()) };
        sum = (sum.0 + 1 + beneath.0, sum.1 + beneath.1);
    }
    sum
}

fn resident_kib(host: &Host) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.daemon_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
