//! Pod networks by CNI plugins, for nodes that bring their own.
//!
//! ```text
//!   attach   cache file, namespace, ADD of each plugin in order (each reads the result before it), result into the file
//!   detach   DEL of each plugin in reverse, namespace, cache file
//! ```
//!
//! The cache file is there before anything else is, so that whatever a killed daemon left is undone by the next one. The
//! namespace is a mount, since plugins want a path; with our own bridge nothing is mounted.

mod conf;
mod plugin;
mod pod;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use podbus_common_cri::runtime::PodSandboxConfig;
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::conf::{ConfError, List};
use self::plugin::{INTERFACE, PluginError, Subject};
use crate::network::{self, HostPort, NetworkError};
use crate::process::Invalid;

/// Why pods get no network, or one pod did not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    #[error("no CNI configuration in {}: a network add-on puts one there", .0.display())]
    Unconfigured(PathBuf),
    #[error("cannot use the CNI configuration {}", path.display())]
    Conf { path: PathBuf, source: ConfError },
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("no plugin of the CNI network {0} has the capability portMappings, which the pod's host ports need")]
    NoHostPorts(String),
    #[error("the CNI network {0} gave the pod no address")]
    NoAddress(String),
}

/// A pod's network, ready to be entered.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) netns: OwnedFd,
    /// One of a family.
    pub(crate) ips: Vec<IpAddr>,
}

/// Where configurations, plugins and what pods have of them are.
#[derive(Debug, Clone)]
pub(crate) struct Cni {
    /// `None`: pods have our own bridge; those of an earlier daemon may still have to be detached.
    pub(crate) conf_dir: Option<PathBuf>,
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) cache_dir: PathBuf,
    pub(crate) netns_dir: PathBuf,
}

/// What DEL needs to know, as it was at ADD.
#[derive(Debug, Serialize, Deserialize)]
struct Cached {
    conf: String,
    bin_dirs: Vec<PathBuf>,
    arguments: String,
    capabilities: Map<String, Value>,
    result: Option<Value>,
}

impl Cni {
    /// Whether new pods get their network from plugins.
    pub(crate) fn is_on(&self) -> bool {
        self.conf_dir.is_some()
    }

    /// Why new pods get no network; `None` if they do. Blocks: plugins are asked.
    pub(crate) fn problem(&self) -> Option<String> {
        let handle = tokio::runtime::Handle::current();
        let asked = self.read().and_then(|(_, list)| handle.block_on(self.check(&list)));
        asked.err().map(|error| crate::runtime::chain(&error))
    }

    async fn check(&self, list: &List) -> Result<(), CniError> {
        for (at, name) in list.types().enumerate() {
            plugin::find(name, &self.bin_dirs)?;
            if list.has_status_and_gc() {
                let input = list.input(at, &Map::new(), None);
                plugin::call("STATUS", name, &self.bin_dirs, Subject::default(), &input).await?;
            }
        }
        Ok(())
    }

    /// The configuration that counts now: it may be changed while the daemon runs.
    fn read(&self) -> Result<(String, List), CniError> {
        let dir = self.conf_dir.clone().unwrap_or_default();
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let path = dir.join(conf::pick(names).ok_or(CniError::Unconfigured(dir.clone()))?);
        let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
        let list = List::parse(&text).map_err(|source| CniError::Conf { path, source })?;
        Ok((text, list))
    }

    /// Makes a namespace and lets the plugins furnish it. What fails is undone.
    pub(crate) async fn attach(
        &self,
        id: &str,
        config: &PodSandboxConfig,
        ports: &[HostPort],
    ) -> Result<Attached, CniError> {
        let (conf, list) = self.read()?;
        if !ports.is_empty() && !list.wants("portMappings") {
            return Err(CniError::NoHostPorts(list.name));
        }
        let mut cached = Cached {
            conf,
            bin_dirs: self.bin_dirs.clone(),
            arguments: pod::arguments(id, config),
            capabilities: pod::capabilities(config, ports)?,
            result: None,
        };
        self.keep(id, &cached)?;
        let added = self.add(id, &list, &mut cached).await;
        if added.is_err() {
            if let Err(error) = self.detach(id).await {
                // The file stays: the next daemon tries again.
                tracing::warn!(sandbox = id, error = &error as &dyn std::error::Error, "cannot undo a failed CNI ADD");
            }
            self.remove_namespace(id)?;
        }
        added
    }

    async fn add(&self, id: &str, list: &List, cached: &mut Cached) -> Result<Attached, CniError> {
        let netns = self.make_namespace(id)?;
        let path = self.netns_dir.join(id);
        let subject = Subject { id, netns: &path.to_string_lossy(), arguments: &cached.arguments };
        for (at, name) in list.types().enumerate() {
            let previous = cached.result.as_ref().map(|result| ("prevResult", result));
            let input = list.input(at, &cached.capabilities, previous);
            cached.result = Some(plugin::call("ADD", name, &self.bin_dirs, subject, &input).await?);
        }
        self.keep(id, cached)?;
        let ips = cached.result.as_ref().map(pod::addresses).unwrap_or_default();
        if ips.is_empty() { Err(CniError::NoAddress(list.name.clone())) } else { Ok(Attached { netns, ips }) }
    }

    /// Takes a pod's network apart, by the configuration that it was made with. Nothing there: nothing to do.
    pub(crate) async fn detach(&self, id: &str) -> Result<(), CniError> {
        let Some(cached) = self.cached(id)? else { return Ok(()) };
        let path = self.netns_dir.join(id);
        // After a reboot the namespace is gone, and a daemon may have died before it was mounted or after it was
        // unmounted; but addresses may still be taken.
        let netns = if is_namespace(&path) { path.to_string_lossy().into_owned() } else { String::new() };
        let subject = Subject { id, netns: &netns, arguments: &cached.arguments };
        let list = List::parse(&cached.conf).map_err(|source| CniError::Conf { path: self.cache_file(id), source })?;
        let previous = cached.result.as_ref().map(|result| ("prevResult", result));
        let mut first_error = None;
        for (at, name) in list.types().enumerate().collect::<Vec<_>>().into_iter().rev() {
            let input = list.input(at, &cached.capabilities, previous);
            if let Err(error) = plugin::call("DEL", name, &cached.bin_dirs, subject, &input).await {
                first_error.get_or_insert(error);
            }
        }
        if let Some(error) = first_error {
            return Err(error.into());
        }
        self.remove_namespace(id)?;
        let file = self.cache_file(id);
        remove_file(&file).map_err(failed("remove", &file))
    }

    /// Detaches what is left of pods that are not in `live`, and tells the plugins which networks there are.
    pub(crate) async fn sweep(&self, live: &[String]) {
        let entries = std::fs::read_dir(&self.cache_dir).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            let Some(id) = name.strip_suffix(".json").map(str::to_owned) else {
                let _ = std::fs::remove_file(self.cache_dir.join(name)); // a daemon died while it wrote that
                continue;
            };
            if live.contains(&id) {
                continue;
            }
            if let Err(error) = self.detach(&id).await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(sandbox = id, error, "cannot detach the CNI network of a pod that is gone");
            }
        }
        let Some((_, list)) = self.conf_dir.as_ref().and_then(|_| self.read().ok()) else { return };
        if !list.has_status_and_gc() || list.disable_gc {
            return;
        }
        let valid: Vec<Value> = live.iter().map(|id| json!({"containerID": id, "ifname": INTERFACE})).collect();
        for (at, name) in list.types().enumerate() {
            let input = list.input(at, &Map::new(), Some(("cni.dev/valid-attachments", &json!(valid))));
            if let Err(error) = plugin::call("GC", name, &self.bin_dirs, Subject::default(), &input).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a CNI plugin cannot collect what is left over"
                );
            }
        }
    }

    fn cache_file(&self, id: &str) -> PathBuf {
        self.cache_dir.join(format!("{id}.json"))
    }

    fn cached(&self, id: &str) -> Result<Option<Cached>, CniError> {
        let path = self.cache_file(id);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed("read", &path)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Replaces the file as a whole.
    fn keep(&self, id: &str, cached: &Cached) -> Result<(), CniError> {
        let (path, new) = (self.cache_file(id), self.cache_dir.join(format!("{id}.new")));
        let write = || {
            std::fs::create_dir_all(&self.cache_dir)?;
            std::fs::write(&new, serde_json::to_vec(cached)?)?;
            std::fs::rename(&new, &path)
        };
        write().map_err(failed("write", &path))
    }

    fn make_namespace(&self, id: &str) -> Result<OwnedFd, CniError> {
        let netns = network::empty_namespace()?;
        let path = self.netns_dir.join(id);
        let mount = || -> io::Result<()> {
            std::fs::create_dir_all(&self.netns_dir)?;
            std::fs::File::create(&path)?;
            Ok(rustix::mount::mount_bind(format!("/proc/self/fd/{}", netns.as_raw_fd()), &path)?)
        };
        mount().map_err(failed("mount the network namespace on", &path))?;
        Ok(netns)
    }

    fn remove_namespace(&self, id: &str) -> Result<(), CniError> {
        let path = self.netns_dir.join(id);
        unmount(&path).map_err(failed("unmount the network namespace", &path))
    }
}

/// Unmounts all namespaces that an instance left. Their plugins are told by the next daemon of the same state.
pub(crate) fn unmount_all(netns_dir: &Path) -> io::Result<()> {
    let entries = std::fs::read_dir(netns_dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).try_for_each(|path| unmount(&path))
}

/// Whether a namespace is mounted there.
fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

fn unmount(path: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => remove_file(path), // no mount, or nothing at all
        Err(errno) => Err(errno.into()),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CniError {
    let path = path.to_owned();
    move |source| CniError::Io { action, path, source }
}
