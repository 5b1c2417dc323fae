//! Unpacks one layer of an image into a directory, in the form in which overlayfs takes it.
//!
//! A layer comes from a stranger. Its paths are resolved by [`Root`]; what would mean something to overlayfs, to a
//! security module or to the node is dropped or refused; whiteouts become overlayfs' own.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::root::Root;
use super::tar::{Entry, Kind, Reader, TarError};

const PATH_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// Names of AUFS' own bookkeeping, which some layers still carry.
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// Read by overlayfs when mounted with `userxattr`, where `trusted.` may not be written.
const OPAQUE_XATTR_USER: &str = "user.overlay.opaque";
/// A time beyond it (the year 2242) is clamped; some filesystems refuse it.
const MODIFIED_MAX: i64 = 1 << 33;

/// What a layer takes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes of the disk that files take.
    pub(super) bytes: u64,
    /// Files, directories and other nodes.
    pub(super) inodes: u64,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is no readable archive.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry is refused.
    #[error("entry {path:?}: {reason}")]
    Refused {
        /// The entry's name.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// An entry could not be written.
    #[error("entry {path:?}: cannot write it")]
    Write {
        /// The entry's name.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It has too many entries.
    #[error("it has more than {0} entries")]
    TooManyEntries(u64),
}

/// What goes wrong at one entry, before its name is added.
enum Fault {
    Refused(&'static str),
    Write(io::Error),
    Read(TarError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Write(error)
    }
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        Fault::Write(error.into())
    }
}

/// A path inside the layer, cleaned: the directory, and the name in it.
struct Place {
    parent: Vec<u8>,
    name: Vec<u8>,
}

/// Unpacks all entries of `archive` below `root`, an empty directory of ours.
pub(super) fn unpack<R: Read>(archive: &mut Reader<R>, root: Root, entries_max: u64) -> Result<Usage, UnpackError> {
    let mut unpacker = Unpacker { root, usage: Usage::default(), later: Later::default() };
    let mut entries = 0;
    while let Some(entry) = archive.next()? {
        entries += 1;
        if entries > entries_max {
            return Err(UnpackError::TooManyEntries(entries_max));
        }
        unpacker.entry(&entry, archive).map_err(|fault| name_fault(&entry.path, fault))?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: Root,
    usage: Usage,
    later: Later,
}

/// What is done when all entries are there: a whiteout hides what is below the layer and nothing in it, wherever it
/// stands in the archive, and each file made changes its directory's time.
#[derive(Default)]
struct Later {
    whiteouts: Vec<Place>,
    opaque: Vec<Vec<u8>>,
    modified: Vec<(Vec<u8>, i64)>,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &Entry, data: &mut Reader<R>) -> Result<(), Fault> {
        let Some(place) = clean(&entry.path)? else { return self.root_entry(entry) };
        if place.name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(place);
        }
        if entry.kind == Kind::Directory {
            return self.directory(entry, &place);
        }
        if self.root.kind(&place.parent, &place.name)?.is_some() {
            self.root.remove(&place.parent, &place.name)?; // a later entry of the same name wins
        }
        self.usage.inodes += 1;
        match entry.kind {
            Kind::File => self.file(entry, &place, data),
            Kind::HardLink => self.hard_link(entry, &place),
            Kind::Symlink => self.symlink(entry, &place),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.node(entry, &place),
            Kind::Directory => Ok(()), // above
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Directory {
            return Err(Fault::Refused("the root of a layer is a directory"));
        }
        self.later.modified.push((Vec::new(), entry.modified));
        apply_metadata(self.root.fd(), entry)
    }

    fn whiteout(&mut self, place: Place) -> Result<(), Fault> {
        if place.name == OPAQUE_NAME {
            self.later.opaque.push(place.parent);
            return Ok(());
        }
        if place.name.starts_with(WHITEOUT_META_PREFIX) {
            return Ok(());
        }
        let hidden = &place.name[WHITEOUT_PREFIX.len()..];
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(Fault::Refused("a whiteout without a name"));
        }
        self.later.whiteouts.push(Place { name: hidden.to_vec(), parent: place.parent });
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, place: &Place) -> Result<(), Fault> {
        match self.root.kind(&place.parent, &place.name)? {
            Some(FileType::Directory) => {}
            Some(_) => self.root.remove(&place.parent, &place.name)?,
            None => {}
        }
        let parent = self.root.directory(&place.parent)?;
        match rustix::fs::mkdirat(parent, &place.name, Mode::RWXU) {
            Ok(()) => self.usage.inodes += 1,
            Err(Errno::EXIST) => {} // directories merge, the later one's metadata wins
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(parent, &place.name, flags, Mode::empty())?;
        self.later.modified.push((join(place), entry.modified));
        apply_metadata(made.as_fd(), entry)
    }

    fn file<R: Read>(&mut self, entry: &Entry, place: &Place, data: &mut Reader<R>) -> Result<(), Fault> {
        let parent = self.root.directory(&place.parent)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: OwnedFd = rustix::fs::openat(parent, &place.name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        copy(data, &mut file)?;
        self.usage.bytes += blocks(&file)?;
        apply_metadata(file.as_fd(), entry)?;
        rustix::fs::futimens(&file, &times(entry.modified))?;
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, place: &Place) -> Result<(), Fault> {
        let target = clean(&entry.link)?.ok_or(Fault::Refused("a hard link to the root"))?;
        let missing = Fault::Refused("a hard link to a file that this layer does not have");
        let from = match self.root.existing_directory(&target.parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing),
            other => other?,
        };
        let parent = self.root.directory(&place.parent)?;
        self.usage.inodes -= 1;
        // Without AT_SYMLINK_FOLLOW: a link to a symlink is a second name of the symlink.
        match rustix::fs::linkat(&from, &target.name, parent, &place.name, AtFlags::empty()) {
            Err(Errno::NOENT) => Err(missing),
            Err(Errno::PERM) => Err(Fault::Refused("a hard link to a directory")),
            other => Ok(other?),
        }
    }

    fn symlink(&mut self, entry: &Entry, place: &Place) -> Result<(), Fault> {
        if entry.link.is_empty() || entry.link.contains(&0) || entry.link.len() >= PATH_BYTES_MAX {
            return Err(Fault::Refused("a symlink without a target that a file system can hold"));
        }
        let parent = self.root.directory(&place.parent)?;
        rustix::fs::symlinkat(&entry.link, parent, &place.name)?; // stored as it is: it is followed in the container
        self.own_node(entry, place)
    }

    fn node(&mut self, entry: &Entry, place: &Place) -> Result<(), Fault> {
        let kind = match entry.kind {
            Kind::CharDevice if entry.major == 0 && entry.minor == 0 => {
                return Err(Fault::Refused("a character device 0:0, which overlayfs reads as a whiteout"));
            }
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let parent = self.root.directory(&place.parent)?;
        let device = rustix::fs::makedev(entry.major, entry.minor);
        match rustix::fs::mknodat(parent, &place.name, kind, Mode::empty(), device) {
            Err(Errno::PERM) => {
                tracing::warn!(path = %lossy(&entry.path), "an image's device node is left out: this node may not make devices");
                self.usage.inodes -= 1;
                return Ok(());
            }
            other => other?,
        }
        self.own_node(entry, place)?;
        // The node was made here, in a directory that nobody else can reach: the name is still it.
        let parent = self.root.directory(&place.parent)?;
        Ok(rustix::fs::chmodat(parent, &place.name, Mode::from(entry.mode), AtFlags::empty())?)
    }

    /// Owner and time of what cannot be opened.
    fn own_node(&mut self, entry: &Entry, place: &Place) -> Result<(), Fault> {
        let parent = self.root.directory(&place.parent)?;
        let (uid, gid) = owner(entry)?;
        rustix::fs::chownat(parent, &place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(rustix::fs::utimensat(parent, &place.name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn finish(mut self) -> Result<Usage, UnpackError> {
        let later = std::mem::take(&mut self.later);
        for path in later.opaque {
            self.root.directory(&path).map_err(Fault::from).and_then(make_opaque).map_err(|f| name_fault(&path, f))?;
        }
        for place in &later.whiteouts {
            self.hide(place).map_err(|fault| name_fault(&join(place), fault))?;
        }
        for (path, modified) in later.modified {
            self.set_directory_time(&path, modified).map_err(|fault| name_fault(&path, fault))?;
        }
        Ok(self.usage)
    }

    fn hide(&mut self, place: &Place) -> Result<(), Fault> {
        match self.root.kind(&place.parent, &place.name)? {
            None => {
                self.usage.inodes += 1;
                let parent = self.root.directory(&place.parent)?;
                Ok(rustix::fs::mknodat(parent, &place.name, FileType::CharacterDevice, Mode::empty(), 0)?)
            }
            // The layer has it anew: what was below it is hidden, what the layer brings is not.
            Some(FileType::Directory) => make_opaque(self.root.directory(&join(place))?),
            Some(_) => Ok(()),
        }
    }

    fn set_directory_time(&mut self, path: &[u8], modified: i64) -> Result<(), Fault> {
        match self.root.existing_directory(path) {
            Ok(directory) => Ok(rustix::fs::futimens(&directory, &times(modified))?),
            // A later entry put something else in its place.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOTDIR)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Parts a path from an archive; None is the root itself.
fn clean(path: &[u8]) -> Result<Option<Place>, Fault> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Fault::Refused("a path of more than 4096 bytes"));
    }
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Fault::Refused("a path with `..` in it")),
            component if component.len() > NAME_BYTES_MAX => {
                return Err(Fault::Refused("a name of more than 255 bytes"));
            }
            component if component.contains(&0) => return Err(Fault::Refused("a path with a NUL in it")),
            component => components.push(component),
        }
    }
    Ok(components.pop().map(|name| Place { parent: components.join(&b'/'), name: name.to_vec() }))
}

fn join(place: &Place) -> Vec<u8> {
    if place.parent.is_empty() { place.name.clone() } else { [&place.parent[..], b"/", &place.name].concat() }
}

/// The bytes of the disk that a file takes: whole blocks, and none for holes.
fn blocks(file: &File) -> Result<u64, Fault> {
    const BLOCK_BYTES: u64 = 512; // whatever the file system has: stat(2)
    let blocks = rustix::fs::fstat(file)?.st_blocks;
    Ok(u64::try_from(blocks).unwrap_or(0) * BLOCK_BYTES)
}

fn copy<R: Read>(data: &mut Reader<R>, file: &mut File) -> Result<(), Fault> {
    let mut buffer = [0; 32 << 10];
    loop {
        // Told apart from a failure to write: one is the archive's fault, the other the disk's.
        let read = data.read(&mut buffer).map_err(|error| Fault::Read(error.into()))?;
        if read == 0 {
            return Ok(());
        }
        io::Write::write_all(file, &buffer[..read])?;
    }
}

/// Owner, extended attributes, mode, in this order: a change of owner clears setuid.
fn apply_metadata(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fault> {
    let (uid, gid) = owner(entry)?;
    rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
        match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {} // this file system has none
            other => other?,
        }
    }
    Ok(rustix::fs::fchmod(fd, Mode::from(entry.mode))?)
}

/// `trusted.` is overlayfs' own; labels and signatures of this host's security modules are not an image's to set.
fn is_kept(xattr: &[u8]) -> bool {
    xattr == b"security.capability" || (xattr.starts_with(b"user.") && !xattr.starts_with(b"user.overlay."))
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), Fault> {
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(Fault::Refused("an owner of 4294967295, which no file can have"));
    }
    Ok((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)))
}

fn make_opaque(directory: BorrowedFd<'_>) -> Result<(), Fault> {
    match rustix::fs::fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty()) {
        Err(Errno::PERM) => Ok(rustix::fs::fsetxattr(directory, OPAQUE_XATTR_USER, b"y", XattrFlags::empty())?),
        other => Ok(other?),
    }
}

fn times(modified: i64) -> Timestamps {
    let time = Timespec { tv_sec: modified.clamp(0, MODIFIED_MAX), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn name_fault(path: &[u8], fault: Fault) -> UnpackError {
    match fault {
        Fault::Refused(reason) => UnpackError::Refused { path: lossy(path), reason },
        Fault::Write(source) => UnpackError::Write { path: lossy(path), source },
        Fault::Read(error) => error.into(),
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
