//! The cgroups of pods: named here, made by the runtime, which may leave what is above its own containers.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use podbus_common::fold::qos;
use podbus_common::model::Pod;

/// The cgroup of a pod beneath the node's, by its quality of service, as the kubelet has it.
pub(crate) fn of_pod(root: &str, pod: &Pod) -> String {
    let class = match qos(pod) {
        "BestEffort" => "/besteffort",
        "Burstable" => "/burstable",
        _ => "",
    };
    format!("{root}{class}/pod{}", pod.metadata.uid)
}

/// Removes a cgroup, and what is empty beneath it, from each hierarchy: nothing, where the runtime did.
pub(crate) fn remove(path: &str) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts.lines().filter_map(hierarchy).try_for_each(|mount| remove_tree(&mount.join(path.trim_start_matches('/'))))
}

/// Where a line of mountinfo mounts cgroups, if it does: `id parent device root mount-point options - type ...`.
fn hierarchy(line: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    kind.starts_with("cgroup").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
}

/// From the leaves up; the files of a cgroup go with its directory.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_the_mounts_of_both_versions() {
        let v1 = "31 30 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory";
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        let other = "29 23 0:25 / /tmp rw - tmpfs tmpfs rw";
        assert_eq!(hierarchy(v1), Some(PathBuf::from("/sys/fs/cgroup/memory")));
        assert_eq!(hierarchy(v2), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(hierarchy(other), None);
        assert_eq!(hierarchy(""), None);
    }

    #[test]
    fn a_tree_goes_from_the_leaves_up_and_one_that_is_gone_is_fine() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("pod");
        fs::create_dir_all(pod.join("a/b")).unwrap();
        remove_tree(&pod).unwrap();
        assert!(!pod.exists());
        remove_tree(&pod).unwrap();
    }
}
