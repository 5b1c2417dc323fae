//! What every container sees of the kernel: `/proc`, `/sys` with the cgroups, `/dev`.
//!
//! The latter two are trees of mounts that can be there before their container is asked for.

use core::ffi::CStr;

use podbus_sandbox_linux::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY, STRICTATIME};
use podbus_sandbox_linux::path::{self, Leaf};
use podbus_sandbox_linux::plan::{Plan, tag};
use podbus_sandbox_linux::process::{self, Copy, CopyOptions, SingleThread};
use podbus_sandbox_linux::socket::{self, Fds};
use podbus_sandbox_linux::{Errno, Fd, Result, file, namespace};

use crate::failure::{At as _, Outcome};
use crate::rootfs::ROOT;
use crate::spawner::DEVICES;

/// What only shows the kernel.
const LOCKED: u64 = NOSUID | NOEXEC | NODEV;
/// Beneath `/sys`.
const CGROUPS: &[u8] = b"fs/cgroup";

/// What views are made of.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// They are made already, but for what only the container's own namespaces show.
    Views(&'a Views),
    Parts(&'a Parts),
}

/// What `/dev` takes from the mount namespace of the shim: mounts that are attached nowhere.
pub(crate) struct Parts {
    devices: [Option<Fd>; DEVICES.len()],
    shm: Option<Fd>,
}

impl Parts {
    pub(crate) fn copy(plan: Plan<'_>) -> Outcome<Self> {
        let mut devices = [const { None }; DEVICES.len()];
        for (place, (source, name, _, _)) in devices.iter_mut().zip(DEVICES) {
            let device = mount::copy(file::CWD, source, false).at_path("find the device", name.to_bytes())?;
            *place = Some(device);
        }
        let shm = match plan.number(tag::POD_SHM, 0) {
            0 => None,
            _ => Some(mount::copy(file::CWD, c"/mnt/shm", false).at("find the pod's /dev/shm")?),
        };
        Ok(Self { devices, shm })
    }
}

/// `/sys` and `/dev` for one container that is not privileged and has the pod's `/dev/shm`: attached nowhere.
pub(crate) struct Views {
    sys: Fd,
    dev: Fd,
}

impl Views {
    /// Makes them in a process that ends then: before Linux 6.15 only what is attached somewhere takes mounts.
    pub(crate) fn make(single: SingleThread, plan: Plan<'_>) -> Result<Self> {
        let (ours, theirs) = socket::pair()?;
        let options = CopyOptions { namespaces: namespace::MOUNT, ..CopyOptions::default() };
        let pid = match process::copy(single, options)? {
            Copy::Child => process::exit(i32::from(Self::hand_over(plan, &theirs).is_err())),
            Copy::Parent(pid) => pid,
        };
        drop(theirs);
        let mut fds = Fds::none();
        let received = socket::receive(ours.raw(), &mut [0; 1], &mut fds);
        process::wait(pid)?;
        received?;
        Ok(Self { sys: fds.take(0)?, dev: fds.take(1)? })
    }

    fn hand_over(plan: Plan<'_>, shim: &Fd) -> Outcome<()> {
        const STEP: &str = "make what the next container sees of the kernel";
        let parts = Parts::copy(plan)?;
        let place = file::open(file::CWD, ROOT, libc::O_PATH | libc::O_DIRECTORY, 0).at(STEP)?;
        let attach = |mounted: Result<Fd>| mounted.and_then(|it| mount::attach(&it, &place).map(|()| it)).at(STEP);
        let whole = |mounted: &Fd| mount::copy(mounted.raw(), c"", true).at(STEP);
        let sys = attach(new_sys(plan))?;
        fill_sys(plan, &sys)?;
        let sys = whole(&sys)?; // before the other one covers it
        let dev = attach(new_dev(plan))?;
        fill_dev(&dev, &parts)?;
        let dev = whole(&dev)?;
        socket::send(shim.raw(), &[0], &[sys.raw(), dev.raw()], true).at(STEP)
    }

    /// Whether the container of this plan is one that they are made for.
    pub(crate) fn suit(plan: Plan<'_>) -> bool {
        !is_privileged(plan) && plan.number(tag::POD_SHM, 0) != 0
    }
}

fn is_privileged(plan: Plan<'_>) -> bool {
    plan.number(tag::PRIVILEGED, 0) != 0
}

/// Mounts all of them in `root`.
pub(crate) fn mount(plan: Plan<'_>, root: &Fd, source: Source<'_>) -> Outcome<()> {
    mount_on_real(root, c"proc", &mount::new(c"proc", &[], LOCKED).at_path("make the file system of", b"proc")?)?;
    match source {
        Source::Views(Views { sys, dev }) => {
            mount_on_real(root, c"sys", sys)?;
            mount_cgroups(plan, sys)?;
            mount_on_real(root, c"dev", dev)
        }
        Source::Parts(parts) => {
            let sys = new_sys(plan).at_path("make the file system of", b"sys")?;
            mount_on_real(root, c"sys", &sys)?;
            fill_sys(plan, &sys)?;
            mount_cgroups(plan, &sys)?;
            let dev = new_dev(plan).at_path("make the file system of", b"dev")?;
            mount_on_real(root, c"dev", &dev)?;
            fill_dev(&dev, parts)?;
            plan.all(tag::DEVICE).try_for_each(|field| {
                let (numbers, name) = field.device().at("read the plan")?;
                make_device(&dev, numbers, name).at_path("make the device", name)
            })
        }
    }
}

/// Attaches a mount at a place that the image has no say in: it may only ship an ordinary directory there
/// (CVE-2019-19921, CVE-2023-27561, CVE-2026-41579).
fn mount_on_real(root: &Fd, name: &CStr, mounted: &Fd) -> Outcome<()> {
    let place = path::open_or_make_real_directory(root, name)
        .at_path("use, since it must be an ordinary directory in the image,", name.to_bytes())?;
    mount::attach(mounted, &place).at_path("mount", name.to_bytes())
}

/// Makes a place in a file system of our own, and attaches a mount there.
fn mount_in(tree: &Fd, name: &CStr, leaf: Leaf, mounted: &Fd) -> Outcome<()> {
    let place = path::make(tree, name, leaf).at_path("make the mount point", name.to_bytes())?;
    mount::attach(mounted, &place).at_path("mount", name.to_bytes())
}

fn sys_attributes(plan: Plan<'_>) -> u64 {
    if is_privileged(plan) { LOCKED } else { LOCKED | RDONLY }
}

fn new_sys(plan: Plan<'_>) -> Result<Fd> {
    mount::new(c"sysfs", &[], sys_attributes(plan))
}

/// The places of the cgroup v1 hierarchies.
fn fill_sys(plan: Plan<'_>, sys: &Fd) -> Outcome<()> {
    const STEP: &str = "make /sys/fs/cgroup";
    if plan.first(tag::CGROUP_VIEW).is_none() {
        return Ok(());
    }
    let tree = mount::new(c"tmpfs", &[(c"mode", c"755"), (c"size", c"64k")], LOCKED).at(STEP)?;
    let place = path::open_in(sys, CGROUPS).at(STEP)?;
    mount::attach(&tree, &place).at(STEP)?;
    plan.all(tag::CGROUP_VIEW).try_for_each(|view| {
        let name = view.cstr().at("read the plan")?;
        file::mkdir(tree.raw(), name, 0o755).at(STEP)
    })
}

/// The cgroups, as the container's own namespace shows them.
fn mount_cgroups(plan: Plan<'_>, sys: &Fd) -> Outcome<()> {
    const STEP: &str = "mount the cgroup";
    let attributes = sys_attributes(plan);
    let tree = path::open_in(sys, CGROUPS).at("find /sys/fs/cgroup")?;
    if plan.first(tag::CGROUP_VIEW).is_none() {
        let mounted = mount::new(c"cgroup2", &[], attributes).at(STEP)?;
        return mount::attach(&mounted, &tree).at(STEP);
    }
    for view in plan.all(tag::CGROUP_VIEW) {
        let name = view.cstr().at("read the plan")?;
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let place = file::open(tree.raw(), name, flags, 0).at_path(STEP, view.bytes())?;
        let mounted = mount::new(c"cgroup", &[(name, c"")], attributes).at_path(STEP, view.bytes())?;
        mount::attach(&mounted, &place).at_path(STEP, view.bytes())?;
    }
    mount::set(tree.raw(), attributes, None, false).at("make /sys/fs/cgroup read-only")
}

/// A tmpfs on which no device opens, but for what is mounted there.
fn new_dev(plan: Plan<'_>) -> Result<Fd> {
    let nodev = if is_privileged(plan) { 0 } else { NODEV };
    mount::new(c"tmpfs", &[(c"mode", c"755"), (c"size", c"65536k")], NOSUID | nodev | STRICTATIME)
}

/// The few devices that every container has, terminals, what the pod shares, and links.
fn fill_dev(dev: &Fd, parts: &Parts) -> Outcome<()> {
    for (device, (_, name, _, _)) in parts.devices.iter().flatten().zip(DEVICES) {
        mount_in(dev, name, Leaf::File, device)?;
    }
    let options = [(c"mode", c"0620"), (c"ptmxmode", c"0666"), (c"gid", c"5")];
    let pts = mount::new(c"devpts", &options, NOSUID | NOEXEC).at("make the file system of dev/pts")?;
    mount_in(dev, c"pts", Leaf::Directory, &pts)?;
    let mqueue = mount::new(c"mqueue", &[], NOSUID | NODEV | NOEXEC).at("make the file system of dev/mqueue")?;
    mount_in(dev, c"mqueue", Leaf::Directory, &mqueue)?;
    if let Some(shm) = &parts.shm {
        mount_in(dev, c"shm", Leaf::Directory, shm)?;
    }
    LINKS
        .iter()
        .try_for_each(|(target, name)| file::symlink(target, dev.raw(), name).at_path("make the link", name.to_bytes()))
}

/// One that is there already is one of every container's.
fn make_device(dev: &Fd, [mode, major, minor, user, group]: [u32; 5], name: &[u8]) -> Result<()> {
    match path::make_node_in(dev, name, mode, file::device(major, minor)) {
        Err(Errno::EXIST) => Ok(()),
        made => file::chown(made?.raw(), user, group),
    }
}

const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];
