//! The file system of a container: an overlay of its image's layers, and what every container finds in it.

use core::ffi::CStr;

use podbus_sandbox_linux::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use podbus_sandbox_linux::path::{self, Leaf};
use podbus_sandbox_linux::plan::{MOUNT_FILE, Plan, tag};
use podbus_sandbox_linux::socket::Fds;
use podbus_sandbox_linux::{Errno, Fd, Result, file, namespace};

use crate::failure::{At as _, Outcome};
use crate::views::{self, Parts, Source, Views};

/// Where the root is put together, in the child's own mount namespace.
pub(crate) const ROOT: &CStr = c"/mnt/root";

/// Where the root of a container is put together.
#[derive(Clone, Copy)]
pub(crate) enum Site<'a> {
    /// On top of the empty root of pause, in a copy of its mount namespace; with what was made in advance.
    Empty { empty: &'a Fd, views: Option<&'a Views> },
    /// In the mount namespace that the process has for itself, whose root is dropped then; `layers`, where they were put
    /// together before.
    Own { layers: Option<&'a Fd> },
}

/// Builds the root, makes it the root, and opens it: of the mounts that the process had before none is in reach. From then
/// on it has a cgroup namespace of its own.
pub(crate) fn enter(plan: Plan<'_>, fds: &Fds, site: Site<'_>) -> Outcome<Fd> {
    let ready = plan.first(tag::FD_ROOT).map(|field| field.index().and_then(|index| fds.get(index)));
    let ready = ready.transpose().at("read the plan")?;
    match site {
        Site::Empty { empty, views } => {
            let apart = if ready.is_some() { None } else { layers_apart(plan)? };
            let layers = ready.or(apart.as_ref()).ok_or(Errno::PROTO).at("read the plan")?;
            let parts;
            let source = match views {
                Some(views) => Source::Views(views),
                None => {
                    parts = Parts::copy(plan)?;
                    Source::Parts(&parts)
                }
            };
            namespace::join(empty.raw(), namespace::MOUNT).at("enter an empty root")?;
            namespace::unshare(namespace::MOUNT | namespace::CGROUP).at("make namespaces")?;
            let root = attach_root(layers, c"/")?;
            fill(plan, fds, &root, source)?;
            namespace::chdir_to(root.raw()).and_then(|()| namespace::chroot_here()).at("enter the root")?;
        }
        Site::Own { layers } => {
            namespace::unshare(namespace::CGROUP).at("make a cgroup namespace")?;
            let parts = Parts::copy(plan)?;
            let root = match layers.or(ready) {
                Some(layers) => attach_root(layers, ROOT)?,
                None => mount_overlay(plan)?,
            };
            fill(plan, fds, &root, Source::Parts(&parts))?;
            namespace::chdir_to(root.raw()).at("enter the root")?;
            mount::pivot_here().at("leave the old root")?;
        }
    }
    file::open(file::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at("open the new root")
}

/// Mounts all that a container finds in its root.
fn fill(plan: Plan<'_>, fds: &Fds, root: &Fd, source: Source<'_>) -> Outcome<()> {
    views::mount(plan, root, source)?;
    for field in plan.all(tag::MOUNT) {
        let (index, flags, target) = field.mount().at("read the plan")?;
        let leaf = if flags & MOUNT_FILE == 0 { Leaf::Directory } else { Leaf::File };
        let source = fds.get(index).at("read the plan")?;
        let place = path::open_or_make_in(root, target, leaf).at_path("make the mount point", target)?;
        mount::attach(source, &place).at_path("mount a volume on", target)?;
    }
    Ok(())
}

/// As [`detached`], for a process that shares its mount namespace.
fn layers_apart(plan: Plan<'_>) -> Outcome<Option<Fd>> {
    namespace::unshare(namespace::MOUNT).at("make a mount namespace")?;
    detached(plan)
}

/// Puts the layers together: a mount that is attached nowhere yet. `None` where there are none.
pub(crate) fn detached(plan: Plan<'_>) -> Outcome<Option<Fd>> {
    if plan.first(tag::LOWER).is_none() {
        return Ok(None);
    }
    mount_overlay(plan)?;
    mount::copy(file::CWD, ROOT, false).at("copy the mount of the layers").map(Some)
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

fn attach_root(layers: &Fd, place: &CStr) -> Outcome<Fd> {
    attach_at(layers, place).at("mount the layers of the image")
}

/// Attaches a mount, and opens its root.
fn attach_at(mounted: &Fd, place: &CStr) -> Result<Fd> {
    let place = file::open(file::CWD, place, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::attach(mounted, &place)?;
    file::open(mounted.raw(), c".", libc::O_PATH | libc::O_DIRECTORY, 0)
}

/// Puts the layers together on [`ROOT`], and opens it.
fn mount_overlay(plan: Plan<'_>) -> Outcome<Fd> {
    let text = |tag| plan.first(tag).ok_or(Errno::PROTO).and_then(|field| field.cstr()).at("read the plan");
    let (upper, work) = (text(tag::UPPER)?, text(tag::WORK)?);
    // Devices of an image open nowhere but in a privileged container.
    let nodev = if plan.number(tag::PRIVILEGED, 0) != 0 { 0 } else { NODEV };
    let layers = plan.all(tag::LOWER);
    let mounted =
        mount::overlay(layers.map(|layer| layer.cstr()), Some((upper, work)), nodev).and_then(
            |overlay| match overlay {
                Some(overlay) => attach_at(&overlay, ROOT),
                None => {
                    overlay_of_links(plan, upper, work, nodev)?;
                    file::open(file::CWD, ROOT, libc::O_PATH | libc::O_DIRECTORY, 0)
                }
            },
        );
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
