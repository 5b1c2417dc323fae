//! What the kernel gives: namespaces, cgroups, overlayfs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::Finding;

/// The controllers that limits of pods need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) fn examine(root: bool) -> Vec<Finding> {
    let mut findings = vec![namespaces(root), cgroups()];
    if root {
        findings.push(overlay());
    }
    findings
}

fn namespaces(root: bool) -> Finding {
    let missing: Vec<_> = ["mnt", "pid", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    if !missing.is_empty() {
        let hint = "use a kernel with CONFIG_NAMESPACES and all kinds of them";
        return Finding::bad("namespaces", format!("the kernel has no {}", missing.join(", ")), hint);
    }
    if !root {
        return Finding::good("namespaces", "the kernel has them");
    }
    let flags =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    match on_a_thread(move || unshare(flags)) {
        Ok(()) => Finding::good("namespaces", "can be made"),
        Err(error) => Finding::bad(
            "namespaces",
            format!("cannot be made: {error}"),
            "in a container, give it CAP_SYS_ADMIN and an unconfined seccomp profile (deploy/compose.yaml shows how)",
        ),
    }
}

fn cgroups() -> Finding {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (version, controllers) =
        controllers(&mountinfo, |root| std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default());
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|name| !controllers.contains(*name)).collect();
    if version.is_empty() {
        return Finding::bad("cgroups", "no hierarchy is mounted", "mount -t cgroup2 none /sys/fs/cgroup");
    }
    if missing.is_empty() {
        return Finding::good("cgroups", format!("{version} with {}", CONTROLLERS.join(", ")));
    }
    Finding::warning(
        "cgroups",
        format!("{version} without {}: these limits have no effect", missing.join(", ")),
        "boot with `cgroup_enable=memory`, or mount the hierarchy of the controller",
    )
}

/// Which versions are mounted, and the controllers of all hierarchies.
fn controllers(mountinfo: &str, of_v2: impl Fn(&Path) -> String) -> (String, BTreeSet<String>) {
    let (mut versions, mut names) = (BTreeSet::new(), BTreeSet::new());
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let root = PathBuf::from(left.split(' ').nth(4).unwrap_or_default());
        match right.split(' ').next() {
            Some("cgroup") => {
                versions.insert("v1");
                let options = right.rsplit(' ').next().unwrap_or_default();
                names.extend(options.split(',').map(str::to_owned));
            }
            Some("cgroup2") => {
                versions.insert("v2");
                names.extend(of_v2(&root).split_ascii_whitespace().map(str::to_owned));
            }
            _ => {}
        }
    }
    (versions.into_iter().collect::<Vec<_>>().join(" and "), names)
}

/// Mounts one where the state directory would be: there an image's file system has to lie.
fn overlay() -> Finding {
    let base = [crate::up::STATE_DIR, "/var/lib", "/tmp"].map(Path::new).into_iter().find(|dir| dir.is_dir());
    let base = base.unwrap_or(Path::new("/")).join(format!(".podbus-doctor-{}", std::process::id()));
    let tried = on_a_thread({
        let base = base.clone();
        move || try_overlay(&base)
    });
    // Only empty directories and overlay's own work directory are in it.
    let _ = std::fs::remove_dir_all(&base);
    match tried {
        Ok(()) => Finding::good("overlayfs", "can be mounted"),
        Err(error) => Finding::bad(
            "overlayfs",
            format!("cannot be mounted: {error}"),
            "load the module (`modprobe overlay`), and keep the state on ext4 or xfs: overlay does not lie on overlay (--state-dir)",
        ),
    }
}

fn try_overlay(base: &Path) -> std::io::Result<()> {
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| base.join(name));
    for dir in [&lower, &upper, &work, &merged] {
        std::fs::create_dir_all(dir)?;
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    umount2(&merged, MntFlags::MNT_DETACH)?;
    Ok(())
}

/// Runs what changes its thread's namespaces on a thread that ends with it.
fn on_a_thread<E: Into<std::io::Error>>(work: impl FnOnce() -> Result<(), E> + Send + 'static) -> std::io::Result<()> {
    let done = std::thread::spawn(move || work().map_err(Into::into)).join();
    done.unwrap_or_else(|_| Err(std::io::Error::other("the attempt panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_of_both_versions_are_counted() {
        let mountinfo = "\
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /tmp rw - tmpfs tmpfs rw,pids
";
        let (version, controllers) = controllers(mountinfo, |_| "pids io\n".to_owned());
        assert_eq!(version, "v1 and v2");
        for name in CONTROLLERS {
            assert!(controllers.contains(name), "{name}");
        }
    }
}
