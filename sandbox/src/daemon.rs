//! The daemon: flags, start, end.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use podbus_common_cri::MESSAGE_BYTES_MAX;
use podbus_common_cri::runtime::image_service_server::ImageServiceServer;
use podbus_common_cri::runtime::runtime_service_server::RuntimeServiceServer;
use podbus_common_cri::sandbox::image_archive_server::ImageArchiveServer;
use podbus_common_telemetry::Address;
use podbus_sandbox_linux::{Errno, memory, mount};
use rustix::fs::FlockOperation;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;

use crate::cgroup::Cgroups;
use crate::cni::Cni;
use crate::cri::{CallLayer, Cri};
use crate::handler::Handlers;
use crate::image::service::{ImageArchive, ImageService};
use crate::image::{self, Store};
use crate::network::{Network, Ranges};
use crate::runtime::{Parts, Runtime, leased};
use crate::spawner::Spawner;
use crate::streaming::Streaming;
use crate::telemetry::{self, Calls};

/// How long pods may be without a way out after a reload of another firewall.
const RULES_CHECK_PERIOD: std::time::Duration = std::time::Duration::from_secs(10);
/// How often, and how long after each other, the start tries to mount what another daemon has just left.
const DYNMODS_ATTEMPTS: usize = 50;
const DYNMODS_RETRY: std::time::Duration = std::time::Duration::from_millis(10);

/// What a node of some hundred pods needs to start a few at a time.
pub const WARM_NETWORKS: usize = 8;

/// Flags of `podbus sandbox`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where images and sandboxes are kept
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// The unix socket to serve CRI on
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// The addresses of this node's pods: an IPv4 range, or one and an IPv6 range: 10.85.1.0/24,fd00:85::/64
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub pod_cidr: Ranges,
    /// Part of the name of every bridge, table and cgroup; at most 8 of a-z and 0-9
    #[arg(long, value_name = "NAME")]
    pub instance: String,
    /// Pod networks and shims made in advance, while the node is idle; each network takes one address
    #[arg(long, value_name = "N", default_value_t = WARM_NETWORKS)]
    pub warm_networks: usize,
    /// Let CNI plugins make the networks of pods, by the first configuration in this directory (docs/NETWORK.md)
    // The variables reach the nodes of `podbus up`.
    #[arg(long, value_name = "DIR", env = "PODBUS_CNI_CONF_DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where CNI plugins are
    #[arg(
        long,
        value_name = "DIR[,DIR]",
        env = "PODBUS_CNI_BIN_DIR",
        value_delimiter = ',',
        default_value = "/opt/cni/bin,/usr/lib/cni"
    )]
    pub cni_bin_dir: Vec<PathBuf>,
    /// What concerns images
    #[command(flatten)]
    pub images: image::Args,
    /// Runtime handlers beside the built-in one (docs/HANDLERS.md)
    // The variable reaches the nodes of `podbus up`.
    #[arg(long, value_name = "FILE", env = "PODBUS_HANDLERS")]
    pub handlers: Option<PathBuf>,
    /// Serve /metrics, /livez and /readyz here: 127.0.0.1:9402 or unix:/path (docs/OBSERVABILITY.md); by default nowhere
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<Address>,
}

/// Serves until SIGTERM or SIGINT. Pods run on.
pub fn main(args: Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "podbus sandbox has to run as root: it makes namespaces and mounts"
    );
    // Nothing that this process was started with reaches a handler, a plugin or a pod.
    podbus_sandbox_linux::file::cloexec_from(3)
        .map_err(std::io::Error::from)
        .context("cannot keep descriptors from children")?;
    std::fs::create_dir_all(&args.state_dir).with_context(|| format!("cannot make {}", args.state_dir.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let stop = stopped()?;
    // The shims' root is this directory: all paths in it have to be the real ones.
    let state_dir = std::fs::canonicalize(&args.state_dir).context("cannot resolve the state directory")?;
    let _lock = lock(&state_dir)?;
    let dynmods = favor_dynmods().await;
    let store = Store::open_with(&state_dir.join("images"), args.images.settings()?)?;
    let runtime = start_runtime(&args, &state_dir, store.clone(), dynmods.is_some()).await?;
    let sweeping = store.clone();
    tokio::task::spawn_blocking(move || sweeping.sweep()).await?.context("cannot sweep the image store")?;
    tokio::spawn(image::collect::keep(store.clone()));
    let streaming = Streaming::start(Arc::clone(&runtime)).await.context("cannot open the port for streams")?;
    let calls = Calls::default();
    if let Some(address) = &args.metrics {
        telemetry::serve(address, Arc::clone(&runtime), &calls).await?;
    }
    let listener = listen(&args.socket)?;
    forget_code();
    tracing::info!(socket = %args.socket.display(), podCIDR = %args.pod_cidr, instance = args.instance, "serving CRI");

    let users = Arc::clone(&runtime);
    let cri = RuntimeServiceServer::new(Cri::new(runtime, streaming, describe(&args, &state_dir).to_string()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let images =
        ImageServiceServer::new(ImageService::new(store.clone()).with_writable_layers(move || users.writable_layers()));
    let archive = ImageArchiveServer::new(ImageArchive::new(store)).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder()
        .layer(CallLayer(calls))
        .add_service(cri)
        .add_service(images)
        .add_service(archive)
        .serve_with_incoming(UnixListenerStream::new(listener));
    // Streams of events never end by themselves: requests in flight are cut off, what they began goes on or is undone
    // at the next start.
    tokio::select! {
        served = server => served.context("cannot serve CRI")?,
        () = stop => tracing::info!("stopping; pods run on"),
    }
    let _ = std::fs::remove_file(&args.socket);
    Ok(())
}

/// Gives back the memory of code that was needed once: by the start, or to get an image. What goes on needs little of it.
pub(crate) fn forget_code() {
    if let Err(error) = memory::forget_code() {
        tracing::debug!(%error, "code that nobody needs any more stays in memory");
    }
}

/// Ends at SIGTERM or SIGINT, from now on.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Opens all that pods are made of, and takes over those that run.
async fn start_runtime(
    args: &Args,
    state_dir: &Path,
    store: Store,
    makes_pause_ahead: bool,
) -> anyhow::Result<Arc<Runtime>> {
    std::fs::create_dir_all(crate::runtime::sandboxes_dir(state_dir))?;
    let handlers = args.handlers.as_deref().map_or_else(|| Ok(Handlers::default()), Handlers::read)?;
    let cgroups = Cgroups::open(&args.instance).context("cannot use cgroups")?;
    let run_dir = run_dir(&args.instance);
    let cni = Cni {
        conf_dir: args.cni_conf_dir.clone(),
        bin_dirs: args.cni_bin_dir.clone(),
        cache_dir: state_dir.join("cni"),
        netns_dir: netns_dir(&run_dir),
    };
    // With plugins too: pods that an earlier daemon made may have it.
    let network =
        Network::open(&args.instance, args.pod_cidr, &leased(state_dir)).context("cannot make the pod network")?;
    let spawner = start_spawner(state_dir, &cgroups)?;
    tokio::spawn(keep_rules(network.clone()));
    let parts = Parts {
        state_dir: state_dir.to_owned(),
        store,
        cgroups,
        network,
        spares: args.warm_networks,
        makes_pause_ahead,
        cni,
        spawner,
        handlers,
        run_dir,
    };
    let runtime = Runtime::new(parts).context("cannot prepare pause")?;
    runtime.adopt().await;
    runtime.prepare_ahead().await.context("cannot empty the directory of spares")?;
    Ok(runtime)
}

/// What a verbose Status shows. The conformance suite looks for `stateDir`, to try id-mapped mounts beside it.
fn describe(args: &Args, state_dir: &Path) -> serde_json::Value {
    serde_json::json!({
        "stateDir": state_dir,
        "socket": args.socket,
        "podCIDR": args.pod_cidr.to_string(),
        "instance": args.instance,
        "registries": args.images.registries,
        "cniConfDir": args.cni_conf_dir,
        "warmNetworks": args.warm_networks,
    })
}

/// Puts the firewall's rules back when something else flushed them. Ends with the runtime.
async fn keep_rules(network: Network) {
    let mut tick = tokio::time::interval(RULES_CHECK_PERIOD);
    loop {
        tick.tick().await;
        let network = network.clone();
        match tokio::task::spawn_blocking(move || network.repair()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::warn!("another firewall had removed the rules of the pod network; they are back"),
            Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "cannot check the rules"),
            Err(_) => return, // the runtime is ending
        }
    }
}

/// One daemon for a state directory.
fn lock(state_dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = state_dir.join("sandbox.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another podbus sandbox uses {}", state_dir.display()))?;
    Ok(file)
}

/// Keeps a hierarchy of our own mounted with `favordynmods`: without, the first process that joins a v1 cgroup after
/// an idle moment waits 6 to 13 ms for RCU. The option of one hierarchy counts for all.
async fn favor_dynmods() -> Option<podbus_sandbox_linux::Fd> {
    let options = [(c"none", c""), (c"name", c"podbus"), (c"favordynmods", c"")];
    let mut mounted = mount::new(c"cgroup", &options, 0);
    // Who had it mounted alone has just ended, and the kernel is not done with that: a mount is then to be restarted
    // (cgroup1_get_tree), which one that is made in steps (fsconfig) cannot be.
    for _ in 1..DYNMODS_ATTEMPTS {
        if !matches!(mounted, Err(Errno::BUSY)) {
            break;
        }
        tokio::time::sleep(DYNMODS_RETRY).await;
        mounted = mount::new(c"cgroup", &options, 0);
    }
    match mounted {
        Ok(mounted) => {
            tracing::info!(
                "favordynmods is on: processes join cgroups faster, and forks on this node are slightly slower"
            );
            Some(mounted)
        }
        Err(errno) => {
            let error = std::io::Error::from(errno);
            tracing::info!(%error, "no favordynmods: on cgroup v1 a start after an idle moment takes some 10 ms longer");
            None
        }
    }
}

/// Starts the spawner in a cgroup of its own: what ends the daemon's does not end the pods.
fn start_spawner(state_dir: &Path, cgroups: &Cgroups) -> anyhow::Result<Spawner> {
    let cgroups = cgroups.clone();
    let started = move |pid| {
        let shims = cgroups.own("shims");
        let made = cgroups.create(&shims, &crate::cgroup::Limits::default());
        if let Err(error) = made.and_then(|_| cgroups.join(&shims, pid)) {
            tracing::warn!(%error, "shims are accounted to the cgroup of the daemon, and may be killed with it");
        }
    };
    Spawner::start(state_dir, started).context("cannot start the spawner")
}

/// Takes over the path of a socket that nobody serves any more: the lock says so.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// What is gone after a reboot, as the processes are that it is about.
fn run_dir(instance: &str) -> PathBuf {
    PathBuf::from(format!("/run/podbus-{instance}"))
}

/// Where network namespaces are mounted for CNI plugins.
fn netns_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("netns")
}

/// Ends all that an instance left on this node when no daemon of it runs any more: processes, cgroups, bridge, rules.
/// Its state directory is the caller's to remove.
pub fn destroy(instance: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cgroups = Cgroups::open(instance).context("cannot use cgroups")?;
    runtime.block_on(cgroups.destroy())?;
    crate::network::destroy(instance)?;
    let run_dir = run_dir(instance);
    crate::cni::unmount_all(&netns_dir(&run_dir)).context("cannot unmount network namespaces")?;
    match std::fs::remove_dir_all(run_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        <Args as clap::Args>::augment_args(clap::Command::new("sandbox")).debug_assert();
    }
}
