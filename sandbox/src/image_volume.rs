//! Image volumes: the files of an image, mounted read-only into a container (KEP-4639).
//!
//! One layer is mounted as it is, several as an overlay without a writable one. The layers are those that containers
//! of the image have: nothing is copied.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use podbus_common_cri::runtime::Mount;
use podbus_sandbox_linux::{Errno, Fd, file, mount, path};

use crate::process::Invalid;
use crate::volume::{self, Volume};

/// Programs in it may run; what the image's maker set on them gives nobody rights.
const ATTRIBUTES: u64 = mount::RDONLY | mount::NODEV | mount::NOSUID;

/// Checks a request's mount that names an image.
pub(crate) fn check(request: &Mount) -> Result<(), Invalid> {
    let refuse = |why: &str| Err(Invalid(format!("the mount on {:?} {why}", request.container_path)));
    volume::check_target(request)?;
    if !request.host_path.is_empty() {
        return refuse("is an image and has a host_path as well");
    }
    if !request.readonly {
        return refuse("is an image, which is only ever mounted read-only: set readonly");
    }
    if request.propagation != 0 {
        return refuse("is an image, which nothing propagates from: leave propagation private");
    }
    let sub_path = Path::new(&request.image_sub_path);
    if sub_path.is_absolute() || request.image_sub_path.contains('\0') || has_parent(sub_path) {
        return refuse("has an image_sub_path that is not a relative path without `..`");
    }
    Ok(())
}

fn has_parent(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "..")
}

/// Mounts what `sub_path` (empty: everything) is in an image of these layers, lowest first, attached nowhere. Its files
/// belong to the users of the user namespace `user`, if there is one.
pub(crate) fn open(layers: &[PathBuf], sub_path: &str, target: &str, user: Option<&OwnedFd>) -> io::Result<Volume> {
    let mounted = match layers {
        [] => mount::new(c"tmpfs", &[(c"size", c"4k")], ATTRIBUTES)?,
        [only] => {
            let copy = part(&open_path(only)?, sub_path)?;
            mount::set(copy.raw(), ATTRIBUTES, Some(mount::Propagation::Private), false)?;
            if let Some(user) = user {
                mount::map_ids(copy.raw(), user.as_raw_fd())?;
            }
            copy
        }
        // An overlay maps no ids itself: its layers do, where only a thread of its own sees it.
        layers if user.is_some() => in_own_namespace(layers, sub_path, user)?,
        layers => match overlay(layers, None, ATTRIBUTES)
            .and_then(|whole| whole.map(|whole| narrow(whole, sub_path)).transpose())
        {
            // Before Linux 6.5 the layers are one text; before 6.15 what is attached nowhere has no part to copy.
            Ok(None) | Err(Errno::INVAL) => in_own_namespace(layers, sub_path, None)?,
            Ok(Some(volume)) => volume,
            Err(errno) => return Err(errno.into()),
        },
    };
    let is_dir = file::is_dir(file::mode(mounted.raw())?);
    Ok(Volume { source: mounted.into(), is_dir, target: target.to_owned() })
}

/// An overlay of layers, lowest first, below an upper and a work directory; `None` before Linux 6.5.
pub(crate) fn overlay(
    layers: &[PathBuf],
    writable: Option<(&Path, &Path)>,
    attributes: u64,
) -> Result<Option<Fd>, Errno> {
    let layers: Vec<CString> = layers.iter().rev().map(|layer| text(layer)).collect::<Result<_, Errno>>()?;
    let writable = writable.map(|(upper, work)| Ok((text(upper)?, text(work)?))).transpose()?;
    let writable = writable.as_ref().map(|(upper, work)| (upper.as_c_str(), work.as_c_str()));
    mount::overlay(layers.iter().map(|layer| Ok(layer.as_c_str())), writable, attributes)
}

fn narrow(whole: Fd, sub_path: &str) -> Result<Fd, Errno> {
    if sub_path.is_empty() { Ok(whole) } else { part(&whole, sub_path) }
}

/// A copy of the mount at `sub_path` beneath `root`: links are followed inside of it.
fn part(root: &Fd, sub_path: &str) -> Result<Fd, Errno> {
    let place = path::open_in(root, sub_path.as_bytes())?;
    mount::copy(place.raw(), c"", false)
}

/// The same on older kernels: mounted by name, where only a thread of its own can see it, and copied from there.
fn in_own_namespace(layers: &[PathBuf], sub_path: &str, user: Option<&OwnedFd>) -> io::Result<Fd> {
    // In that namespace the first layer is covered; the overlay has opened it before.
    let target = text(&layers[0])?;
    let work = || -> io::Result<Fd> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        mount::make_all_private()?;
        if let Some(user) = user {
            for dir in layers.iter().filter_map(|layer| layer.parent()).collect::<BTreeSet<_>>() {
                let mapped = mount::copy(file::CWD, &text(dir)?, false)?;
                mount::map_ids(mapped.raw(), user.as_raw_fd())?;
                mount::attach(&mapped, &open_path(dir)?)?;
            }
        }
        let opened: Vec<Fd> = layers.iter().map(|layer| open_path(layer)).collect::<Result<_, Errno>>()?;
        // Short names: all of them have to fit into a page.
        let lower: Vec<String> = opened.iter().rev().map(|fd| format!("/proc/self/fd/{}", fd.raw())).collect();
        let options = CString::new(format!("lowerdir={}", lower.join(":")))?;
        // These attributes have the same numbers as mount(2)'s flags.
        mount::mount(c"overlay", &target, c"overlay", ATTRIBUTES, &options)?;
        let copy = part(&open_path(&layers[0])?, sub_path)?;
        mount::set(copy.raw(), ATTRIBUTES, Some(mount::Propagation::Private), false)?;
        Ok(copy)
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn open_path(path: &Path) -> Result<Fd, Errno> {
    file::open(file::CWD, &text(path)?, nix::libc::O_PATH | nix::libc::O_DIRECTORY, 0)
}

fn text(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn request() -> Mount {
        let image = Some(podbus_common_cri::runtime::ImageSpec::default());
        Mount { container_path: "/data".into(), readonly: true, image, ..Mount::default() }
    }

    #[test]
    fn what_an_image_volume_cannot_be_is_refused_with_a_reason() {
        check(&Mount { image_sub_path: "etc/app".into(), ..request() }).unwrap();
        let bad = [
            (Mount { readonly: false, ..request() }, "set readonly"),
            (Mount { host_path: "/etc".into(), ..request() }, "has a host_path as well"),
            (Mount { image_sub_path: "../etc".into(), ..request() }, "relative path without `..`"),
            (Mount { image_sub_path: "/etc".into(), ..request() }, "relative path without `..`"),
            (Mount { propagation: 1, ..request() }, "leave propagation private"),
            (Mount { container_path: "/".into(), ..request() }, "would cover the root"),
        ];
        for (mount, reason) in bad {
            let error = check(&mount).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    /// What stands in a file of a volume.
    fn read(volume: &Volume, path: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/self/fd/{}/{path}", volume.source.as_raw_fd()))
    }

    #[test]
    fn layers_are_seen_as_one_and_nothing_is_written_to_them_on_old_kernels_too() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..120).map(|n| dir.path().join(format!("{n:064}"))).collect();
        for (n, layer) in layers.iter().enumerate() {
            fs::create_dir_all(layer.join("etc")).unwrap();
            fs::write(layer.join(format!("etc/{n}")), "low").unwrap();
            fs::write(layer.join("etc/which"), n.to_string()).unwrap();
        }
        std::os::unix::fs::symlink("/etc", layers[0].join("link")).unwrap();
        let old = |sub_path: &str| Volume {
            source: in_own_namespace(&layers, sub_path, None).unwrap().into(),
            is_dir: true,
            target: String::new(),
        };
        for volume in [open(&layers, "", "/data", None).unwrap(), old("")] {
            assert_eq!(read(&volume, "etc/which").unwrap(), "119");
            assert_eq!(read(&volume, "etc/0").unwrap(), "low");
            let place = format!("/proc/self/fd/{}/etc/new", volume.source.as_raw_fd());
            assert_eq!(fs::write(place, "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        // A link of the image stays inside of it: this is not the node's /etc.
        for volume in [open(&layers, "link", "/data", None).unwrap(), old("link")] {
            assert_eq!(read(&volume, "which").unwrap(), "119");
        }
        let file = open(&layers, "etc/which", "/data", None).unwrap();
        assert!(!file.is_dir);
        assert_eq!(open(&layers, "etc/none", "/data", None).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read(&open(&layers[..1], "etc", "/data", None).unwrap(), "which").unwrap(), "0");
        assert!(open(&[], "", "/data", None).unwrap().is_dir);
    }
}
