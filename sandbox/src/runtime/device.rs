//! Devices of the node in a container: those that its request names, or all of them.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use podbus_common_cri::runtime::{ContainerConfig, Device as Request};

use super::{Container, Outcome, doing};
use crate::plan::Node;
use crate::process::Invalid;
use crate::volume::{self, Options, Volume};

/// Beneath a directory that a request names, and in a node's `/dev`: more are not looked for.
const DEVICES_MAX: usize = 4096;
/// How deep directories of devices are read.
const DEPTH_MAX: usize = 8;
/// What a container has of its own in `/dev`.
const OWN: [&str; 6] = ["pts", "ptmx", "shm", "mqueue", "console", "fd"];

/// A device that the request names, and what the container may do with it.
pub(crate) struct Device {
    pub(super) volume: Volume,
    /// As the v1 controller writes it: `c 1:3 rwm`.
    pub(crate) rule: String,
}

/// A device file.
struct Found {
    path: PathBuf,
    metadata: std::fs::Metadata,
}

/// Refuses devices that are not there, are none, or are to be used in a way that there is not.
pub(super) fn check(config: &ContainerConfig) -> Result<(), Invalid> {
    config.devices.iter().try_for_each(|request| {
        permissions(request)?;
        if !request.container_path.is_empty() {
            check_target(&request.container_path)?;
        }
        find(request).map(drop)
    })
}

/// Opens the devices that the request names.
pub(super) fn open_all(container: &Container) -> Outcome<Vec<Device>> {
    let mut devices = Vec::new();
    for request in &container.config().devices {
        let permissions = permissions(request)?;
        let base = Path::new(&request.host_path);
        let inside = if request.container_path.is_empty() { base } else { Path::new(&request.container_path) };
        for found in find(request)? {
            let beneath = found.path.strip_prefix(base).unwrap_or(Path::new(""));
            let target = if beneath.as_os_str().is_empty() { inside.to_owned() } else { inside.join(beneath) };
            let opened = volume::open(&found.path, &target.to_string_lossy(), Options::default());
            let volume = opened.map_err(doing(format!("open the device {}", found.path.display())))?;
            let (major, minor) = found.numbers();
            let kind = if found.metadata.file_type().is_block_device() { 'b' } else { 'c' };
            devices.push(Device { volume, rule: format!("{kind} {major}:{minor} {permissions}") });
        }
    }
    Ok(devices)
}

/// All devices of the node, for a privileged container.
pub(super) fn of_node() -> Vec<Node> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), 0, &mut found);
    let is_own = |path: &Path| OWN.iter().any(|own| path.starts_with(own));
    let node = |it: Found| {
        let path = it.path.strip_prefix("/dev").ok().filter(|path| !is_own(path))?.to_owned();
        let (major, minor) = it.numbers();
        Some(Node { path, mode: it.metadata.mode(), major, minor, user: it.metadata.uid(), group: it.metadata.gid() })
    };
    found.into_iter().filter_map(node).collect()
}

/// All three where nothing is said.
fn permissions(request: &Request) -> Result<&str, Invalid> {
    match request.permissions.as_str() {
        "" => Ok("rwm"),
        letters if letters.chars().all(|c| "rwm".contains(c)) => Ok(letters),
        other => Err(Invalid(format!("permissions {other:?} of the device {}: only r, w and m", request.host_path))),
    }
}

fn check_target(path: &str) -> Result<(), Invalid> {
    let plain = Path::new(path).components().all(|it| it.as_os_str() != "..");
    if path.starts_with('/') && plain && !path.contains('\0') {
        return Ok(());
    }
    Err(Invalid(format!("a device cannot be at {path:?} of the container")))
}

/// The device that a request names, through links; in a directory, all that lie in it.
fn find(request: &Request) -> Result<Vec<Found>, Invalid> {
    let path = PathBuf::from(&request.host_path);
    let metadata = std::fs::metadata(&path);
    let metadata = metadata.map_err(|error| Invalid(format!("no device {}: {error}", request.host_path)))?;
    let kind = metadata.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        return Ok(vec![Found { path, metadata }]);
    }
    let mut found = Vec::new();
    if kind.is_dir() {
        collect(&path, 0, &mut found);
    }
    if found.is_empty() {
        return Err(Invalid(format!("{} is no device, and no directory of devices", request.host_path)));
    }
    Ok(found)
}

/// Devices in `dir` and beneath it; what cannot be read, and links, are left out.
fn collect(dir: &Path, depth: usize, found: &mut Vec<Found>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = metadata.file_type();
        if found.len() == DEVICES_MAX {
            return;
        }
        if kind.is_char_device() || kind.is_block_device() {
            found.push(Found { path: entry.path(), metadata });
        } else if kind.is_dir() && depth < DEPTH_MAX && entry.file_name() != "pts" {
            collect(&entry.path(), depth + 1, found);
        }
    }
}

impl Found {
    fn numbers(&self) -> (u32, u32) {
        (rustix::fs::major(self.metadata.rdev()), rustix::fs::minor(self.metadata.rdev()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host_path: &str, permissions: &str) -> ContainerConfig {
        let device =
            Request { host_path: host_path.to_owned(), permissions: permissions.to_owned(), ..Default::default() };
        ContainerConfig { devices: vec![device], ..Default::default() }
    }

    #[test]
    fn devices_that_are_none_or_not_there_are_refused() {
        assert_eq!(check(&request("/dev/null", "rw")), Ok(()));
        for (path, permissions) in [("/dev/null", "rwx"), ("/nonexistent", "r"), ("/etc/hostname", "r"), ("", "r")] {
            assert!(check(&request(path, permissions)).is_err(), "{path} {permissions}");
        }
    }

    #[test]
    fn a_directory_means_the_devices_in_it() {
        let found = find(&request("/dev", "r").devices[0]).unwrap();
        assert!(found.iter().any(|it| it.path == Path::new("/dev/null")));
        assert!(of_node().iter().any(|it| it.path == Path::new("zero") && (it.major, it.minor) == (1, 5)));
    }
}
