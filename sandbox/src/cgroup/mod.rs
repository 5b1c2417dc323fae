//! Cgroups: limits and accounts of containers, and the way to kill all of one.
//!
//! On v1 a cgroup is a directory of the same name in each hierarchy; where the v2 tree is mounted beside them
//! (`unified`), it is used for killing. On v2 it is one directory.

pub(crate) mod account;
mod check;
mod device;
mod layout;
mod limits;
pub(crate) mod pressure;
pub(crate) mod usage;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use podbus_common_cri::runtime::LinuxContainerResources;
use rustix::fs::{Mode, OFlags};

pub(crate) use self::layout::Layout;
pub(crate) use self::limits::Limits;
use crate::process::Invalid;

/// How long the kernel may take to end killed processes.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Why a cgroup could not be made or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub(crate) struct CgroupError {
    action: String,
    path: PathBuf,
    source: io::Error,
}

fn failed(action: impl Into<String>, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let (action, path) = (action.into(), path.to_owned());
    move |source| CgroupError { action, path, source }
}

/// The descriptors of a cgroup that a new process joins.
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// `cgroup.procs` files to write to.
    pub(crate) procs: Vec<OwnedFd>,
    /// The v2 directory to be born in.
    pub(crate) birth: Option<OwnedFd>,
    /// The counter of processes killed for want of memory.
    pub(crate) oom: Option<OwnedFd>,
    /// `cgroup.kill`.
    pub(crate) kill: Option<OwnedFd>,
}

/// The cgroups of one node.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    layout: Layout,
    root: String,
}

impl Cgroups {
    /// Finds out what the node has; `instance` is part of the name of all that is made without a parent.
    pub(crate) fn open(instance: &str) -> io::Result<Self> {
        let root = format!("podbus-{instance}");
        let mut layout = Layout::read()?;
        layout.keep_usable(&root)?;
        Ok(Self { layout, root })
    }

    /// What the node has.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The name of a cgroup of the runtime's own.
    pub(crate) fn own(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    /// The name of a pod's cgroup: what the request says, or one of our own. Never above the root.
    pub(crate) fn of_pod(&self, requested: &str, id: &str) -> Result<String, String> {
        let bare = requested.trim_matches('/');
        if bare.is_empty() {
            return Ok(self.own(&id[..id.len().min(16)]));
        }
        if bare.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(format!("cgroup_parent {requested:?} is not a plain path"));
        }
        Ok(bare.to_owned())
    }

    /// Makes a cgroup with limits, and opens what a process needs to join it.
    pub(crate) fn create(&self, path: &str, limits: &Limits) -> Result<Door, CgroupError> {
        self.make(path)?;
        self.layout.delegate(path)?;
        self.join_on_demand(path, limits)?;
        limits.apply(&self.layout, path)?;
        self.open_door(path)
    }

    /// Makes, beneath the cgroup of a pod, what pause, named `name`, joins. On v1 that is the tree that it is killed by,
    /// and for all else it counts as its shim: it uses next to nothing, and each hierarchy that it joined would cost the
    /// start of every pod. The pod's own in the others is made by [`Cgroups::make`].
    pub(crate) fn create_for_pause(&self, pod: &str, name: &str) -> Result<Door, CgroupError> {
        if self.layout.is_v2() {
            return self.create(&format!("{pod}/{name}"), &Limits::pause());
        }
        self.make_leaf(pod, name)
    }

    /// Makes a cgroup without limits, in every hierarchy that all are in.
    pub(crate) fn make(&self, path: &str) -> Result<(), CgroupError> {
        let mut dirs = self.layout.dirs(path).into_iter();
        dirs.try_for_each(|dir| std::fs::create_dir_all(&dir).map_err(failed("make the cgroup", &dir)))
    }

    /// Makes the cgroup in the hierarchies that only these limits need. One without CPUs or memory nodes takes no
    /// process: it begins with what its parent has.
    fn join_on_demand(&self, path: &str, limits: &Limits) -> Result<(), CgroupError> {
        for hierarchy in self.layout.on_demand().iter().filter(|it| limits.needs(it)) {
            let mut done = PathBuf::new();
            for part in Path::new(path) {
                let (parent, dir) = (hierarchy.dir("").join(&done), hierarchy.dir("").join(&done).join(part));
                std::fs::create_dir_all(&dir).map_err(failed("make the cgroup", &dir))?;
                for name in ["cpuset.cpus", "cpuset.mems"].into_iter().filter(|_| hierarchy.has("cpuset")) {
                    let (file, read) = (dir.join(name), |dir: &Path| std::fs::read_to_string(dir.join(name)));
                    if read(&dir).is_ok_and(|text| text.trim().is_empty()) {
                        let above = read(&parent).map_err(failed("read", &parent.join(name)))?;
                        std::fs::write(&file, above.trim()).map_err(failed("write to", &file))?;
                    }
                }
                done.push(part);
            }
        }
        Ok(())
    }

    /// Refuses limits that no cgroup of this node can have.
    pub(crate) fn check(&self, resources: &LinuxContainerResources) -> Result<(), Invalid> {
        check::check(resources, self.layout.is_v2())
    }

    /// Changes the limits of one that exists: all of them or, on an error, none.
    pub(crate) fn update(&self, path: &str, limits: &Limits) -> Result<(), CgroupError> {
        self.join_on_demand(path, limits)?;
        for dir in self.layout.on_demand().iter().map(|it| it.dir(path)).filter(|dir| dir.exists()) {
            for pid in self.layout.dirs(path).first().map(|dir| pids(dir)).unwrap_or_default() {
                // One that has ended meanwhile is no matter.
                let _ = std::fs::write(dir.join("cgroup.procs"), pid.as_raw_nonzero().to_string());
            }
        }
        limits.change_all(&self.layout, path)
    }

    /// Sets oom_score_adj of all processes in a cgroup. What may not be lowered stays, as at a start.
    pub(crate) fn set_oom_score(&self, path: &str, score: i32) {
        for pid in self.layout.dirs(path).first().map(|dir| pids(dir)).unwrap_or_default() {
            let _ = std::fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), score.to_string());
        }
    }

    /// Opens what a process needs to join one that exists.
    pub(crate) fn open_door(&self, path: &str) -> Result<Door, CgroupError> {
        let mut door = self.open_v1(path)?;
        if let Some(dir) = self.layout.v2(path) {
            door.open_v2(&dir)?;
        }
        if let Some(file) = self.layout.file("memory", path, "memory.oom_control", "memory.events") {
            door.oom = Some(open(&file, OFlags::RDONLY)?);
        }
        Ok(door)
    }

    fn open_v1(&self, path: &str) -> Result<Door, CgroupError> {
        let mut door = Door::default();
        for hierarchy in self.layout.v1() {
            door.procs.push(open(&hierarchy.dir(path).join("cgroup.procs"), OFlags::WRONLY)?);
        }
        for hierarchy in self.layout.on_demand() {
            door.procs.extend(open(&hierarchy.dir(path).join("cgroup.procs"), OFlags::WRONLY).ok());
        }
        Ok(door)
    }

    /// Opens a cgroup beneath `path` for one more process of a container: what is in it is killed together.
    pub(crate) fn open_exec_door(&self, path: &str, name: &str) -> Result<Door, CgroupError> {
        let leaf = self.make_leaf(path, name)?;
        let mut door = self.open_v1(path)?;
        door.procs.extend(leaf.procs); // where they are joined in this order, the last one of a hierarchy counts
        Ok(Door { procs: door.procs, ..leaf })
    }

    /// Makes a cgroup beneath `path` in the tree that processes are killed by: v2, or the freezer of a pure v1.
    fn make_leaf(&self, path: &str, name: &str) -> Result<Door, CgroupError> {
        let mut door = Door::default();
        if let Some(parent) = self.layout.v2(path) {
            let dir = parent.join(name);
            // In this order it fails nowhere on the way where only the two are missing.
            let made = std::fs::create_dir_all(&parent).and_then(|()| std::fs::create_dir_all(&dir));
            made.map_err(failed("make the cgroup", &dir))?;
            door.open_v2(&dir)?;
        } else if let Some(freezer) = self.layout.v1().iter().find(|it| it.has("freezer")) {
            let dir = freezer.dir(path).join(name);
            std::fs::create_dir_all(&dir).map_err(failed("make the cgroup", &dir))?;
            door.procs.push(open(&dir.join("cgroup.procs"), OFlags::WRONLY)?);
        }
        Ok(door)
    }

    /// Puts a process into a cgroup.
    pub(crate) fn join(&self, path: &str, pid: u32) -> Result<(), CgroupError> {
        for dir in self.layout.dirs(path) {
            let file = dir.join("cgroup.procs");
            std::fs::write(&file, pid.to_string()).map_err(failed("join the cgroup", &file))?;
        }
        Ok(())
    }

    /// Whether a process is in this cgroup of every hierarchy.
    pub(crate) fn has(&self, path: &str, pid: u32) -> bool {
        let line = pid.to_string();
        let holds = |dir: &PathBuf| {
            std::fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|text| text.lines().any(|it| it == line))
        };
        self.layout.dirs(path).iter().all(holds)
    }

    /// Puts a process that runs in `path` into the cgroup that [`Cgroups::open_exec_door`] made.
    pub(crate) fn join_exec(&self, path: &str, name: &str, pid: u32) -> Result<(), CgroupError> {
        let v1 = || self.layout.v1().iter().find(|it| it.has("freezer")).map(|it| it.dir(path));
        let Some(dir) = self.layout.v2(path).or_else(v1) else { return Ok(()) };
        let file = dir.join(name).join("cgroup.procs");
        std::fs::write(&file, pid.to_string()).map_err(failed("join the cgroup", &file))
    }

    /// Kills all in a cgroup and beneath it, whoever its parent is. What is gone is fine.
    pub(crate) fn kill(&self, path: &str) {
        if let Some(dir) = self.layout.v2(path)
            && std::fs::write(dir.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        // Before 5.14, and on a pure v1: nothing can fork while it is frozen.
        let v1 = self.layout.v1().iter().find(|it| it.has("freezer")).map(|it| it.dir(path));
        let (dir, file, frozen, thawed) = match v1 {
            Some(dir) => (Some(dir), "freezer.state", "FROZEN", "THAWED"),
            None => (self.layout.v2(path), "cgroup.freeze", "1", "0"),
        };
        let Some(dir) = dir else { return };
        let _ = std::fs::write(dir.join(file), frozen);
        for pid in pids(&dir) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = std::fs::write(dir.join(file), thawed);
    }

    /// Kills all in it, waits for the end, and removes it with all beneath it. One that is gone is fine.
    pub(crate) async fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let deadline = tokio::time::Instant::now() + KILL_WAIT;
        let mut wait = Duration::from_micros(200);
        loop {
            let busy = self
                .layout
                .all_dirs(path)
                .into_iter()
                .filter_map(|dir| remove_tree(&dir).err().map(|e| (dir, e)))
                .next();
            let Some((dir, error)) = busy else { return Ok(()) };
            if tokio::time::Instant::now() > deadline {
                return Err(failed("remove the cgroup", &dir)(error));
            }
            self.kill(path);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }

    /// Removes a cgroup if nothing is in it: that of a pod may be its agent's.
    pub(crate) fn remove_if_empty(&self, path: &str) {
        for dir in self.layout.all_dirs(path) {
            let _ = std::fs::remove_dir(dir);
        }
    }

    /// Removes what a runtime handler made of this name in hierarchies that we do not use, as far as it is empty.
    pub(crate) fn remove_of_others(&self, path: &str) {
        for dir in self.layout.dirs_of_others(path) {
            let _ = remove_tree(&dir);
        }
    }

    /// Removes all of this instance.
    pub(crate) async fn destroy(&self) -> Result<(), CgroupError> {
        self.remove_of_others(&self.root);
        self.remove(&self.root).await
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, CgroupError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| failed("open", path)(errno.into()))
}

/// The processes in a cgroup and beneath it.
fn pids(dir: &Path) -> Vec<rustix::process::Pid> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<_> =
        text.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw).collect();
    for child in children(dir) {
        found.extend(pids(&child));
    }
    found
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Cgroups are removed from the leaves up.
fn remove_tree(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    for child in children(dir) {
        remove_tree(&child)?;
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Door {
    fn open_v2(&mut self, dir: &Path) -> Result<(), CgroupError> {
        self.birth = Some(open(dir, OFlags::RDONLY | OFlags::DIRECTORY)?);
        self.kill = open(&dir.join("cgroup.kill"), OFlags::WRONLY).ok();
        Ok(())
    }

    /// The numbers of its descriptors, each with the tag of the plan's field that names it.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (u16, i32)> {
        use podbus_sandbox_linux::plan::tag;
        let one = |tag, fd: &Option<OwnedFd>| fd.as_ref().map(|fd| (tag, fd.as_raw_fd()));
        let procs = self.procs.iter().map(|fd| (tag::FD_CGROUP, fd.as_raw_fd()));
        procs
            .chain(one(tag::FD_CGROUP_BIRTH, &self.birth))
            .chain(one(tag::FD_OOM, &self.oom))
            .chain(one(tag::FD_KILL, &self.kill))
    }
}
