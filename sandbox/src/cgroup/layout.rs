//! Which cgroup hierarchies the node has, and where.

use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupError, failed};

/// The controllers that containers need; others are left alone.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer"];
/// What is switched on in v2.
const DELEGATED: [&str; 6] = ["cpu", "memory", "pids", "io", "cpuset", "hugetlb"];
/// The v1 controllers that a container joins only where it asks for their limits: few do, and each costs every start.
const ON_DEMAND: [&str; 2] = ["cpuset", "hugetlb"];

/// One v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

impl Hierarchy {
    /// The directory of a cgroup in it.
    pub(crate) fn dir(&self, path: &str) -> PathBuf {
        self.mount.join(path)
    }

    /// Whether it has this controller.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|it| it == controller)
    }

    /// Its controllers, as its mount options name them.
    pub(crate) fn name(&self) -> String {
        self.controllers.join(",")
    }
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    v1: Vec<Hierarchy>,
    /// Of these, only what a container asks for.
    on_demand: Vec<Hierarchy>,
    /// Where v2 is mounted: the only tree, or beside those of v1 without controllers.
    v2: Option<PathBuf>,
}

impl Layout {
    /// Reads the mounts of this process.
    pub(crate) fn read() -> io::Result<Self> {
        let layout = Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?);
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(io::Error::other("no cgroup file system is mounted: mount one at /sys/fs/cgroup"));
        }
        Ok(layout)
    }

    fn parse(mountinfo: &str) -> Self {
        let mut layout = Self { v1: Vec::new(), on_demand: Vec::new(), v2: None };
        for line in mountinfo.lines() {
            // id parent device root mount-point options [optional]... - type source super-options
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            match kind {
                Some("cgroup2") if layout.v2.is_none() => layout.v2 = Some(mount),
                Some("cgroup") => {
                    let known = |name: &&str| CONTROLLERS.contains(name);
                    let controllers: Vec<String> = options.split(',').filter(known).map(str::to_owned).collect();
                    let is_new = !layout.v1.iter().any(|it| controllers.iter().any(|name| it.has(name)));
                    let rare = options.split(',').filter(|name| ON_DEMAND.contains(name)).map(str::to_owned);
                    let rare: Vec<String> = rare.collect();
                    if !controllers.is_empty() && is_new {
                        layout.v1.push(Hierarchy { controllers, mount });
                    } else if controllers.is_empty() && !rare.is_empty() {
                        layout.on_demand.push(Hierarchy { controllers: rare, mount });
                    }
                }
                _ => {}
            }
        }
        layout
    }

    /// Leaves out what this process may not make cgroups in, and says what that means. What isolation rests on has to
    /// be there: the devices that containers may open, and a way to kill all of one.
    pub(super) fn keep_usable(&mut self, root: &str) -> io::Result<()> {
        let make = |dir: PathBuf| {
            std::fs::create_dir_all(&dir)
                .map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", dir.display())))
        };
        if self.is_v2() {
            return self.v2(root).map_or(Ok(()), make);
        }
        self.v1.retain(|it| match make(it.dir(root)) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, controllers = it.name(), "limits of these controllers cannot be set on this node");
                false
            }
        });
        if let Some(error) = self.v2(root).and_then(|dir| make(dir).err()) {
            tracing::info!(%error, "the v2 tree cannot be used, containers are killed by the freezer");
            self.v2 = None;
        }
        let has_kill = self.v2(root).is_some_and(|dir| dir.join("cgroup.kill").exists());
        if has_kill {
            // Each hierarchy costs every start, and this one is for nothing but killing.
            self.v1.retain(|it| it.controllers != ["freezer"]);
        }
        for needed in if has_kill { &["devices"][..] } else { &["devices", "freezer"] } {
            if !self.v1.iter().any(|it| it.has(needed)) {
                let text = format!(
                    "no cgroup hierarchy with the {needed} controller that can be written: containers would not be confined"
                );
                return Err(io::Error::other(text));
            }
        }
        Ok(())
    }

    /// The v1 hierarchies; empty on v2.
    pub(crate) fn v1(&self) -> &[Hierarchy] {
        &self.v1
    }

    /// Whether controllers are those of v2.
    pub(crate) fn is_v2(&self) -> bool {
        self.v1.is_empty()
    }

    /// The directory of a cgroup in the v2 tree, if there is one.
    pub(crate) fn v2(&self, path: &str) -> Option<PathBuf> {
        Some(self.v2.as_ref()?.join(path))
    }

    /// The directories that every cgroup has; that of v2 last.
    pub(crate) fn dirs(&self, path: &str) -> Vec<PathBuf> {
        self.v1.iter().map(|it| it.dir(path)).chain(self.v2(path)).collect()
    }

    /// The directories of a cgroup in hierarchies that we do not use, but others do.
    pub(super) fn dirs_of_others(&self, path: &str) -> Vec<PathBuf> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounts = mountinfo.lines().filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right.starts_with("cgroup").then(|| Path::new(left.split(' ').nth(4).unwrap_or_default()).join(path))
        });
        let ours = self.dirs(path);
        mounts.filter(|dir| !ours.contains(dir)).collect()
    }

    /// The v1 hierarchies that a container joins where it asks for their limits.
    pub(crate) fn on_demand(&self) -> &[Hierarchy] {
        &self.on_demand
    }

    /// All directories that a cgroup may have.
    pub(crate) fn all_dirs(&self, path: &str) -> Vec<PathBuf> {
        let mut dirs: Vec<_> = self.on_demand.iter().map(|it| it.dir(path)).collect();
        dirs.extend(self.dirs(path));
        dirs
    }

    /// A file of a controller: named `v1` there and `v2` here; `None` where the node lacks the controller.
    pub(crate) fn file(&self, controller: &str, path: &str, v1: &str, v2: &str) -> Option<PathBuf> {
        if self.is_v2() {
            let file = self.v2(path)?.join(v2);
            return file.exists().then_some(file);
        }
        Some(self.v1.iter().chain(&self.on_demand).find(|it| it.has(controller))?.dir(path).join(v1))
    }

    /// Switches on the controllers for `path` from the root down to its parent (v2 only).
    pub(crate) fn delegate(&self, path: &str) -> Result<(), CgroupError> {
        let Some(root) = self.v2.as_ref().filter(|_| self.is_v2()) else { return Ok(()) };
        let mut dir = root.clone();
        for part in path.split('/') {
            let file = dir.join("cgroup.subtree_control");
            let available = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
            let has = |name: &&&str| available.split_whitespace().any(|it| it == **name);
            let wanted: Vec<String> = DELEGATED.iter().filter(has).map(|name| format!("+{name}")).collect();
            let enabled = std::fs::read_to_string(&file).unwrap_or_default();
            let is_on = |name: &String| enabled.split_whitespace().any(|it| it == &name[1..]);
            if !wanted.iter().all(is_on) {
                std::fs::write(&file, wanted.join(" ")).map_err(failed("switch on controllers in", &file))?;
            }
            dir.push(part);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_unified_hosts_are_told_apart() {
        let hybrid = "\
30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset";
        let layout = Layout::parse(hybrid);
        assert!(!layout.is_v2());
        assert_eq!(layout.v1().iter().map(Hierarchy::name).collect::<Vec<_>>(), ["cpu,cpuacct", "memory"]);
        assert_eq!(layout.on_demand().iter().map(Hierarchy::name).collect::<Vec<_>>(), ["cpuset"]);
        assert_eq!(layout.v2("a/b"), Some("/sys/fs/cgroup/unified/a/b".into()));
        let file = layout.file("memory", "p", "memory.limit_in_bytes", "memory.max");
        assert_eq!(file, Some("/sys/fs/cgroup/memory/p/memory.limit_in_bytes".into()));
        assert!(Layout::parse("29 22 0:25 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate").is_v2());
    }
}
