//! How much disk a pod's volumes use: the limit of an emptyDir on disk is kept by measuring.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use podbus_common::model::{EmptyDirVolume, Pod};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;

use super::{empty_dir_path, size_limit};

/// The message for the pod's status if one of its volumes is above its limit. Walks them: not for the hot path.
pub(crate) fn over_limit(pod_dir: &Path, pod: &Pod) -> io::Result<Option<String>> {
    for volume in &pod.spec.volumes {
        let Some(empty_dir) = volume.empty_dir.as_ref().filter(|e| is_measured(e)) else { continue };
        let Some(limit) = size_limit(empty_dir) else { continue };
        if uses_more_than(&empty_dir_path(pod_dir, &volume.name), limit.unsigned_abs())? {
            let limit = empty_dir.size_limit.as_deref().unwrap_or_default();
            let name = &volume.name;
            return Ok(Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". ")));
        }
    }
    Ok(None)
}

/// Whether the pod has a volume that must be measured at all.
pub(crate) fn has_limits(pod: &Pod) -> bool {
    let volumes = pod.spec.volumes.iter().filter_map(|v| v.empty_dir.as_ref());
    volumes.into_iter().any(|e| is_measured(e) && size_limit(e).is_some())
}

/// The kernel keeps the size of one in memory.
fn is_measured(empty_dir: &EmptyDirVolume) -> bool {
    empty_dir.medium != "Memory"
}

/// Whether a tree occupies more than `bytes` of disk; files with several names count once. What vanishes meanwhile is
/// not counted, nor what lies so deep that its path is longer than the kernel takes.
fn uses_more_than(root: &Path, bytes: u64) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match rustix::fs::open(root, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        result => result?,
    };
    let mut walk = Walk { bytes: 0, linked: HashSet::new(), directories: vec![PathBuf::from(".")] };
    while let Some(directory) = walk.directories.pop() {
        match walk.add(root.as_fd(), &directory) {
            Ok(()) | Err(Errno::NOENT | Errno::NAMETOOLONG | Errno::XDEV | Errno::LOOP | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
        if walk.bytes > bytes {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Walk {
    bytes: u64,
    /// Device and inode of files with more than one name.
    linked: HashSet<(u64, u64)>,
    directories: Vec<PathBuf>,
}

impl Walk {
    fn add(&mut self, root: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let directory = openat2(root, path, flags, Mode::empty(), resolve)?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                result => result?,
            };
            if stat.st_nlink > 1
                && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
                && !self.linked.insert((stat.st_dev, stat.st_ino))
            {
                continue;
            }
            self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                use std::os::unix::ffi::OsStrExt as _;
                self.directories.push(path.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
            }
        }
        Ok(())
    }
}
