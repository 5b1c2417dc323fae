//! Volumes: made before the sandbox, mounted into containers, measured, and removed with the pod.
//!
//! Everything of a pod lies in its directory: `volumes/<name>` for emptyDir, `volume-subpaths/<name>/<container>-<n>`
//! for the mounts that pin a resolved subPath, `etc-hosts`. Mounts are made in the node's mount namespace and found
//! again from mountinfo, so a restarted agent needs no memory of them. Every function may be repeated.
//!
//! What users wrote is hostile: it is opened beneath its volume only, and deleted by descriptor.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use podbus_common::model::{Container, EmptyDirVolume, Pod, Volume};
use podbus_node_agent_core::environment::etc_hosts;
use podbus_node_agent_core::eviction::size_limit;
use rustix::mount::{UnmountFlags, unmount};

mod host_path;
mod mount_table;
mod sub_path;
mod tmpfs;
mod usage;

pub(crate) use usage::disk_use;

/// Anybody in the pod may write, as Kubernetes has it.
const EMPTY_DIR_MODE: u32 = 0o777;

/// Why a volume cannot be had, in the kubelet's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// The volume itself: event FailedMount, and no sandbox yet.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    SetUp {
        /// Its name.
        volume: String,
        /// What is wrong.
        source: io::Error,
    },
    /// A path inside it, for one container: CreateContainerConfigError.
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {source}")]
    SubPath {
        /// Its name.
        volume: String,
        /// The container.
        container: String,
        /// What is wrong.
        source: io::Error,
    },
    /// The container names a volume that the pod has not.
    #[error("volume \"{0}\" not found in the pod")]
    Unknown(String),
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountedVolume {
    /// Where it appears, absolute.
    pub(crate) container_path: String,
    /// What appears there.
    pub(crate) host_path: PathBuf,
    /// Not writable.
    pub(crate) read_only: bool,
}

/// Makes all volumes of the pod. `node_memory_bytes` bounds the volumes in memory.
pub(crate) fn prepare(pod_dir: &Path, pod: &Pod, node_memory_bytes: i64) -> Result<(), VolumeError> {
    for volume in &pod.spec.volumes {
        prepare_one(pod_dir, pod, volume, node_memory_bytes)
            .map_err(|source| VolumeError::SetUp { volume: volume.name.clone(), source })?;
    }
    Ok(())
}

/// The mounts of one container, in the spec's order. Makes the subPaths that are missing.
pub(crate) fn mounts(pod_dir: &Path, pod: &Pod, container: &Container) -> Result<Vec<MountedVolume>, VolumeError> {
    let mut mounts = Vec::with_capacity(container.volume_mounts.len());
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let Some(volume) = pod.spec.volumes.iter().find(|v| v.name == mount.name) else {
            return Err(VolumeError::Unknown(mount.name.clone()));
        };
        let root = source(pod_dir, volume);
        let host_path = match mount.sub_path.as_str() {
            "" => root,
            path => {
                let target = sub_path::Target { pod_dir, volume: &volume.name, container: &container.name, index };
                sub_path::bind(&root, path, &target).map_err(|source| VolumeError::SubPath {
                    volume: volume.name.clone(),
                    container: container.name.clone(),
                    source,
                })?
            }
        };
        let container_path = match mount.mount_path.strip_prefix('/') {
            Some(_) => mount.mount_path.clone(),
            None => format!("/{}", mount.mount_path),
        };
        mounts.push(MountedVolume { container_path, host_path, read_only: mount.read_only });
    }
    Ok(mounts)
}

fn etc_hosts_path(pod_dir: &Path) -> PathBuf {
    pod_dir.join("etc-hosts")
}

/// Writes the pod's /etc/hosts, if it differs, and says where it is.
pub(crate) fn write_etc_hosts(pod_dir: &Path, hostname: &str, ip: &str) -> io::Result<PathBuf> {
    let path = etc_hosts_path(pod_dir);
    let text = etc_hosts(hostname, ip);
    // In place: containers that run have this file mounted, a new one would not be theirs.
    if !holds(&path, text.as_bytes()) {
        fs::create_dir_all(pod_dir)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(path)
}

/// Whether a file is exactly this. Containers write to it: no more is read than tells.
fn holds(path: &Path, text: &[u8]) -> bool {
    let Ok(file) = fs::File::open(path) else { return false };
    let mut found = Vec::with_capacity(text.len() + 1);
    file.take(text.len() as u64 + 1).read_to_end(&mut found).is_ok() && found == text
}

/// Unmounts and deletes the pod's directory. That it is gone already is fine.
///
/// Nothing of the pod may run any more.
pub(crate) fn teardown(pod_dir: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (pod_dir.parent(), pod_dir.file_name()) else {
        return Err(io::Error::other(format!("{} is no pod directory", pod_dir.display())));
    };
    let pod_dir = match fs::canonicalize(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        parent => parent?.join(name),
    };
    for point in mount_table::beneath(&pod_dir)? {
        unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    podbus_common_tree::remove(&pod_dir)
}

/// Where a volume's content lies on the node.
fn source(pod_dir: &Path, volume: &Volume) -> PathBuf {
    match &volume.host_path {
        Some(host) => PathBuf::from(&host.path),
        None => empty_dir_path(pod_dir, &volume.name),
    }
}

fn empty_dir_path(pod_dir: &Path, name: &str) -> PathBuf {
    pod_dir.join("volumes").join(name)
}

fn prepare_one(pod_dir: &Path, pod: &Pod, volume: &Volume, node_memory_bytes: i64) -> io::Result<()> {
    if let Some(host) = &volume.host_path {
        return host_path::check(Path::new(&host.path), &host.kind);
    }
    let path = empty_dir_path(pod_dir, &volume.name);
    let in_memory = volume.empty_dir.as_ref().filter(|e| e.medium == "Memory");
    if in_memory.is_some() && mount_table::is_mount_point(&path)? {
        return Ok(()); // It keeps what it has: the pod outlives its sandbox and the agent.
    }
    fs::create_dir_all(&path)?;
    // Anybody may write to it, but only through a container.
    fs::set_permissions(pod_dir.join("volumes"), std::fs::Permissions::from_mode(0o700))?;
    match in_memory {
        Some(empty_dir) => tmpfs::mount(&path, tmpfs_size(pod, empty_dir, node_memory_bytes)),
        // Not at creation only: a kill between the two calls must not leave it unwritable.
        None => fs::set_permissions(&path, std::fs::Permissions::from_mode(EMPTY_DIR_MODE)),
    }
}

/// The smallest of the volume's own limit, what the pod's containers may use together, and the node.
fn tmpfs_size(pod: &Pod, empty_dir: &EmptyDirVolume, node_memory_bytes: i64) -> u64 {
    let own = size_limit(empty_dir);
    let of_pod = podbus_node_agent_core::resources::pod_cgroup(pod).memory_limit_bytes;
    let bounds = [own, Some(of_pod), Some(node_memory_bytes)].into_iter().flatten();
    let smallest = bounds.filter(|bytes| *bytes > 0).min().unwrap_or(0);
    u64::try_from(smallest).unwrap_or(0)
}

#[cfg(test)]
mod tests;
