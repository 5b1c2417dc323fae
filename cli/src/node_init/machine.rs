//! A container as a machine: cgroups of its own that it may write, and a /proc without Docker's masks.

use std::path::{Path, PathBuf};

use fs_err as fs;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::failure::{Failure, Outcome};

const CGROUPS: &str = "/sys/fs/cgroup";
/// The cgroup of this process on v2, where a cgroup with processes passes no controller on.
const LEAF: &str = "init";
/// What is passed on, where the container has it.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Makes the container ready for pods.
///
/// # Errors
/// When the container lacks a capability for it; the hint says which.
pub(super) fn prepare() -> Outcome {
    step("make the mounts private", || {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
    })?;
    // Docker shows /proc/sys read-only and hides other parts, which pods' sysctls and their own /proc need.
    step("mount /proc", || mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>))?;
    // From here on the container's cgroups are the roots of what is mounted.
    step("unshare the cgroup namespace", || unshare(CloneFlags::CLONE_NEWCGROUP))?;
    let hierarchies = hierarchies(&fs::read_to_string("/proc/self/cgroup")?);
    // Docker's view is read-only and of the host's tree.
    let _ = umount2(CGROUPS, MntFlags::MNT_DETACH);
    if !matches!(hierarchies.as_slice(), [Hierarchy { options: None, .. }]) {
        step("mount a directory for cgroups", || {
            mount(Some("tmpfs"), CGROUPS, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        })?;
    }
    for hierarchy in &hierarchies {
        mount_hierarchy(hierarchy)?;
    }
    Ok(())
}

fn step(what: &str, run: impl FnOnce() -> nix::Result<()>) -> Outcome {
    run().map_err(|error| {
        Failure::local(format!("cannot {what}"))
            .because(error)
            .hint("give the container CAP_SYS_ADMIN, and seccomp and AppArmor unconfined, as deploy/compose.yaml does")
    })
}

/// One hierarchy of cgroups.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Where it is to be.
    mount_point: PathBuf,
    /// The controllers of a v1 hierarchy, as mount options; `None`: v2.
    options: Option<String>,
}

/// Those of /proc/self/cgroup: `4:cpu,cpuacct:/`, `1:name=systemd:/`, `0::/`.
fn hierarchies(cgroup: &str) -> Vec<Hierarchy> {
    let mut found: Vec<_> = cgroup
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .filter(|controllers| !controllers.is_empty())
        .map(|controllers| Hierarchy {
            mount_point: Path::new(CGROUPS).join(controllers.trim_start_matches("name=")),
            options: Some(controllers.to_owned()),
        })
        .collect();
    if cgroup.lines().any(|line| line.starts_with("0::")) {
        let root = Path::new(CGROUPS);
        let mount_point = if found.is_empty() { root.to_owned() } else { root.join("unified") };
        found.push(Hierarchy { mount_point, options: None });
    }
    found
}

fn mount_hierarchy(hierarchy: &Hierarchy) -> Outcome {
    let at = &hierarchy.mount_point;
    if at != Path::new(CGROUPS) {
        fs::create_dir_all(at)?;
    }
    let kind = if hierarchy.options.is_some() { "cgroup" } else { "cgroup2" };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    step(&format!("mount {}", at.display()), || {
        mount(Some(kind), at, Some(kind), flags, hierarchy.options.as_deref())
    })?;
    if hierarchy.options.is_none() {
        pass_controllers_on(at)?;
    }
    Ok(())
}

/// Moves this process into a leaf, so that its cgroup may pass controllers on.
fn pass_controllers_on(root: &Path) -> Outcome {
    let leaf = root.join(LEAF);
    fs::create_dir_all(&leaf)?;
    for pid in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
        fs::write(leaf.join("cgroup.procs"), pid)?;
    }
    let available = fs::read_to_string(root.join("cgroup.controllers"))?;
    for controller in available.split_ascii_whitespace().filter(|name| CONTROLLERS.contains(name)) {
        fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_is_mounted_where_programs_look_for_it() {
        let at = |name: &str, options: Option<&str>| Hierarchy {
            mount_point: Path::new(CGROUPS).join(name),
            options: options.map(str::to_owned),
        };
        assert_eq!(
            hierarchies("4:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n"),
            [at("cpu,cpuacct", Some("cpu,cpuacct")), at("systemd", Some("name=systemd")), at("unified", None)]
        );
        assert_eq!(hierarchies("0::/\n"), [Hierarchy { mount_point: CGROUPS.into(), options: None }]);
    }
}
