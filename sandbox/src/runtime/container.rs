//! A container: created, stopped, removed, and how its state is known.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use podbus_common_cri::runtime::{
    ContainerConfig, ContainerEventType, ContainerState, LinuxContainerResources, NamespaceMode, NamespaceOption,
};
use podbus_common_tree::Holding;
use podbus_sandbox_linux::message::{Message, kind};
use podbus_sandbox_linux::slot::{FLAG_UNKNOWN, Place, Slot};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::sandbox::remove_dir;
use super::start::Prepared;
use super::{Outcome, Runtime, RuntimeError, Sandbox, doing, lock, new_id, now};
use super::{context, device};
use crate::cgroup::Limits;
use crate::image::Hold;
use crate::process::{self, Invalid};
use crate::record::{ContainerBody, Record};
use crate::stats::Gauges;
use crate::volume;

/// What the kernel and the shim may take from the kill to the exit in the record.
const KILLED: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

/// A container.
pub(crate) struct Container {
    pub(crate) body: ContainerBody,
    pub(super) record: Record,
    pub(super) dir: PathBuf,
    pub(super) sandbox: Arc<Sandbox>,
    stage: Mutex<Stage>,
    pub(super) exited: watch::Sender<bool>,
    resources: Mutex<LinuxContainerResources>,
    pub(crate) gauges: Gauges,
    /// One of preparation, start and remove at a time; what is prepared for its start.
    pub(super) turn: tokio::sync::Mutex<Option<Prepared>>,
    _layers: Arc<Hold>,
}

/// How far a container has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stage {
    pub(crate) started: Option<Slot>,
    pub(crate) exit: Option<Slot>,
    /// Why it did not start.
    pub(crate) message: String,
    pub(super) is_removed: bool,
}

impl Container {
    pub(super) fn new(
        body: ContainerBody,
        record: Record,
        dir: PathBuf,
        sandbox: Arc<Sandbox>,
        layers: Arc<Hold>,
    ) -> Arc<Self> {
        let asked = || config(&body).linux.as_ref().and_then(|linux| linux.resources.clone());
        let resources = read_resources(&dir.join(CHANGED)).or_else(asked).unwrap_or_default();
        let stage = Stage { started: record.slot(Place::State), exit: record.slot(Place::Exit), ..Stage::default() };
        Arc::new(Self {
            exited: watch::Sender::new(stage.exit.is_some()),
            stage: Mutex::new(stage),
            body,
            record,
            dir,
            sandbox,
            resources: Mutex::new(resources),
            gauges: Gauges::default(),
            turn: tokio::sync::Mutex::default(),
            _layers: layers,
        })
    }

    pub(crate) fn config(&self) -> &ContainerConfig {
        config(&self.body)
    }

    pub(crate) fn stage(&self) -> Stage {
        lock(&self.stage).clone()
    }

    pub(crate) fn is_running(&self) -> bool {
        lock(&self.stage).state() == ContainerState::ContainerRunning
    }

    pub(crate) fn resources(&self) -> LinuxContainerResources {
        lock(&self.resources).clone()
    }

    pub(crate) fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }

    /// Its namespaces: what it says, else what the sandbox says.
    pub(crate) fn namespaces(&self) -> NamespaceOption {
        let own = self.config().linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        own.and_then(|context| context.namespace_options.clone()).unwrap_or_else(|| self.sandbox.namespaces())
    }

    pub(crate) fn cgroup(&self, sandbox: &Sandbox) -> String {
        format!("{}/{}", sandbox.body.cgroup, self.body.id)
    }

    /// What its writable layer holds, as far as it is known.
    pub(crate) fn writable_layer(&self) -> Option<Holding> {
        self.gauges.disk.read(&self.dir.join("upper"))
    }

    /// Gives up what is prepared for a start that will not be. Who has the turn now sees to it that nothing is left.
    pub(super) fn forget_prepared(&self) {
        if let Ok(mut prepared) = self.turn.try_lock() {
            *prepared = None;
        }
    }

    /// Waits for the exit; whether it came before `deadline`.
    async fn exits_before(&self, deadline: Instant) -> bool {
        let mut exited = self.exited.subscribe();
        timeout_at(deadline, exited.wait_for(|exited| *exited)).await.is_ok()
    }
}

fn config(body: &ContainerBody) -> &ContainerConfig {
    static EMPTY: std::sync::LazyLock<ContainerConfig> = std::sync::LazyLock::new(ContainerConfig::default);
    body.config.as_ref().unwrap_or(&EMPTY)
}

fn same_name(left: &ContainerConfig, right: &ContainerConfig) -> bool {
    left.metadata == right.metadata
}

impl Runtime {
    /// Validates, resolves and records. Nothing runs yet.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        config: ContainerConfig,
    ) -> Outcome<String> {
        let Some(metadata) = config.metadata.as_ref().filter(|metadata| !metadata.name.is_empty()) else {
            return Err(Invalid("a container needs metadata with a name".to_owned()).into());
        };
        let turn = self.turn(&format!("{}/{}_{}", sandbox.body.id, metadata.name, metadata.attempt));
        let _turn = turn.lock().await;
        if !sandbox.is_ready() {
            return Err(RuntimeError::WrongState(format!("the sandbox {} is not ready", sandbox.body.id)));
        }
        let others = self.containers_of(&sandbox.body.id);
        if let Some(found) = others.into_iter().find(|it| same_name(it.config(), &config)) {
            let is_same = *found.config() == config && found.stage().state() == ContainerState::ContainerCreated;
            let error = || {
                RuntimeError::Exists(format!("the container {} is there already, as {}", metadata.name, found.body.id))
            };
            return is_same.then(|| found.body.id.clone()).ok_or_else(error);
        }
        context::check_container(sandbox.config(), &config)?;
        self.check_target(sandbox, &config)?;
        if let Some(resources) = config.linux.as_ref().and_then(|linux| linux.resources.as_ref()) {
            self.cgroups.check(resources)?;
        }
        let (body, layers) = self.describe(sandbox, config)?;
        let dir = sandbox.dir.join("c").join(&body.id);
        let recorded = record(&dir, &body);
        let record = match recorded {
            Ok(record) => record,
            Err(source) => {
                let _ = remove_dir(&dir).await; // what is left is removed with the sandbox, or at the next start
                return Err(doing("write the container's record")(source));
            }
        };
        let id = body.id.clone();
        let container = Container::new(body, record, dir, Arc::clone(sandbox), layers);
        self.table().containers.insert(id.clone(), Arc::clone(&container));
        self.tell(sandbox, &id, ContainerEventType::ContainerCreatedEvent);
        let runtime = Arc::clone(self);
        tokio::spawn(async move { runtime.prepare_start(&container).await });
        Ok(id)
    }

    /// A target is a container of the same pod that runs.
    fn check_target(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Outcome<()> {
        let Some(options) = process::security(config).namespace_options else { return Ok(()) };
        if options.pid != NamespaceMode::Target as i32 {
            return Ok(());
        }
        let target = self.container(&options.target_id).ok().filter(|it| it.body.sandbox_id == sandbox.body.id);
        if target.is_some_and(|it| it.is_running()) {
            return Ok(());
        }
        Err(Invalid(format!("the target {:?} is no running container of the pod", options.target_id)).into())
    }

    fn describe(&self, sandbox: &Sandbox, config: ContainerConfig) -> Outcome<(ContainerBody, Arc<Hold>)> {
        let name = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image = self
            .store
            .resolve(&name)
            .map_err(|error| RuntimeError::NotFound { kind: "image", id: format!("{name}: {error}") })?;
        for mount in config.mounts.iter().filter(|mount| mount.image.is_none()) {
            volume::check(mount, &process::security(&config), sandbox.mapping())?;
        }
        let (image_volumes, _images) = self.find_image_volumes(&config)?;
        device::check(&config)?;
        let mut process = process::of(&config, &image.config, &image.layers, &sandbox.hostname())?;
        let context = process::security(&config);
        if let Some(mapping) = sandbox.mapping() {
            mapping.check([process.user.into()], process.groups.iter().map(|group| i64::from(*group)))?;
        }
        if !context.privileged {
            let filter = self.seccomp.of_container(&context, process.capabilities)?;
            (process.seccomp, process.seccomp_flags) = (filter.program, filter.flags);
        }
        let directory = &sandbox.config().log_directory;
        let has_log = !directory.is_empty() && !config.log_path.is_empty();
        let log_path = if has_log { Path::new(directory).join(&config.log_path) } else { PathBuf::new() };
        let layers = image.layers.iter().map(|layer| layer.to_string_lossy().into_owned()).collect();
        // Shown as the pod's imageID: an image that was loaded, not pulled, has no digest of a registry.
        let image_ref = image.digests.first().unwrap_or(&image.id).clone();
        let first = lock(&sandbox.life).first_container.take();
        let body = ContainerBody {
            id: first.unwrap_or_else(new_id),
            sandbox_id: sandbox.body.id.clone(),
            created_at: now(),
            image_id: image.id.clone(),
            image_ref,
            layers,
            process: Some(process),
            log_path: log_path.to_string_lossy().into_owned(),
            stop_signal: process::stop_signal(config.stop_signal, image.config.stop_signal.as_deref()),
            config: Some(config),
            image_volumes,
        };
        self.store.note_use(&image.id);
        let hold = self.store.hold(&body.all_layers()); // the images found above have kept them so far
        Ok((body, Arc::new(hold)))
    }

    /// Reads the slots, and tells what is new in them.
    pub(super) fn refresh(self: &Arc<Self>, container: &Arc<Container>) {
        let (has_started, has_exited) = {
            let mut stage = lock(&container.stage);
            let before = (stage.started.is_some(), stage.exit.is_some());
            stage.started = stage.started.or_else(|| container.record.slot(Place::State));
            stage.exit = stage.exit.or_else(|| container.record.slot(Place::Exit));
            (!before.0 && stage.started.is_some(), !before.1 && stage.exit.is_some())
        };
        let sandbox = &container.sandbox;
        if has_started {
            self.tell(sandbox, &container.body.id, ContainerEventType::ContainerStartedEvent);
        }
        if has_exited {
            container.exited.send_replace(true);
            self.tell(sandbox, &container.body.id, ContainerEventType::ContainerStoppedEvent);
            let (runtime, container) = (Arc::clone(self), Arc::clone(container));
            tokio::spawn(async move {
                if container.sandbox.body.handler.is_some() {
                    // A program may end before its handler's `start` has: what that still uses must stay.
                    let _turn = container.turn.lock().await;
                    runtime.delete_by_handler(&container).await;
                }
                if let Err(error) = runtime.cgroups.remove(&container.cgroup(&container.sandbox)).await {
                    tracing::warn!(container = %container.body.id, %error, "cannot remove the cgroup of an ended container");
                }
            });
        }
    }

    /// A container that nobody watches any more is ended by its cgroup, and its exit code is nobody's to know.
    pub(super) async fn lose_container(self: &Arc<Self>, container: &Arc<Container>) {
        if let Err(error) = self.cgroups.remove(&container.cgroup(&container.sandbox)).await {
            tracing::warn!(container = %container.body.id, %error, "cannot end a container without a shim");
        }
        let slot = Slot { time: now(), code: 255, flags: FLAG_UNKNOWN, ..Slot::default() };
        self.end_container(container, &slot, "its shim died, so that its exit code is not known");
    }

    /// Writes an exit that the shim did not write.
    pub(super) fn end_container(self: &Arc<Self>, container: &Arc<Container>, slot: &Slot, message: &str) {
        if container.record.slot(Place::Exit).is_none() {
            if let Err(error) = container.record.commit(Place::Exit, slot) {
                tracing::warn!(container = %container.body.id, %error, "cannot write the container's record");
            }
            let mut stage = lock(&container.stage);
            stage.message = message.to_owned();
        }
        self.refresh(container);
    }

    /// Sends the stop signal, once in the container's life, and kills it when the grace is over.
    pub(crate) async fn stop_container(self: &Arc<Self>, container: &Arc<Container>, grace: Duration) -> Outcome<()> {
        if !container.is_running() {
            return Ok(());
        }
        if !grace.is_zero() {
            let grace_nanos = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
            let until = now().saturating_add(grace_nanos);
            let earlier = container.record.slot(Place::Stop);
            let until = earlier.map_or(until, |slot| slot.until.min(until));
            let signal = container.body.stop_signal;
            let slot = Slot { time: now(), until, signal, ..Slot::default() };
            container.record.commit(Place::Stop, &slot).map_err(doing("write the container's record"))?;
            if earlier.is_none() {
                self.signal(container, signal).await;
            }
            let left = u64::try_from(until - now()).unwrap_or(0);
            if container.exits_before(Instant::now() + Duration::from_nanos(left)).await {
                return Ok(());
            }
        }
        self.kill_container(container).await
    }

    async fn signal(&self, container: &Container, signal: i32) {
        if self.signal_by_handler(container, signal).await {
            return;
        }
        let Ok(link) = container.sandbox.link() else { return };
        let message =
            Message { kind: kind::SIGNAL, a: signal, text: container.body.id.as_bytes(), ..Message::default() };
        if let Err(error) = link.request(message, &[]).await {
            tracing::debug!(container = %container.body.id, %error, "no process took the signal");
        }
    }

    async fn kill_container(self: &Arc<Self>, container: &Arc<Container>) -> Outcome<()> {
        self.signal_by_handler(container, SIGKILL).await; // what is beyond the node's kernel ends by its handler
        // The cgroup needs no shim, and takes along what a shared PID namespace would leave.
        self.cgroups.kill(&container.cgroup(&container.sandbox));
        if container.exits_before(Instant::now() + KILLED).await {
            return Ok(());
        }
        Err(RuntimeError::Deadline(format!(
            "the container {} did not end within {} s of being killed",
            container.body.id,
            KILLED.as_secs()
        )))
    }

    /// Forgets a container; one that runs is killed first. The log stays.
    pub(crate) async fn remove_container(self: &Arc<Self>, container: &Arc<Container>) -> Outcome<()> {
        let mut prepared = container.turn.lock().await;
        *prepared = None;
        if container.is_running() {
            self.kill_container(container).await?;
        }
        self.delete_by_handler(container).await;
        self.cgroups.remove(&container.cgroup(&container.sandbox)).await?;
        // First the record: what is left without it never was.
        let removed = std::fs::remove_file(container.dir.join("record"));
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(doing("remove the container's record")(error));
        }
        remove_dir(&container.dir).await.map_err(doing("remove the container's directory"))?;
        let is_first = !std::mem::replace(&mut lock(&container.stage).is_removed, true);
        if is_first {
            self.table().containers.remove(&container.body.id);
            self.tell(&container.sandbox, &container.body.id, ContainerEventType::ContainerDeletedEvent);
        }
        Ok(())
    }

    /// Changes limits: at once where it runs, at its start else.
    pub(crate) fn update_container(&self, container: &Container, change: &LinuxContainerResources) -> Outcome<()> {
        self.cgroups.check(change)?;
        let mut resources = lock(&container.resources); // one change at a time
        let mut changed = resources.clone();
        merge(&mut changed, change);
        announce_resources(&container.dir, &changed).map_err(doing("write down the changed limits"))?;
        if let Err(error) = self.apply_resources(container, change) {
            let _ = std::fs::remove_file(container.dir.join(ANNOUNCED)); // else the next start tries it once more
            return Err(error);
        }
        keep_resources(&container.dir).map_err(doing("keep the changed limits"))?;
        *resources = changed;
        Ok(())
    }

    fn apply_resources(&self, container: &Container, change: &LinuxContainerResources) -> Outcome<()> {
        if !container.is_running() {
            return Ok(());
        }
        let path = container.cgroup(&container.sandbox);
        self.cgroups.update(&path, &Limits::change(change))?;
        if let Ok(score) = i32::try_from(change.oom_score_adj)
            && score != 0
        {
            self.cgroups.set_oom_score(&path, self.oom_score(score));
        }
        Ok(())
    }

    /// Carries out a change of limits that a daemon announced and did not live to finish.
    pub(super) fn finish_update(&self, container: &Container) {
        let Some(announced) = read_resources(&container.dir.join(ANNOUNCED)) else { return };
        let mut resources = lock(&container.resources);
        let kept = self.apply_resources(container, &announced).and_then(|()| {
            keep_resources(&container.dir).map_err(doing("keep the changed limits"))?;
            *resources = announced;
            Ok(())
        });
        if let Err(error) = kept {
            tracing::warn!(container = %container.body.id, %error, "limits that were being changed stay as they are");
            let _ = std::fs::remove_file(container.dir.join(ANNOUNCED));
        }
    }
}

/// Limits that were changed since the record was written, which never changes.
const CHANGED: &str = "resources";
/// The same before they are in force.
const ANNOUNCED: &str = "resources.new";

fn read_resources(path: &Path) -> Option<LinuxContainerResources> {
    Record::open(path).ok().flatten().map(|(_, resources)| resources)
}

fn announce_resources(dir: &Path, resources: &LinuxContainerResources) -> std::io::Result<()> {
    let path = dir.join(ANNOUNCED);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Record::create(&path, resources).map(drop),
    }
}

fn keep_resources(dir: &Path) -> std::io::Result<()> {
    std::fs::rename(dir.join(ANNOUNCED), dir.join(CHANGED))
}

/// Zero and empty say nothing.
fn merge(into: &mut LinuxContainerResources, change: &LinuxContainerResources) {
    let pairs = [
        (&mut into.cpu_period, change.cpu_period),
        (&mut into.cpu_quota, change.cpu_quota),
        (&mut into.cpu_shares, change.cpu_shares),
        (&mut into.memory_limit_in_bytes, change.memory_limit_in_bytes),
        (&mut into.memory_swap_limit_in_bytes, change.memory_swap_limit_in_bytes),
        (&mut into.oom_score_adj, change.oom_score_adj),
    ];
    for (place, value) in pairs {
        if value != 0 {
            *place = value;
        }
    }
    for (place, value) in [(&mut into.cpuset_cpus, &change.cpuset_cpus), (&mut into.cpuset_mems, &change.cpuset_mems)] {
        if !value.is_empty() {
            place.clone_from(value);
        }
    }
    for limit in &change.hugepage_limits {
        into.hugepage_limits.retain(|it| it.page_size != limit.page_size);
        into.hugepage_limits.push(limit.clone());
    }
    into.unified.extend(change.unified.clone());
}

/// The record, and in it that the container is CREATED.
fn record(dir: &Path, body: &ContainerBody) -> std::io::Result<Record> {
    std::fs::create_dir_all(dir)?;
    let record = Record::create(&dir.join("record"), body)?;
    record.commit(Place::Daemon, &Slot { time: body.created_at, ..Slot::default() })?;
    Ok(record)
}
