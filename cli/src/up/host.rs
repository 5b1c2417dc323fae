//! What clusters of one machine share: ranges of addresses and ports, chosen under one lock.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use ipnet::Ipv4Net;
use tokio::time::{Instant, sleep};

use super::cidr;
use super::layout::Layout;
use super::state::{self, Settings};
use crate::cluster::{self, RUN_DIR};
use crate::failure::{Failure, Outcome};

/// Another `up` holds the lock for the start of a nats-server, not longer.
const LOCK_MAX: Duration = Duration::from_secs(30);

/// Waits for its turn to choose; the turn ends when the file is dropped.
pub(crate) async fn lock() -> Outcome<File> {
    let path = Path::new(RUN_DIR).join("lock");
    let deadline = Instant::now() + LOCK_MAX;
    loop {
        fs::create_dir_all(RUN_DIR)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, &path) => return Ok(file),
            // The last cluster's end removed it meanwhile.
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                sleep(Duration::from_millis(5)).await;
            }
            Err(error) => {
                return Err(Failure::local(format!("cannot lock {}", path.display())).because(io::Error::from(error)));
            }
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let (held, named) = (file.metadata().map(id), std::fs::metadata(path).map(id));
    matches!((held, named), (Ok(held), Ok(named)) if held == named)
}

/// Removes what clusters share, when no other is left.
pub(crate) async fn forget_if_last() -> Outcome {
    let turn = lock().await?;
    let (clusters, unreadable) = cluster::read_all();
    if clusters.is_empty() && unreadable.is_empty() {
        fs::remove_file(Path::new(RUN_DIR).join("lock"))?;
        // It stays while it holds something.
        let _ = std::fs::remove_dir(RUN_DIR);
    }
    drop(turn);
    Ok(())
}

/// The range for the cluster's pods: that of before if it is still free, else another.
pub(crate) fn choose_cidr(layout: &Layout, before: Option<&Settings>) -> Outcome<Ipv4Net> {
    let taken = taken(layout);
    if let Some(range) = before.map(|settings| settings.pod_cidr).filter(|range| cidr::is_free(*range, &taken)) {
        return Ok(range);
    }
    let seed = layout.name.bytes().fold(0_u8, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte));
    cidr::choose(seed, &taken).ok_or_else(|| {
        Failure::local("the host's routes leave no private /16 for the pods").hint("`podbus doctor` lists the routes")
    })
}

/// Ranges in use: routes of the host but our own, nameservers, and other clusters that run.
fn taken(layout: &Layout) -> Vec<Ipv4Net> {
    let mut taken = host_ranges(|link| link.contains(&layout.name));
    let (clusters, _) = cluster::read_all();
    for cluster in clusters.iter().filter(|cluster| cluster.name != layout.name) {
        let settings = Layout::new(&cluster.state_dir).ok().and_then(|other| state::read_settings(&other).ok()?);
        taken.extend(settings.map(|settings| settings.pod_cidr));
    }
    taken
}

/// Routes of the host, but for links that `ours` knows, and its nameservers.
pub(crate) fn host_ranges(ours: impl Fn(&str) -> bool) -> Vec<Ipv4Net> {
    let mut ranges = cidr::routes(&fs::read_to_string("/proc/net/route").unwrap_or_default(), ours);
    ranges.extend(cidr::nameservers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()));
    ranges
}
