//! StartContainer: everything that a container is made of, as descriptors, in one message to the shim.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podbus_common_cri::runtime::{ContainerState, LinuxContainerSecurityContext, NamespaceMode};
use podbus_sandbox_linux::Fd;
use podbus_sandbox_linux::message::{Message, kind};
use podbus_sandbox_linux::mount::{NODEV, RDONLY};
use podbus_sandbox_linux::plan::tag;
use podbus_sandbox_linux::slot::{FLAG_START_FAILED, Slot};
use rustix::fs::OFlags;

use super::{Container, Device, Outcome, Runtime, RuntimeError, device, doing, image_volume, now};
use crate::cgroup::{Door, Limits};
use crate::image_volume::overlay;
use crate::link::Link;
use crate::plan::{Draft, PidMode};
use crate::process::{self, Invalid};
use crate::spawner::LOWEST_LAYER;
use crate::volume::{self, Options, Volume};

/// As containerd and Docker hide them, unless the request has a list of its own.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/proc/sys/kernel/keys",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Below the writable layer overlayfs takes no more.
const LOWER_LAYERS_MAX: usize = 500;
/// What a start that failed counts as: as containerd has it.
const START_FAILED: i32 = 128;
/// The oom_score_adj of a process that asks for none.
const OOM_SCORE: i64 = 0;

impl Runtime {
    /// Starts a container. One whose start fails has EXITED: it is not tried again.
    pub(crate) async fn start_container(self: &Arc<Self>, container: &Arc<Container>) -> Outcome<()> {
        let mut turn = container.turn.lock().await;
        let state = container.stage().state();
        if state != ContainerState::ContainerCreated {
            let text = format!("the container {} is {}, not created", container.body.id, state.as_str_name());
            return Err(RuntimeError::WrongState(text));
        }
        if !container.sandbox.is_ready() {
            let text = format!("the sandbox {} is not ready", container.sandbox.body.id);
            return Err(RuntimeError::WrongState(text));
        }
        match self.try_start(container, turn.take()).await {
            Ok(()) => {
                self.refresh(container);
                Ok(())
            }
            Err(error) => {
                let slot = Slot { time: now(), code: START_FAILED, flags: FLAG_START_FAILED, ..Slot::default() };
                self.end_container(container, &slot, &super::chain(&error));
                Err(error)
            }
        }
    }

    /// Makes of a start what takes long and needs nobody, while the answer to CreateContainer and the request to start
    /// are on their way. What fails here fails again at the start, which tells why.
    pub(super) async fn prepare_start(&self, container: &Arc<Container>) {
        let mut turn = container.turn.lock().await;
        let stage = container.stage();
        let is_next = stage.state() == ContainerState::ContainerCreated && !stage.is_removed;
        if !is_next || container.sandbox.link().is_err() || container.sandbox.body.handler.is_some() {
            return;
        }
        let cgroup = async {
            let limits = limits(container, &device::open_all(container)?);
            let door = self.cgroups.create(&container.cgroup(&container.sandbox), &limits)?;
            Ok::<_, RuntimeError>((door, limits))
        };
        // Side by side: either takes as long as the other.
        match tokio::join!(self.mount_root(container), cgroup) {
            (Ok(root), Ok((door, limits))) => *turn = Some(Prepared { root, door, limits }),
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(container = %container.body.id, %error, "cannot prepare the start of a container");
            }
        }
    }

    async fn try_start(self: &Arc<Self>, container: &Arc<Container>, prepared: Option<Prepared>) -> Outcome<()> {
        self.furnish(&container.sandbox)?;
        if let Some(handler) = &container.sandbox.body.handler {
            return self.start_by_handler(container, handler).await;
        }
        let link = container.sandbox.link()?;
        let (root, made) = prepared.map_or((None, None), |it| (Some(it.root), Some((it.door, it.limits))));
        let root = async {
            match root {
                Some(root) => Ok(root),
                None => self.mount_root(container).await,
            }
        };
        // Side by side, both to the end, so that nothing comes after an error.
        let (root, parts) = tokio::join!(root, self.gather(container, &link, made));
        let (root, Gathered { door, volumes, log }) = (root?, parts?);

        let mut draft = Draft::default();
        draft.fd(tag::FD_RECORD, container.record.raw());
        draft.door(&door);
        if let Some(log) = &log {
            draft.fd(tag::FD_LOG, log.as_raw_fd());
        }
        match &root {
            Some(root) => draft.fd(tag::FD_ROOT, root.raw()),
            None => self.describe_layers(container, &mut draft)?,
        }
        describe_root(container, &mut draft);
        for volume in &volumes {
            draft.volume(volume);
        }
        draft.flag(tag::POD_SHM, !volumes.iter().any(|volume| volume.target == "/dev/shm"));
        draft.cgroup_view(&self.cgroups);
        let process = container.body.process.clone().unwrap_or_default();
        draft.process(&process);
        draft.owner(container.sandbox.mapping(), process.user);
        draft.flag(tag::STDIN, container.config().stdin);
        draft.bytes(tag::OOM_SCORE, self.oom_score_of(container));
        let options = container.namespaces();
        draft.pid_mode(match NamespaceMode::try_from(options.pid) {
            Ok(NamespaceMode::Pod) => PidMode::Pod,
            Ok(NamespaceMode::Node) => PidMode::Node,
            Ok(NamespaceMode::Target) => PidMode::Target(&options.target_id),
            _ => PidMode::Own,
        });
        let plan = draft.seal().map_err(doing("write the plan"))?;
        let message = Message { kind: kind::START, text: container.body.id.as_bytes(), ..Message::default() };
        link.request(message, plan.fds()).await?;
        Ok(())
    }

    /// Makes the cgroup, unless one with its limits is `made`, and opens all that the container gets but its root.
    async fn gather(&self, container: &Arc<Container>, link: &Link, made: Option<(Door, Limits)>) -> Outcome<Gathered> {
        let devices = device::open_all(container)?;
        let wanted = limits(container, &devices);
        let door = match made {
            Some((door, limits)) if limits == wanted => door,
            _ => self.cgroups.create(&container.cgroup(&container.sandbox), &wanted)?,
        };
        let user = container.sandbox.user_namespace(link).await?;
        let volumes = volumes(container, devices, user.as_ref())?;
        let log = open_log(&container.body.log_path)?;
        Ok(Gathered { door, volumes, log })
    }

    /// Puts the layers of a container together, off the async workers. `None` where its shim has to: in a user namespace,
    /// whose ids the layers then have, and before Linux 6.5.
    async fn mount_root(&self, container: &Arc<Container>) -> Outcome<Option<Fd>> {
        if container.sandbox.mapping().is_some() {
            return Ok(None);
        }
        let (container, layers) = (Arc::clone(container), layers(container, &self.state_dir));
        let mounted = tokio::task::spawn_blocking(move || {
            let (upper, work) = empty_writable_layer(&container)?;
            let privileged = process::security(container.config()).privileged;
            // Devices of an image open nowhere but in a privileged container.
            let attributes = if privileged { 0 } else { NODEV };
            let mounted = overlay(&layers, Some((&upper, &work)), attributes);
            mounted.map_err(|errno| doing("mount the layers of the image")(errno.into()))
        });
        mounted.await.map_err(|error| doing("mount the layers of the image")(error.into()))?
    }

    /// The layers and the writable one, for the shim to put together.
    pub(super) fn describe_layers(&self, container: &Container, draft: &mut Draft) -> Outcome<()> {
        for layer in layers(container, &self.state_dir).iter().rev() {
            draft.bytes(tag::LOWER, self.inside(layer)?);
        }
        let (upper, work) = empty_writable_layer(container)?;
        draft.bytes(tag::UPPER, self.inside(&upper)?);
        draft.bytes(tag::WORK, self.inside(&work)?);
        if let Some(mapping) = container.sandbox.mapping() {
            // The layers are everybody's, and appear as the pod's; the writable one is the pod's also on the disk, since
            // the kernel makes files for an overlay as the node's root, which has no place in a mapped mount.
            std::os::unix::fs::chown(upper, Some(mapping.on_node(0)), Some(mapping.groups.first))
                .map_err(doing("give the writable layer to the pod"))?;
            let layers = container.body.layers.iter().filter_map(|layer| Path::new(layer).parent());
            for dir in layers.collect::<BTreeSet<_>>() {
                draft.bytes(tag::MAPPED, self.inside(dir)?);
            }
        }
        Ok(())
    }

    /// The oom_score_adj of a container's processes.
    pub(super) fn oom_score_of(&self, container: &Container) -> String {
        let wanted = container.resources().oom_score_adj;
        let wanted = i32::try_from(if wanted == 0 { OOM_SCORE } else { wanted }).unwrap_or(1000);
        self.oom_score(wanted).to_string()
    }

    /// A path of the state directory as a shim sees it, whose root that is.
    fn inside(&self, path: &Path) -> Outcome<String> {
        let relative = path.strip_prefix(&self.state_dir).map_err(|_| {
            Invalid(format!("{} is not in the state directory {}", path.display(), self.state_dir.display()))
        })?;
        Ok(format!("/{}", relative.display()))
    }

    /// Opens the log anew, and waits until the shim writes there.
    pub(crate) async fn reopen_log(&self, container: &Container) -> Outcome<()> {
        if !container.is_running() {
            return Err(RuntimeError::WrongState(format!("the container {} is not running", container.body.id)));
        }
        let Some(log) = open_log(&container.body.log_path)? else { return Ok(()) };
        let message = Message { kind: kind::REOPEN, text: container.body.id.as_bytes(), ..Message::default() };
        container.sandbox.link()?.request(message, &[log.as_raw_fd()]).await?;
        Ok(())
    }
}

/// What is made of a container before its start is asked for.
pub(super) struct Prepared {
    root: Option<Fd>,
    door: Door,
    /// Those that its cgroup has: they may change until the start.
    limits: Limits,
}

/// The limits of a container that has these devices.
pub(super) fn limits(container: &Container, devices: &[Device]) -> Limits {
    let privileged = process::security(container.config()).privileged;
    Limits::container(&container.resources(), privileged).with_devices(devices)
}

/// What a container gets but its root.
struct Gathered {
    door: Door,
    volumes: Vec<Volume>,
    log: Option<std::fs::File>,
}

/// The layers below the writable one, lowest first.
fn layers(container: &Container, state_dir: &Path) -> Vec<PathBuf> {
    let lowest = (container.body.layers.len() < LOWER_LAYERS_MAX).then(|| state_dir.join(LOWEST_LAYER));
    lowest.into_iter().chain(container.body.layers.iter().map(PathBuf::from)).collect()
}

/// Makes the writable layer and its work directory, empty.
fn empty_writable_layer(container: &Container) -> Outcome<(PathBuf, PathBuf)> {
    let (upper, work) = writable_layer(&container.dir);
    // Made in advance: who mounts them leaves something in the work directory first.
    if work.read_dir().is_ok_and(|mut entries| entries.next().is_none()) {
        return Ok((upper, work));
    }
    // A start that died half-way left a work directory that overlayfs refuses.
    for dir in [&work, &upper] {
        podbus_common_tree::remove(dir).map_err(doing("empty the writable layer"))?;
    }
    make_writable_layer(&container.dir).map_err(doing("make the writable layer"))
}

fn writable_layer(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("upper"), dir.join("work"))
}

/// Makes both in the directory of a container that has none, the work directory last.
pub(super) fn make_writable_layer(dir: &Path) -> std::io::Result<(PathBuf, PathBuf)> {
    let (upper, work) = writable_layer(dir);
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&work)?;
    Ok((upper, work))
}

/// What is hidden of a container's root, or cannot be written.
pub(super) fn describe_root(container: &Container, draft: &mut Draft) {
    let context = process::security(container.config());
    draft.flag(tag::ROOT_READONLY, context.readonly_rootfs);
    draft.flag(tag::PRIVILEGED, context.privileged);
    if context.privileged {
        for node in device::of_node() {
            draft.node(&node);
        }
        return;
    }
    let (masked, readonly) = hidden(&context);
    for path in masked {
        draft.bytes(tag::MASKED_PATH, path);
    }
    for path in readonly {
        draft.bytes(tag::READONLY_PATH, path);
    }
}

/// The masked and the read-only paths.
pub(super) fn hidden(context: &LinuxContainerSecurityContext) -> (Vec<String>, Vec<String>) {
    let defaults = |list: &[String], defaults: &[&str]| -> Vec<String> {
        if list.is_empty() { defaults.iter().map(ToString::to_string).collect() } else { list.to_vec() }
    };
    if context.privileged {
        return (Vec::new(), Vec::new());
    }
    (defaults(&context.masked_paths, &MASKED), defaults(&context.readonly_paths, &READONLY))
}

pub(super) fn open_log(path: &str) -> Outcome<Option<std::fs::File>> {
    if path.is_empty() {
        return Ok(None);
    }
    if let Some(parent) = Path::new(path).parent() {
        std::fs::create_dir_all(parent).map_err(doing(format!("make {}", parent.display())))?;
    }
    // Not what a link leads to; and a pipe would block.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o640).custom_flags(flags.bits().cast_signed()).open(path);
    let regular = file.and_then(|file| match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("it is no regular file")),
    });
    regular.map(Some).map_err(doing(format!("open the log {path}")))
}

/// The request's mounts and devices, and the pod's files where the request has none at their place. `user` is the pod's
/// user namespace, if it has one of its own.
pub(super) fn volumes(container: &Container, devices: Vec<Device>, user: Option<&OwnedFd>) -> Outcome<Vec<Volume>> {
    let config = container.config();
    let mut volumes: Vec<Volume> = devices.into_iter().map(|device| device.volume).collect();
    volumes.extend(image_volume::open_all(container, user)?);
    for mount in config.mounts.iter().filter(|mount| mount.image.is_none()) {
        let (source, options) = (Path::new(&mount.host_path), volume::options(mount)?);
        let opened = match volume::open(source, &mount.container_path, options) {
            // As other runtimes have it: clients count on an empty directory.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(source).and_then(|()| volume::open(source, &mount.container_path, options))
            }
            opened => opened,
        };
        let volume = opened.map_err(doing(format!("open {} for {}", mount.host_path, mount.container_path)))?;
        if let Some(user) = user.filter(|_| !mount.uid_mappings.is_empty()) {
            volume.map_ids(user).map_err(doing(format!("map the ids of files in {}", mount.host_path)))?;
        }
        volumes.push(volume);
    }
    let taken = |target: &str, volumes: &[Volume]| volumes.iter().any(|volume| volume.target == target);
    let readonly = if process::security(config).readonly_rootfs { RDONLY } else { 0 };
    let options = Options { attributes: readonly, ..Options::default() };
    for name in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{name}");
        if !taken(&target, &volumes) {
            let opened = volume::open(&container.sandbox.dir.join(name), &target, options);
            let mapped = opened.and_then(|volume| user.map_or(Ok(()), |user| volume.map_ids(user)).map(|()| volume));
            volumes.push(mapped.map_err(doing(format!("open {target}")))?);
        }
    }
    if container.sandbox.namespaces().ipc == NamespaceMode::Node as i32 && !taken("/dev/shm", &volumes) {
        let opened = volume::open(Path::new("/dev/shm"), "/dev/shm", Options::default());
        volumes.push(opened.map_err(doing("open the node's /dev/shm"))?);
    }
    volumes.sort_by_key(|volume| volume::depth(&volume.target));
    Ok(volumes)
}
