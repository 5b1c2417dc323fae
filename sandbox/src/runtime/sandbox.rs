//! A sandbox: run, stopped, removed, and what its death means.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use podbus_common_cri::runtime::{
    ContainerEventType, LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, SecurityProfile, security_profile::ProfileType,
};
use podbus_sandbox_linux::message::{Message, kind};
use podbus_sandbox_linux::plan::tag;
use podbus_sandbox_linux::slot::{FLAG_UNKNOWN, Place, Slot};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::context;
use super::line::{Identity, Line, Spare, SpareNetwork, Start};
use super::{Outcome, Runtime, RuntimeError, doing, lock, now, ports};
use crate::cgroup::Door;
use crate::cni;
use crate::link::{Link, LinkError, Notice};
use crate::network::{self, Attached, Lease, NetworkError};
use crate::plan::{Draft, PidMode, Sealed};
use crate::process::Invalid;
use crate::record::{Record, SandboxBody};
use crate::stats::Gauges;
use crate::stats::network::{Interface, interfaces};
use crate::userns::Mapping;
use crate::{files, seccomp, sysctl, user};

/// What a shim may take to kill all and commit the exits.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// As containerd has it.
const SHM_BYTES: u64 = 64 << 20;
/// Among the last to be killed when memory runs out: the pod dies with it.
const PAUSE_OOM_SCORE: i32 = -998;

/// A pod's sandbox.
pub(crate) struct Sandbox {
    pub(crate) body: SandboxBody,
    pub(super) record: Record,
    pub(super) dir: PathBuf,
    pub(super) life: Mutex<Life>,
    /// One of stop and remove at a time.
    ending: tokio::sync::Mutex<()>,
    /// What only its containers need is made, or will not be needed.
    is_furnished: Mutex<bool>,
    pub(crate) gauges: Gauges,
    /// What the client said last of the pod's resources: overhead, and all of it.
    told: Mutex<(Option<LinuxContainerResources>, Option<LinuxContainerResources>)>,
}

/// The network of a pod that is being made.
enum PodNetwork {
    OfNode,
    Ready(Attached),
    /// It is being made.
    Coming(Lease, JoinHandle<Result<Attached, NetworkError>>),
    /// It has to be made inside of the pod's user namespace.
    Promised(Mapping, Lease),
    /// Plugins made it.
    Cni(cni::Attached),
}

impl PodNetwork {
    fn lease(&self) -> Option<Lease> {
        match self {
            Self::OfNode | Self::Cni(_) => None,
            Self::Ready(it) => Some(Lease { ip: it.ip, second_ip: it.second_ip, veth: it.veth.clone() }),
            Self::Coming(lease, _) | Self::Promised(_, lease) => Some(lease.clone()),
        }
    }

    /// Waits until it is made, or until it is known that it cannot be.
    async fn made(self) -> Outcome<Self> {
        match self {
            Self::Coming(_, making) => Ok(Self::Ready(finished(making).await?)),
            other => Ok(other),
        }
    }

    /// One of a family, the one that stands for the pod first.
    fn ips(&self) -> Vec<IpAddr> {
        match (self, self.lease()) {
            (Self::Cni(attached), _) => attached.ips.clone(),
            (_, Some(lease)) => std::iter::once(lease.ip.into()).chain(lease.second_ip.map(IpAddr::from)).collect(),
            (_, None) => Vec::new(),
        }
    }
}

async fn finished<T>(task: JoinHandle<Result<T, NetworkError>>) -> Outcome<T> {
    Ok(task.await.map_err(|error| doing("make the network")(io::Error::other(error)))??)
}

/// A pod as far as it needs no network.
struct Prepared {
    record: Record,
    door: Door,
    line: Line,
}

#[derive(Default)]
pub(super) struct Life {
    pub(super) link: Option<Arc<Link>>,
    pub(super) is_ready: bool,
    /// Asked for: what dies now dies as it should.
    pub(super) is_stopping: bool,
    /// The address is given back.
    pub(super) is_released: bool,
    /// The id of a container that nobody has asked for yet, whose directory is there.
    pub(super) first_container: Option<String>,
}

impl Sandbox {
    pub(super) fn new(body: SandboxBody, record: Record, dir: PathBuf, life: Life) -> Arc<Self> {
        let ending = tokio::sync::Mutex::default();
        Arc::new(Self {
            body,
            record,
            dir,
            life: Mutex::new(life),
            ending,
            is_furnished: Mutex::default(),
            gauges: Gauges::default(),
            told: Mutex::default(),
        })
    }

    pub(crate) fn config(&self) -> &PodSandboxConfig {
        config(&self.body)
    }

    pub(crate) fn is_ready(&self) -> bool {
        lock(&self.life).is_ready
    }

    /// The connection to its shim, if it lives.
    pub(super) fn link(&self) -> Outcome<Arc<Link>> {
        let link = lock(&self.life).link.clone().filter(|link| !link.is_gone());
        link.ok_or(RuntimeError::Link(LinkError::Gone))
    }

    pub(crate) fn namespaces(&self) -> NamespaceOption {
        namespaces(self.config())
    }

    /// The ids of its user namespace, if it has one of its own.
    pub(crate) fn mapping(&self) -> Option<Mapping> {
        Mapping::of(&self.namespaces()).ok().flatten() // checked before it was made
    }

    pub(super) fn id_and_cookie(&self) -> Vec<u8> {
        id_and_cookie(&self.body)
    }

    /// Writes the files that a daemon before this one did not come to write.
    pub(super) fn complete_files(&self) -> Outcome<()> {
        if files::are_written(&self.dir) { Ok(()) } else { write_files(&self.body, &self.dir) }
    }

    pub(crate) fn hostname(&self) -> String {
        hostname(self.config())
    }

    pub(super) fn pause_cgroup(&self) -> String {
        pause_cgroup(&self.body)
    }

    /// What its interfaces have counted; none with the node's network.
    pub(crate) fn interfaces(&self) -> Vec<Interface> {
        let is_own = self.is_ready() && !uses_node(self.namespaces().network);
        if is_own { interfaces(self.pause_pid()) } else { Vec::new() }
    }

    /// Keeps what the client says of the pod's resources, until this daemon ends.
    pub(crate) fn keep_resources(
        &self,
        overhead: Option<LinuxContainerResources>,
        resources: Option<LinuxContainerResources>,
    ) {
        *lock(&self.told) = (overhead, resources);
    }

    /// What the client said of the pod's overhead and resources: at its birth, or later.
    pub(crate) fn told_resources(&self) -> (Option<LinuxContainerResources>, Option<LinuxContainerResources>) {
        let linux = self.config().linux.clone().unwrap_or_default();
        let (overhead, resources) = lock(&self.told).clone();
        (overhead.or(linux.overhead), resources.or(linux.resources))
    }

    /// The process id of pause, for people.
    pub(crate) fn pause_pid(&self) -> i32 {
        self.record.slot(Place::State).map_or(0, |slot| slot.pid)
    }
}

fn config(body: &SandboxBody) -> &PodSandboxConfig {
    static EMPTY: std::sync::LazyLock<PodSandboxConfig> = std::sync::LazyLock::new(PodSandboxConfig::default);
    body.config.as_ref().unwrap_or(&EMPTY)
}

pub(super) fn id_and_cookie(body: &SandboxBody) -> Vec<u8> {
    [body.id.as_bytes(), &body.cookie].concat()
}

fn pause_cgroup(body: &SandboxBody) -> String {
    format!("{}/{}", body.cgroup, body.id)
}

fn namespaces(config: &PodSandboxConfig) -> NamespaceOption {
    let linux = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    linux.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

fn uses_node(mode: i32) -> bool {
    mode == NamespaceMode::Node as i32
}

/// Whether a pod has what spares have: namespaces of its own but for users, and a pause that is nobody special. The
/// filter of theirs is the default one, which does for pods that ask for none as well.
fn is_as_spares_are(config: &PodSandboxConfig) -> bool {
    let options = namespaces(config);
    let own = [options.network, options.ipc, options.pid].into_iter().all(|mode| !uses_node(mode));
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    own && matches!(Mapping::of(&options), Ok(None))
        && context.is_none_or(|context| {
            context.run_as_user.is_none()
                && context.run_as_group.is_none()
                && context.supplemental_groups.is_empty()
                && !seccomp::is_of_file(context)
        })
}

/// The config whose pause spares have.
fn config_of_spare() -> PodSandboxConfig {
    let seccomp = SecurityProfile { profile_type: ProfileType::RuntimeDefault.into(), ..SecurityProfile::default() };
    let context = LinuxSandboxSecurityContext { seccomp: Some(seccomp), ..LinuxSandboxSecurityContext::default() };
    let linux = LinuxPodSandboxConfig { security_context: Some(context), ..LinuxPodSandboxConfig::default() };
    PodSandboxConfig { linux: Some(linux), ..PodSandboxConfig::default() }
}

/// The namespaces that a shim makes, and what is in them.
fn draft_namespaces(draft: &mut Draft, own_uts: bool, own_ipc: bool) {
    draft.flag(tag::OWN_IPC, own_ipc);
    draft.flag(tag::OWN_UTS, own_uts);
    if own_ipc {
        draft.bytes(tag::SHM_BYTES, SHM_BYTES.to_string());
    }
}

/// Writes the pod's own files.
fn write_files(body: &SandboxBody, dir: &Path) -> Outcome<()> {
    let config = config(body);
    let written = files::write(dir, config.dns_config.as_ref(), &hostname(config), &body.ip);
    written.map_err(doing("write the pod's files"))
}

fn hostname(config: &PodSandboxConfig) -> String {
    if !config.hostname.is_empty() && !uses_node(namespaces(config).network) {
        return config.hostname.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `name_namespace_uid_attempt`: what a sandbox is called by its client.
fn key(config: &PodSandboxConfig) -> Outcome<String> {
    let Some(it) = config.metadata.as_ref().filter(|it| !it.name.is_empty() && !it.uid.is_empty()) else {
        return Err(Invalid("a sandbox needs metadata with name, namespace and uid".to_owned()).into());
    };
    Ok(format!("{}_{}_{}_{}", it.name, it.namespace, it.uid, it.attempt))
}

fn check(config: &PodSandboxConfig) -> Result<(), Invalid> {
    context::check_sandbox(config)?;
    if config.hostname.len() > 64 {
        return Err(Invalid(format!("the hostname {:?} is longer than the 64 bytes of the kernel", config.hostname)));
    }
    if let Some(dns) = &config.dns_config {
        files::check(dns)?;
    }
    ports::of(config).map(drop)
}

impl Runtime {
    /// Makes a sandbox, or finds the one that an earlier request for the same pod and attempt made.
    pub(crate) async fn run_sandbox(self: &Arc<Self>, config: PodSandboxConfig, handler: &str) -> Outcome<String> {
        let key = key(&config)?;
        check(&config)?;
        let handler_body = self.handlers.find(handler)?.cloned();
        let userns = namespaces(&config).userns_options;
        if handler_body.is_some() && userns.is_some_and(|userns| !uses_node(userns.mode)) {
            return Err(Invalid(format!("a user namespace needs the native runtime handler, not {handler:?}")).into());
        }
        let turn = self.turn(&key);
        let _turn = turn.lock().await;
        let found = self.sandboxes().into_iter().find(|it| super::sandbox::key(it.config()).is_ok_and(|it| it == key));
        if let Some(found) = found {
            let same = found.is_ready() && *found.config() == config;
            let error = || RuntimeError::Exists(format!("the sandbox {key} is there already, as {}", found.body.id));
            return same.then(|| found.body.id.clone()).ok_or_else(error);
        }
        let parent = config.linux.as_ref().map_or("", |linux| &linux.cgroup_parent);
        let spare = if is_as_spares_are(&config) { self.take_spare() } else { None };
        let (identity, start, network) = spare.map_or_else(Start::nothing, Spare::split);
        let Identity { id, cookie, first_container } = identity;
        let cgroup = self.cgroups.of_pod(parent, &id).map_err(Invalid)?;
        let place = match network.and_then(SpareNetwork::keep) {
            Some(attached) => PodNetwork::Ready(attached),
            None => self.place(&id, &config).await?,
        };
        let mut ips = place.ips().into_iter().map(|ip| ip.to_string());
        let body = SandboxBody {
            cookie,
            created_at: now(),
            ip: ips.next().unwrap_or_default(),
            second_ip: ips.next().unwrap_or_default(),
            veth: place.lease().map(|it| it.veth).unwrap_or_default(),
            cgroup,
            runtime_handler: handler.to_owned(),
            handler: handler_body,
            config: Some(config),
            id,
        };
        let dir = self.sandboxes_dir().join(&body.id);
        let made = self.make_sandbox(&body, &dir, start, place).await;
        match made {
            Ok((record, link)) => {
                let life = Life { link: Some(link), is_ready: true, first_container, ..Life::default() };
                let sandbox = self.admit_sandbox(Sandbox::new(body, record, dir, life));
                self.furnish_soon(&sandbox);
                Ok(sandbox.body.id.clone())
            }
            Err(error) => {
                self.undo_sandbox(&body, &dir).await;
                Err(error)
            }
        }
    }

    /// The network of a new pod, as far as it can be there before the pod is.
    async fn place(&self, id: &str, config: &PodSandboxConfig) -> Outcome<PodNetwork> {
        let options = namespaces(config);
        if uses_node(options.network) {
            return Ok(PodNetwork::OfNode);
        }
        if self.cni.is_on() {
            if Mapping::of(&options)?.is_some() {
                let text = "a user namespace of the pod's own is not supported together with CNI plugins";
                return Err(Invalid(text.to_owned()).into());
            }
            return Ok(PodNetwork::Cni(self.cni.attach(id, config, &ports::of(config)?).await?));
        }
        let network = self.network.clone();
        if let Some(mapping) = Mapping::of(&options)? {
            let lease = finished(tokio::task::spawn_blocking(move || network.lease())).await?;
            return Ok(PodNetwork::Promised(mapping, lease));
        }
        let (tell, told) = oneshot::channel();
        let making = tokio::task::spawn_blocking(move || {
            let lease = network.lease()?;
            let _ = tell.send(lease.clone());
            network.attach_leased(&lease)
        });
        match told.await {
            Ok(lease) => Ok(PodNetwork::Coming(lease, making)),
            Err(_) => Ok(PodNetwork::Ready(finished(making).await?)), // without an address: it says why
        }
    }

    /// Makes the network of a pod with a user namespace: its shim makes both namespaces, and lives by now.
    async fn attach(&self, link: &Link, mapping: Mapping, lease: Lease) -> Outcome<Attached> {
        let netns = self.make_user_namespace(link, mapping).await?;
        let network = self.network.clone();
        finished(tokio::task::spawn_blocking(move || network.attach_to(netns, &lease))).await
    }

    /// Record, effects, commit.
    async fn make_sandbox(
        self: &Arc<Self>,
        body: &SandboxBody,
        dir: &Path,
        start: Start,
        network: PodNetwork,
    ) -> Outcome<(Record, Arc<Link>)> {
        let is_coming = matches!(network, PodNetwork::Coming(..));
        let prepared = self.prepare(body, dir, start).await.and_then(|mut prepared| {
            if is_coming {
                prepared.line.spawn(self)?; // it comes to life meanwhile
            }
            Ok(prepared)
        });
        // Before an error is told: what is undone has to be made.
        let network = network.made().await;
        let Prepared { record, door, line } = prepared?;
        let link = self.set_up(body, (&record, &door), line, network?).await?;
        Ok((record, link))
    }

    /// Makes what the shim and the client need of a pod but the network, the record first.
    async fn prepare(self: &Arc<Self>, body: &SandboxBody, dir: &Path, start: Start) -> Outcome<Prepared> {
        let line = start.place(dir).map_err(doing("make the sandbox's directory"))?;
        let record = Record::create(&dir.join("record"), body).map_err(doing("write the sandbox's record"))?;
        let logs = &config(body).log_directory;
        if !logs.is_empty() {
            std::fs::create_dir_all(logs).map_err(doing(format!("make {logs}")))?; // its client may look there at once
        }
        let door = self.cgroups.create_for_pause(&body.cgroup, &body.id)?;
        let line = match line {
            Some(line) => line,
            None => Line::open(self, dir, &body.id, &body.cookie).await?,
        };
        Ok(Prepared { record, door, line })
    }

    /// Makes what only the pod's containers need, unless it is made. A pod is whole without, also for a daemon that finds
    /// one: the start of a container makes what is missing.
    pub(super) fn furnish(&self, sandbox: &Sandbox) -> Outcome<()> {
        let mut is_furnished = lock(&sandbox.is_furnished);
        if *is_furnished {
            return Ok(());
        }
        sandbox.complete_files()?;
        self.cgroups.make(&sandbox.body.cgroup)?;
        *is_furnished = true;
        Ok(())
    }

    /// The same while the answer is on its way. What fails here fails again at a start, which tells why.
    fn furnish_soon(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let (runtime, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = runtime.furnish(&sandbox) {
                tracing::warn!(sandbox = %sandbox.body.id, %error, "cannot make what the containers of a pod need");
            }
        });
    }

    /// Tells the shim what the pod is, and makes it where it is not made yet.
    async fn set_up(
        &self,
        body: &SandboxBody,
        (record, door): (&Record, &Door),
        mut line: Line,
        network: PodNetwork,
    ) -> Outcome<Arc<Link>> {
        let mut of_plugins = None;
        let attached = match network {
            PodNetwork::OfNode => None,
            PodNetwork::Cni(cni::Attached { netns, .. }) => {
                of_plugins = Some(netns);
                None
            }
            PodNetwork::Ready(attached) => Some(attached),
            PodNetwork::Coming(_, making) => Some(finished(making).await?),
            PodNetwork::Promised(mapping, lease) => {
                line.spawn(self)?;
                Some(self.attach(&line.link, mapping, lease).await?)
            }
        };
        let reserved = self.open_ports(config(body), attached.as_ref()).await?;
        let netns = attached.as_ref().map(|attached| &attached.netns).or(of_plugins.as_ref());
        let plan = self.plan(body, record, door, netns, &reserved, line.has_pause)?;
        let set_up = line.link.ask(Message { kind: kind::SETUP, ..Message::default() }, plan.fds()).await;
        line.spawn(self)?; // only now, where it can be: so it finds all that it needs
        line.greeted().await?;
        line.link.answer(set_up).await?;
        Ok(line.keep())
    }

    /// What the shim of a spare is to make, with the spare's network, if it has one.
    pub(super) fn plan_of_spare(&self, network: Option<&Attached>) -> Outcome<Sealed> {
        let mut draft = Draft::default();
        draft_namespaces(&mut draft, true, true);
        if let Some(network) = network {
            draft.fd(tag::FD_NET, network.netns.as_raw_fd());
            if self.makes_pause_ahead {
                sysctl::defaults(sysctl::GROUP_MAX).iter().for_each(|assignment| draft.bytes(tag::SYSCTL, assignment));
                self.draft_pause(&mut draft, &config_of_spare())?;
            }
            // What the first container sees of the kernel.
            draft.flag(tag::POD_SHM, true);
            draft.cgroup_view(&self.cgroups);
        }
        draft.seal().map_err(doing("write the plan"))
    }

    /// What a shim is to make of a pod; `has_pause`: pause lives, with all that pods have in common.
    fn plan(
        &self,
        body: &SandboxBody,
        record: &Record,
        door: &Door,
        netns: Option<&OwnedFd>,
        host_ports: &[OwnedFd],
        has_pause: bool,
    ) -> Outcome<Sealed> {
        let config = config(body);
        let options = namespaces(config);
        let own_net = !uses_node(options.network);
        let mut draft = Draft::default();
        let own_ipc = !uses_node(options.ipc);
        draft_namespaces(&mut draft, own_net, own_ipc);
        draft.fd(tag::FD_RECORD, record.raw());
        draft.door(door);
        if let Some(netns) = netns {
            draft.fd(tag::FD_NET, netns.as_raw_fd());
        }
        for socket in host_ports {
            draft.fd(tag::FD_HOST_PORT, socket.as_raw_fd());
        }
        if own_net {
            draft.bytes(tag::HOSTNAME, hostname(config));
        }
        let requested = config.linux.as_ref().map(|linux| linux.sysctls.clone()).unwrap_or_default();
        if own_net && !has_pause {
            let group_max = Mapping::of(&options)?.map_or(sysctl::GROUP_MAX, |mapping| mapping.groups.count - 1);
            sysctl::defaults(group_max).iter().for_each(|assignment| draft.bytes(tag::SYSCTL, assignment));
        }
        for assignment in sysctl::requested(&requested, own_net, own_ipc)? {
            draft.bytes(tag::SYSCTL, assignment);
        }
        self.draft_pause(&mut draft, config)?;
        draft.seal().map_err(doing("write the plan"))
    }

    /// Who pause is.
    fn draft_pause(&self, draft: &mut Draft, config: &PodSandboxConfig) -> Outcome<()> {
        draft.fd(tag::FD_PAUSE, self.pause.as_raw_fd());
        // Its own also where containers have theirs: a container that asks for the pod's never gets the node's.
        draft.pid_mode(if uses_node(namespaces(config).pid) { PidMode::Node } else { PidMode::Own });
        draft.bytes(tag::OOM_SCORE, self.oom_score(PAUSE_OOM_SCORE).to_string());
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let filter = context.map(|context| self.seccomp.of_pause(context)).transpose()?.unwrap_or_default();
        draft.seccomp(&filter.program, filter.flags);
        if let Some(context) = context {
            for (tag, number) in [(tag::USER, &context.run_as_user), (tag::GROUP, &context.run_as_group)] {
                draft.number(tag, number.as_ref().map_or(Ok(0), |it| user::id(it.value))?.into());
            }
            for group in &context.supplemental_groups {
                draft.number(tag::MORE_GROUP, user::id(*group)?.into());
            }
        }
        Ok(())
    }

    /// Reserves the pod's host ports, and lets them lead to it. The sockets are the shim's to keep.
    async fn open_ports(&self, config: &PodSandboxConfig, attached: Option<&Attached>) -> Outcome<Vec<OwnedFd>> {
        let (ports, Some(attached)) = (ports::of(config)?, attached) else { return Ok(Vec::new()) };
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let reserved = network::reserve(&ports, attached.second_ip.is_some())?;
        let (network, ip) = (self.network.clone(), attached.ip);
        let opened = tokio::task::spawn_blocking(move || network.open_ports(ip, &ports)).await;
        opened.map_err(|error| doing("open the host ports")(io::Error::other(error)))??;
        Ok(reserved)
    }

    fn admit_sandbox(self: &Arc<Self>, sandbox: Arc<Sandbox>) -> Arc<Sandbox> {
        let id = sandbox.body.id.as_str();
        self.table().sandboxes.insert(id.to_owned(), Arc::clone(&sandbox));
        self.tell(&sandbox, id, ContainerEventType::ContainerCreatedEvent);
        self.tell(&sandbox, id, ContainerEventType::ContainerStartedEvent);
        // What was told before anyone knew the sandbox.
        if sandbox.record.slot(Place::Exit).is_some() {
            self.notice(id, Notice::PauseExited);
        }
        if sandbox.link().is_err() {
            self.notice(id, Notice::Gone);
        }
        sandbox
    }

    /// Removes what a failed request, or one that no daemon committed, left behind.
    pub(super) async fn undo_sandbox(&self, body: &SandboxBody, dir: &Path) {
        if let Err(error) = self.cgroups.remove(&pause_cgroup(body)).await {
            tracing::warn!(sandbox = %body.id, %error, "cannot remove the cgroup of a sandbox that was not made");
        }
        self.cgroups.remove_if_empty(&body.cgroup);
        self.release_address(body);
        if let Err(error) = self.cni.detach(&body.id).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(sandbox = %body.id, error, "cannot detach the CNI network of a sandbox that was not made");
        }
        if let Err(error) = remove_dir(dir).await {
            tracing::warn!(sandbox = %body.id, %error, "cannot remove the directory of a sandbox that was not made");
        }
    }

    pub(super) fn release_address(&self, body: &SandboxBody) {
        // Without a veth it is an address that plugins gave.
        if let (Ok(ip), false) = (body.ip.parse(), body.veth.is_empty()) {
            self.network.release(ip, &body.veth);
        }
    }

    /// What to do with what a shim tells. It comes from the connection's task, in order.
    pub(super) fn notices(self: &Arc<Self>, id: &str) -> impl Fn(Notice) + Send + Sync + 'static {
        let (runtime, id) = (Arc::downgrade(self), id.to_owned());
        move |notice| {
            if let Some(runtime) = runtime.upgrade() {
                runtime.notice(&id, notice);
            }
        }
    }

    pub(super) fn notice(self: &Arc<Self>, id: &str, notice: Notice) {
        let Ok(sandbox) = self.sandbox(id) else { return };
        match notice {
            Notice::Exited(container) => {
                if let Ok(container) = self.container(&container) {
                    self.refresh(&container);
                }
            }
            Notice::PauseExited => self.sandbox_died(&sandbox),
            Notice::Gone => {
                let runtime = Arc::clone(self);
                tokio::spawn(async move { runtime.shim_died(&sandbox).await });
            }
        }
    }

    fn sandbox_died(&self, sandbox: &Sandbox) {
        let was_ready = std::mem::take(&mut lock(&sandbox.life).is_ready);
        if was_ready {
            tracing::info!(sandbox = %sandbox.body.id, "pause ended: the sandbox is not ready");
            self.tell(sandbox, &sandbox.body.id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// A dead shim has taken its children along; what escaped dies by its cgroup. Then nothing of the sandbox runs.
    pub(super) async fn shim_died(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        if lock(&sandbox.life).is_stopping {
            return;
        }
        for container in self.containers_of(&sandbox.body.id) {
            // Of one that has just been started, only the shim knew so far.
            self.refresh(&container);
            if container.is_running() {
                self.lose_container(&container).await;
            }
        }
        if let Err(error) = self.cgroups.remove(&sandbox.pause_cgroup()).await {
            tracing::warn!(sandbox = %sandbox.body.id, %error, "cannot end what a dead shim left");
        }
        if sandbox.record.slot(Place::Exit).is_none() {
            let slot = Slot { time: now(), code: 255, flags: FLAG_UNKNOWN, ..Slot::default() };
            if let Err(error) = sandbox.record.commit(Place::Exit, &slot) {
                tracing::warn!(sandbox = %sandbox.body.id, %error, "cannot write the sandbox's record");
            }
        }
        lock(&sandbox.life).link = None;
        self.sandbox_died(sandbox);
    }

    /// Kills all, gives the address back. Again and again is fine.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Outcome<()> {
        let _turn = sandbox.ending.lock().await;
        let link = {
            let mut life = lock(&sandbox.life);
            life.is_stopping = true;
            life.link.take()
        };
        let containers = self.containers_of(&sandbox.body.id);
        if let Some(link) = link.filter(|link| !link.is_gone()) {
            let request = link.request(Message { kind: kind::SHUTDOWN, ..Message::default() }, &[]);
            match tokio::time::timeout(SHUTDOWN, request).await {
                Ok(Ok(_)) => {}
                _ => tracing::warn!(sandbox = %sandbox.body.id, "the shim did not shut down, its cgroups are killed"),
            }
        }
        for container in &containers {
            self.refresh(container);
            if container.is_running() {
                self.lose_container(container).await;
            }
            container.forget_prepared();
            self.cgroups.remove(&container.cgroup(sandbox)).await?;
        }
        self.cgroups.remove(&sandbox.pause_cgroup()).await?;
        // Before it counts as stopped: what a plugin refuses now is asked for again.
        self.cni.detach(&sandbox.body.id).await?;
        if sandbox.record.slot(Place::Daemon).is_none() {
            let slot = Slot { time: now(), ..Slot::default() };
            sandbox.record.commit(Place::Daemon, &slot).map_err(doing("write the sandbox's record"))?;
        }
        let must_release = {
            let mut life = lock(&sandbox.life);
            !std::mem::replace(&mut life.is_released, true)
        };
        if must_release {
            self.release_address(&sandbox.body);
        }
        self.sandbox_died(sandbox);
        Ok(())
    }

    /// Stops it, and forgets it with its containers.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Outcome<()> {
        self.stop_sandbox(sandbox).await?;
        let _turn = sandbox.ending.lock().await;
        for container in self.containers_of(&sandbox.body.id) {
            self.remove_container(&container).await?;
        }
        *lock(&sandbox.is_furnished) = true; // from here on nothing more is made
        self.cgroups.remove_if_empty(&sandbox.body.cgroup);
        if sandbox.body.handler.is_some() {
            self.cgroups.remove_of_others(&sandbox.body.cgroup);
        }
        remove_dir(&sandbox.dir).await.map_err(doing("remove the sandbox's directory"))?;
        if self.sandbox(&sandbox.body.id).is_ok() {
            self.tell(sandbox, &sandbox.body.id, ContainerEventType::ContainerDeletedEvent);
            self.table().sandboxes.remove(&sandbox.body.id);
        }
        Ok(())
    }

    /// What the node can set: without CAP_SYS_RESOURCE the daemon's own score is the least.
    pub(super) fn oom_score(&self, wanted: i32) -> i32 {
        if self.can_lower_oom_score { wanted } else { wanted.max(0) }
    }
}

/// Removes a directory and all in it, off the async workers. One that is gone is fine.
pub(super) async fn remove_dir(dir: &Path) -> io::Result<()> {
    let dir = dir.to_owned();
    let removed = tokio::task::spawn_blocking(move || podbus_common_tree::remove(&dir));
    removed.await.map_err(io::Error::other)?
}
