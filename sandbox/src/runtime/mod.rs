//! The runtime: sandboxes and containers, and how each comes to be and ends.
//!
//! ```text
//!   <state>/sandboxes/<id>/record              what it is, its slots
//!                          s                   the socket of its shim
//!                          hosts, hostname, resolv.conf
//!                          c/<id>/record       a container: what it is, its slots
//!                                 upper, work  its writable layer
//!          spare/<id>/                        a directory for a pod that nobody has asked for yet
//! ```
//!
//! The order of each change: record, effects, the shim's commit into the slot, the answer. What has no committed slot
//! when a daemon starts never was.

mod adopt;
mod container;
mod context;
mod device;
mod event;
pub(crate) mod exec;
mod handler;
mod image_volume;
mod info;
mod line;
mod ports;
mod sandbox;
mod start;
mod status;
mod streams;
mod userns;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use podbus_sandbox_linux::time;
use tonic::Status;

pub(crate) use self::adopt::leased;
pub(crate) use self::container::Container;
pub(crate) use self::device::Device;
pub(crate) use self::event::Events;
use self::line::Spare;
pub(crate) use self::sandbox::Sandbox;
use crate::cgroup::{CgroupError, Cgroups};
use crate::cni::{Cni, CniError};
use crate::handler::Handlers;
use crate::handler::command::CommandError;
use crate::image::Store;
use crate::link::LinkError;
use crate::network::{Network, NetworkError};
use crate::pool::Pool;
use crate::process::Invalid;
use crate::seccomp::Filters;
use crate::spawner::Spawner;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    #[error("no {kind} {id}")]
    NotFound { kind: &'static str, id: String },
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("{0}")]
    WrongState(String),
    #[error("{0}")]
    Exists(String),
    #[error("{0}")]
    Deadline(String),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Cni(CniError),
    #[error(transparent)]
    Handler(#[from] CommandError),
    /// The kubelet looks for the first word.
    #[error("ImageVolumeMountFailed: cannot mount {volume}: {source}")]
    ImageVolume { volume: String, source: io::Error },
    #[error("cannot {action}: {source}")]
    Io { action: String, source: io::Error },
}

impl From<CniError> for RuntimeError {
    fn from(error: CniError) -> Self {
        match error {
            CniError::Invalid(invalid) => Self::Invalid(invalid),
            other => Self::Cni(other),
        }
    }
}

impl From<RuntimeError> for Status {
    fn from(error: RuntimeError) -> Self {
        let text = chain(&error);
        match error {
            RuntimeError::NotFound { .. } => Status::not_found(text),
            RuntimeError::Invalid(_) => Status::invalid_argument(text),
            RuntimeError::WrongState(_) => Status::failed_precondition(text),
            RuntimeError::Exists(_) => Status::already_exists(text),
            RuntimeError::Deadline(_) => Status::deadline_exceeded(text),
            _ => Status::unknown(text),
        }
    }
}

impl RuntimeError {
    /// What a shell would exit with, where it is a program that could not be run: 127 if it is not there, else 126.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Link(LinkError::Refused { exit_code, .. }) => *exit_code,
            _ => None,
        }
    }
}

/// The error with its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Names the action of a system call.
pub(crate) fn doing(action: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let action = action.into();
    move |source| RuntimeError::Io { action, source }
}

pub(crate) type Outcome<T> = Result<T, RuntimeError>;

/// All sandboxes and containers of a node, and what they are made with.
pub(crate) struct Runtime {
    state_dir: PathBuf,
    pub(crate) store: Store,
    pub(crate) cgroups: Cgroups,
    network: Network,
    spares: Arc<Pool<Spare>>,
    cni: Cni,
    spawner: Spawner,
    pause: OwnedFd,
    /// Whether pause is made in advance: where a process that lives changes its cgroup without a wait.
    makes_pause_ahead: bool,
    pub(crate) events: Events,
    table: Mutex<Table>,
    /// One request at a time for each name: a repeated one gets what the first made.
    names: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    execs: AtomicU64,
    can_lower_oom_score: bool,
    can_make_user_namespaces: bool,
    seccomp: Filters,
    pub(crate) handlers: Handlers,
    /// Where handlers keep what does not outlive a reboot.
    run_dir: PathBuf,
}

#[derive(Default)]
struct Table {
    sandboxes: HashMap<String, Arc<Sandbox>>,
    containers: HashMap<String, Arc<Container>>,
}

/// What a runtime is made with.
pub(crate) struct Parts {
    pub(crate) state_dir: PathBuf,
    pub(crate) store: Store,
    pub(crate) cgroups: Cgroups,
    pub(crate) network: Network,
    pub(crate) cni: Cni,
    /// How many networks and shims are kept ready for pods.
    pub(crate) spares: usize,
    pub(crate) makes_pause_ahead: bool,
    pub(crate) spawner: Spawner,
    pub(crate) handlers: Handlers,
    pub(crate) run_dir: PathBuf,
}

impl Runtime {
    pub(crate) fn new(parts: Parts) -> io::Result<Arc<Self>> {
        let Parts { state_dir, store, cgroups, network, cni, spares, makes_pause_ahead, spawner, handlers, run_dir } =
            parts;
        let pause = crate::program::sealed("pause", crate::program::PAUSE)?;
        let can_lower_oom_score = can_lower_oom_score();
        if !can_lower_oom_score {
            tracing::warn!(
                "no CAP_SYS_RESOURCE: oom_score_adj is never lowered, so that pause may be killed first when memory runs out"
            );
        }
        Ok(Arc::new(Self {
            state_dir,
            store,
            cgroups,
            spares: Arc::new(Pool::new(spares)),
            cni,
            network,
            spawner,
            pause,
            makes_pause_ahead,
            events: Events::new(),
            table: Mutex::default(),
            names: Mutex::default(),
            execs: AtomicU64::new(1),
            can_lower_oom_score,
            can_make_user_namespaces: userns::are_possible(),
            seccomp: Filters::default(),
            handlers,
            run_dir,
        }))
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        let mut list: Vec<_> = self.table().sandboxes.values().cloned().collect();
        list.sort_by_key(|it| std::cmp::Reverse(it.body.created_at));
        list
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        let mut list: Vec<_> = self.table().containers.values().cloned().collect();
        list.sort_by_key(|it| std::cmp::Reverse(it.body.created_at));
        list
    }

    /// By id, or the beginning of one that is nobody else's.
    pub(crate) fn sandbox(&self, id: &str) -> Outcome<Arc<Sandbox>> {
        by_prefix(&self.table().sandboxes, id).ok_or_else(|| not_found("sandbox", id))
    }

    /// As [`Runtime::sandbox`].
    pub(crate) fn container(&self, id: &str) -> Outcome<Arc<Container>> {
        by_prefix(&self.table().containers, id).ok_or_else(|| not_found("container", id))
    }

    pub(crate) fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        let mut list = self.containers();
        list.retain(|container| container.body.sandbox_id == sandbox_id);
        list
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Why pods get no network; `None` if they do.
    pub(crate) fn network_problem(&self) -> Option<String> {
        if self.cni.is_on() { self.cni.problem() } else { self.network.problem() }
    }

    /// Networks that wait for a pod.
    pub(crate) fn warm_networks(&self) -> usize {
        if self.cni.is_on() { 0 } else { self.spares.len() }
    }

    /// Where images are kept: the name of the file system that holds them and all writable layers.
    pub(crate) fn image_dir(&self) -> PathBuf {
        self.state_dir.join("images")
    }

    /// Bytes and inodes of all writable layers, as far as they are known. May walk them.
    pub(crate) fn writable_layers(&self) -> (u64, u64) {
        let all = self.containers().into_iter().filter_map(|container| container.writable_layer());
        all.fold((0, 0), |(bytes, inodes), it| (bytes + it.bytes, inodes + it.inodes))
    }

    fn sandboxes_dir(&self) -> PathBuf {
        sandboxes_dir(&self.state_dir)
    }

    /// The turn of requests for one name.
    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut names = lock(&self.names);
        names.retain(|_, turn| Arc::strong_count(turn) > 1); // those that nobody waits for
        Arc::clone(names.entry(name.to_owned()).or_default())
    }
}

/// Where sandboxes are kept.
pub(crate) fn sandboxes_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("sandboxes")
}

fn not_found(kind: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { kind, id: id.to_owned() }
}

fn by_prefix<T>(map: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Some(Arc::clone(found));
    }
    let mut matching = map.iter().filter(|(known, _)| !id.is_empty() && known.starts_with(id));
    let (_, first) = matching.next()?;
    matching.next().is_none().then(|| Arc::clone(first))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // each change is complete by itself
}

/// 64 hexadecimal digits that nobody can guess.
fn new_id() -> String {
    hex(&rand::random::<[u8; 32]>())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

fn now() -> i64 {
    time::unix_nanos()
}

fn can_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> CAP_SYS_RESOURCE & 1 == 1)
}
