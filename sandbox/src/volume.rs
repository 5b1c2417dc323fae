//! What is mounted into a container, as descriptors: no name is resolved again once the request was checked.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use podbus_common_cri::runtime::{LinuxContainerSecurityContext, Mount, MountPropagation};
use podbus_sandbox_linux::{file, mount};

use crate::process::Invalid;
use crate::userns::Mapping;

/// A mount that is attached nowhere yet.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) source: OwnedFd,
    pub(crate) is_dir: bool,
    /// Absolute, inside the container.
    pub(crate) target: String,
}

/// How a volume is mounted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) attributes: u64,
    /// The attributes hold for mounts beneath it as well.
    pub(crate) recursive: bool,
    pub(crate) propagation: i32,
}

/// Copies the mount at `source`, following links.
pub(crate) fn open(source: &Path, target: &str, options: Options) -> io::Result<Volume> {
    let path = CString::new(source.as_os_str().as_bytes())?;
    let copy = mount::copy(file::CWD, &path, true)?;
    let propagation = match MountPropagation::try_from(options.propagation) {
        Ok(MountPropagation::PropagationHostToContainer) => mount::Propagation::Slave,
        Ok(MountPropagation::PropagationBidirectional) => mount::Propagation::Shared,
        _ => mount::Propagation::Private,
    };
    mount::set(copy.raw(), 0, Some(propagation), true)?;
    if options.attributes != 0 {
        mount::set(copy.raw(), options.attributes, None, options.recursive)?;
    }
    let is_dir = file::is_dir(file::mode(copy.raw())?);
    Ok(Volume { source: copy.into(), is_dir, target: target.to_owned() })
}

/// Refuses a mount that cannot be made as it is asked for, by a container with this context and these ids.
pub(crate) fn check(
    request: &Mount,
    context: &LinuxContainerSecurityContext,
    mapping: Option<Mapping>,
) -> Result<(), Invalid> {
    options(request)?;
    let refuse = |why: &str| Err(Invalid(format!("the mount on {:?} {why}", request.container_path)));
    if !request.uid_mappings.is_empty() || !request.gid_mappings.is_empty() {
        match mapping {
            Some(mapping) => mapping.check_mount(&request.uid_mappings, &request.gid_mappings)?,
            None => return refuse("has id mappings, and its pod no user namespace"),
        }
    }
    let peers = || Peers::of(Path::new(&request.host_path));
    match MountPropagation::try_from(request.propagation) {
        Ok(MountPropagation::PropagationPrivate) => Ok(()),
        Ok(MountPropagation::PropagationHostToContainer) if peers() == Peers::None => {
            refuse("is to receive mounts from the node, but its source is neither shared nor a slave")
        }
        Ok(MountPropagation::PropagationHostToContainer) => Ok(()),
        Ok(MountPropagation::PropagationBidirectional) if !context.privileged => {
            refuse("is to pass mounts on to the node, which takes a privileged container")
        }
        Ok(MountPropagation::PropagationBidirectional) if peers() != Peers::Shared => {
            refuse("is to pass mounts on to the node, but its source is not shared")
        }
        Ok(MountPropagation::PropagationBidirectional) => Ok(()),
        Err(_) => refuse("has a propagation that there is not"),
    }
}

/// What a mount passes on and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peers {
    None,
    Slave,
    Shared,
}

impl Peers {
    /// Those of the mount that `path` lies in.
    fn of(path: &Path) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let found = std::fs::canonicalize(path).ok().and_then(|path| Self::find(&mounts, &path));
        found.unwrap_or(Self::None)
    }

    /// The last mount of a place is the one that is seen.
    fn find(mountinfo: &str, path: &Path) -> Option<Self> {
        let lines = mountinfo.lines().filter_map(|line| {
            let (left, _) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?.replace("\\040", " ");
            path.starts_with(&point).then(|| (depth(&point), left))
        });
        let (_, line) = lines.max_by_key(|(depth, _)| *depth)?;
        Some(match line {
            line if line.contains(" shared:") => Self::Shared,
            line if line.contains(" master:") => Self::Slave,
            _ => Self::None,
        })
    }
}

/// Reads a request's mount: what it asks for has to be possible, and nothing else is guessed.
pub(crate) fn options(request: &Mount) -> Result<Options, Invalid> {
    let refuse = |why: &str| Err(Invalid(format!("the mount on {:?} {why}", request.container_path)));
    if request.host_path.is_empty() || !request.host_path.starts_with('/') {
        return refuse("has no absolute host_path");
    }
    check_target(request)?;
    let mut attributes = if request.readonly { mount::RDONLY } else { 0 };
    for option in &request.mount_options {
        attributes |= match option.as_str() {
            "noexec" => mount::NOEXEC,
            "nodev" => mount::NODEV,
            "nosuid" => mount::NOSUID,
            _ => return refuse(&format!("has the unknown option {option:?}")),
        };
    }
    if request.recursive_read_only && (!request.readonly || request.propagation != 0) {
        return refuse("is recursive_read_only, which needs readonly and private propagation");
    }
    Ok(Options { attributes, recursive: request.recursive_read_only, propagation: request.propagation })
}

/// Fails unless the mount's place is one inside the container that may be covered.
pub(crate) fn check_target(request: &Mount) -> Result<(), Invalid> {
    let refuse = |why: &str| Err(Invalid(format!("the mount on {:?} {why}", request.container_path)));
    let target = Path::new(&request.container_path);
    if !target.is_absolute()
        || request.container_path.contains('\0')
        || target.components().any(|it| it.as_os_str() == "..")
    {
        return refuse("is no absolute path");
    }
    if target == Path::new("/") || target.starts_with("/proc") {
        return refuse("would cover the root or /proc");
    }
    Ok(())
}

/// Parents come before what lies in them.
pub(crate) fn depth(target: &str) -> usize {
    Path::new(target).components().count()
}

impl Volume {
    /// Lets what belongs to 0 on the disk belong to the 0 of a user namespace, and so on.
    pub(crate) fn map_ids(&self, user: &OwnedFd) -> io::Result<()> {
        mount::map_ids(self.raw(), user.as_raw_fd()).map_err(io::Error::from)
    }

    /// Its descriptor.
    pub(crate) fn raw(&self) -> i32 {
        self.source.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_last_mount_of_a_path_says_what_it_passes_on() {
        let mountinfo = "\
30 1 0:26 / / rw shared:1 - ext4 a rw
31 30 0:27 / /data rw - ext4 b rw
32 30 0:28 / /data\\040x rw master:7 - ext4 c rw
33 31 0:29 / /data/in rw shared:4 - ext4 d rw
34 33 0:30 / /data/in rw - tmpfs e rw";
        let find = |path: &str| Peers::find(mountinfo, Path::new(path));
        assert_eq!(find("/etc"), Some(Peers::Shared));
        assert_eq!(find("/data/x"), Some(Peers::None));
        assert_eq!(find("/data x/y"), Some(Peers::Slave));
        assert_eq!(find("/data/in/y"), Some(Peers::None));
    }
}
