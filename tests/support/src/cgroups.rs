//! The cgroups that a runtime under test or measured had.

use std::path::{Path, PathBuf};

/// The cgroup of this name in each hierarchy.
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let trees = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    trees.map(|tree| Path::new(tree).join(name)).collect()
}

/// Removes a cgroup without processes, and those beneath it; one that is not there is fine.
///
/// # Errors
///
/// `EBUSY` while a process is in one.
pub fn remove_cgroup(dir: &Path) -> std::io::Result<()> {
    directories(dir).iter().try_for_each(|dir| remove_cgroup(dir))?;
    if dir.exists() { std::fs::remove_dir(dir) } else { Ok(()) }
}

/// The directories in one; none of one that is not there.
pub fn directories(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|path| path.is_dir()).collect()
}
