//! The file system of a container: an overlay of its image's layers, and what every container finds in it.

use core::ffi::CStr;

use podbus_sandbox_linux::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY, STRICTATIME};
use podbus_sandbox_linux::path::{self, Leaf};
use podbus_sandbox_linux::plan::{MOUNT_FILE, Plan, tag};
use podbus_sandbox_linux::socket::Fds;
use podbus_sandbox_linux::{Errno, Fd, Result, file, namespace};

use crate::failure::{At as _, Outcome};
use crate::spawner::DEVICES;

/// Where the root is put together, in the child's own mount namespace.
const ROOT: &CStr = c"/mnt/root";

/// Builds the root and returns it. The old one is still there: [`enter`] leaves it.
/// `layers`, where they were put together before.
pub(crate) fn build(plan: Plan<'_>, fds: &Fds, layers: Option<&Fd>) -> Outcome<Fd> {
    match layers {
        Some(layers) => attach_root(layers).at("mount the layers of the image")?,
        None => mount_overlay(plan)?,
    }
    let root = file::open(file::CWD, ROOT, libc::O_PATH | libc::O_DIRECTORY, 0).at("open the root")?;
    mount_kernel_views(plan, &root)?;
    mount_devices(plan, &root)?;
    for field in plan.all(tag::MOUNT) {
        let (index, flags, target) = field.mount().at("read the plan")?;
        let leaf = if flags & MOUNT_FILE == 0 { Leaf::Directory } else { Leaf::File };
        let source = fds.get(index).at("read the plan")?;
        let place = path::open_or_make_in(&root, target, leaf).at_path("make the mount point", target)?;
        mount::attach(source, &place).at_path("mount a volume on", target)?;
    }
    Ok(root)
}

/// Puts the layers together: a mount that is attached nowhere yet. `None` where there are none.
pub(crate) fn detached(plan: Plan<'_>) -> Outcome<Option<Fd>> {
    if plan.first(tag::LOWER).is_none() {
        return Ok(None);
    }
    mount_overlay(plan)?;
    mount::copy(file::CWD, ROOT, false).at("copy the mount of the layers").map(Some)
}

/// Makes `root` the root, drops the old one, and opens the new one again.
pub(crate) fn enter(root: &Fd) -> Outcome<Fd> {
    namespace::chdir_to(root.raw()).at("enter the root")?;
    mount::pivot_here().at("leave the old root")?;
    file::open(file::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at("open the new root")
}

/// Makes an empty read-only root of the mount namespace that the process has for itself.
pub(crate) fn enter_empty() -> Result<()> {
    let options = [(c"mode", c"555"), (c"nr_blocks", c"1"), (c"nr_inodes", c"1")];
    let empty = mount::new(c"tmpfs", &options, RDONLY | NOSUID | NODEV | NOEXEC)?;
    let place = file::open(file::CWD, ROOT, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::attach(&empty, &place)?;
    namespace::chdir(ROOT)?;
    mount::pivot_here()
}

/// The last touches, from within: read-only root, masked and read-only paths.
pub(crate) fn seal(plan: Plan<'_>, root: &Fd) -> Outcome<()> {
    if plan.number(tag::ROOT_READONLY, 0) != 0 {
        mount::set(root.raw(), RDONLY, None, false).at("make the root read-only")?;
    }
    for field in plan.all(tag::READONLY_PATH) {
        skip_missing(make_readonly(root, field.bytes())).at_path("make read-only", field.bytes())?;
    }
    let mut empty = None;
    for field in plan.all(tag::MASKED_PATH) {
        skip_missing(mask(root, field.bytes(), &mut empty)).at_path("mask", field.bytes())?;
    }
    Ok(())
}

fn attach_root(layers: &Fd) -> Result<()> {
    let place = file::open(file::CWD, ROOT, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::attach(layers, &place)
}

fn mount_overlay(plan: Plan<'_>) -> Outcome<()> {
    let text = |tag| plan.first(tag).ok_or(Errno::PROTO).and_then(|field| field.cstr()).at("read the plan");
    let (upper, work) = (text(tag::UPPER)?, text(tag::WORK)?);
    // Devices of an image open nowhere but in a privileged container.
    let nodev = if plan.number(tag::PRIVILEGED, 0) != 0 { 0 } else { NODEV };
    let layers = plan.all(tag::LOWER);
    let mounted = mount::overlay(layers.map(|layer| layer.cstr()), Some((upper, work)), nodev).and_then(|overlay| {
        let Some(overlay) = overlay else { return overlay_of_links(plan, upper, work, nodev) };
        attach_root(&overlay)
    });
    mounted.at("mount the layers of the image")
}

/// For kernels that take no layer by itself. All options together have to fit into a page there: each layer gets a link
/// of three digits, in a file system that goes with this mount namespace.
fn overlay_of_links(plan: Plan<'_>, upper: &CStr, work: &CStr, nodev: u64) -> Result<()> {
    mount::mount(c"tmpfs", ROOT, c"tmpfs", 0, c"size=4m")?;
    let mut text = [0_u8; path::PATH_BYTES_MAX];
    let mut length = 0;
    let mut push = |part: &[u8]| -> Result<()> {
        text.get_mut(length..length + part.len()).ok_or(Errno::TOOBIG)?.copy_from_slice(part);
        length += part.len();
        Ok(())
    };
    for part in [b"volatile,upperdir=", upper.to_bytes(), b",workdir=", work.to_bytes(), b",lowerdir="] {
        push(part)?;
    }
    namespace::chdir(ROOT)?;
    for (at, layer) in plan.all(tag::LOWER).enumerate() {
        let digit = |of: usize| b"0123456789"[at / of % 10];
        let name = [digit(100), digit(10), digit(1), 0];
        let name = CStr::from_bytes_with_nul(&name).map_err(|_| Errno::INVAL)?;
        file::symlink(layer.cstr()?, file::CWD, name)?;
        if at > 0 {
            push(b":")?;
        }
        push(name.to_bytes())?;
    }
    push(b"\0")?;
    let options = CStr::from_bytes_until_nul(&text).map_err(|_| Errno::INVAL)?;
    // The attribute has the same number as mount(2)'s flag.
    mount::mount(c"overlay", ROOT, c"overlay", nodev, options)?;
    namespace::chdir(c"/")
}

/// Attaches a mount and returns it.
fn mount_at(root: &Fd, target: &[u8], mounted: Result<Fd>) -> Outcome<Fd> {
    let mounted = mounted.at_path("make the file system of", target)?;
    let place = path::open_or_make_in(root, target, Leaf::Directory).at_path("make the mount point", target)?;
    mount::attach(&mounted, &place).at_path("mount", target)?;
    Ok(mounted)
}

/// As [`mount_at`] for a place that the image has no say in: it may only ship an ordinary directory there
/// (CVE-2019-19921, CVE-2023-27561, CVE-2026-41579).
fn mount_on_real(root: &Fd, name: &CStr, mounted: Result<Fd>) -> Outcome<Fd> {
    let mounted = mounted.at_path("make the file system of", name.to_bytes())?;
    let place = path::open_or_make_real_directory(root, name)
        .at_path("use, since it must be an ordinary directory in the image,", name.to_bytes())?;
    mount::attach(&mounted, &place).at_path("mount", name.to_bytes())?;
    Ok(mounted)
}

/// `/proc`, `/sys` and the cgroups.
fn mount_kernel_views(plan: Plan<'_>, root: &Fd) -> Outcome<()> {
    let locked = NOSUID | NOEXEC | NODEV;
    let privileged = plan.number(tag::PRIVILEGED, 0) != 0;
    let sys = if privileged { locked } else { locked | RDONLY };
    mount_on_real(root, c"proc", mount::new(c"proc", &[], locked))?;
    mount_on_real(root, c"sys", mount::new(c"sysfs", &[], sys))?;
    let mut views = plan.all(tag::CGROUP_VIEW).peekable();
    if views.peek().is_none() {
        return mount_at(root, b"sys/fs/cgroup", mount::new(c"cgroup2", &[], sys)).map(drop);
    }
    let tree = mount::new(c"tmpfs", &[(c"mode", c"755"), (c"size", c"64k")], locked);
    let tree = mount_at(root, b"sys/fs/cgroup", tree)?;
    for view in views {
        let name = view.cstr().at("read the plan")?;
        let place = path::make(&tree, name, Leaf::Directory).at("make /sys/fs/cgroup")?;
        let mounted = mount::new(c"cgroup", &[(name, c"")], sys).at_path("mount the cgroup", view.bytes())?;
        mount::attach(&mounted, &place).at_path("mount the cgroup", view.bytes())?;
    }
    mount::set(tree.raw(), sys, None, false).at("make /sys/fs/cgroup read-only")
}

/// `/dev`: a tmpfs on which no device opens, and on it the few devices that every container has.
fn mount_devices(plan: Plan<'_>, root: &Fd) -> Outcome<()> {
    let options = [(c"mode", c"755"), (c"size", c"65536k")];
    let privileged = plan.number(tag::PRIVILEGED, 0) != 0;
    let nodev = if privileged { 0 } else { NODEV };
    let dev = mount_on_real(root, c"dev", mount::new(c"tmpfs", &options, NOSUID | nodev | STRICTATIME))?;
    for (source, name, _, _) in DEVICES {
        let place = path::make(&dev, name, Leaf::File).at_path("make the device", name.to_bytes())?;
        let device = mount::copy(file::CWD, source, false).at_path("find the device", name.to_bytes())?;
        mount::attach(&device, &place).at_path("mount the device", name.to_bytes())?;
    }
    let options = [(c"mode", c"0620"), (c"ptmxmode", c"0666"), (c"gid", c"5")];
    mount_at(root, b"dev/pts", mount::new(c"devpts", &options, NOSUID | NOEXEC))?;
    mount_at(root, b"dev/mqueue", mount::new(c"mqueue", &[], NOSUID | NODEV | NOEXEC))?;
    if plan.number(tag::POD_SHM, 0) != 0 {
        mount_at(root, b"dev/shm", mount::copy(file::CWD, c"/mnt/shm", false))?;
    }
    for field in plan.all(tag::DEVICE) {
        let (numbers, name) = field.device().at("read the plan")?;
        make_device(&dev, numbers, name).at_path("make the device", name)?;
    }
    for (target, name) in LINKS {
        file::symlink(target, dev.raw(), name).at_path("make the link", name.to_bytes())?;
    }
    Ok(())
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

fn make_readonly(root: &Fd, path: &[u8]) -> Result<()> {
    let place = path::open_in(root, path)?;
    let copy = mount::copy(place.raw(), c"", true)?;
    mount::set(copy.raw(), RDONLY, None, true)?;
    mount::attach(&copy, &place)
}

/// Covers what is there: a file with /dev/null, and directories with one that is `empty`, the same for all.
fn mask(root: &Fd, path: &[u8], empty: &mut Option<Fd>) -> Result<()> {
    let place = path::open_in(root, path)?;
    if !file::is_dir(file::mode(place.raw())?) {
        let null = path::open_in(root, b"dev/null")?;
        return mount::attach(&mount::copy(null.raw(), c"", false)?, &place);
    }
    if let Some(empty) = empty {
        return mount::attach(&mount::copy(empty.raw(), c"", false)?, &place);
    }
    let options = [(c"nr_blocks", c"1"), (c"nr_inodes", c"1")];
    let cover = mount::new(c"tmpfs", &options, RDONLY | NOSUID | NODEV | NOEXEC)?;
    mount::attach(&cover, &place)?;
    *empty = Some(cover);
    Ok(())
}

fn skip_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        other => other,
    }
}
