//! `podbus up` itself: starts the parts in order, tells how they do, takes orders, and ends them.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::time::Duration;

use fs_err as fs;
use podbus_common_bus::{Bus, BusOptions, ConnectError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep};

use super::control::{self, Order, Reply, Request};
use super::layout::Layout;
use super::nats::{self, Config, Server, Version};
use super::pods::Fate;
use super::process::Supervised;
use super::silence::{Remedy, Silence};
use super::start::{Common, Share, memory_total_kib};
use super::state::{self, Settings};
use super::status::{Phase, Status};
use super::supervisor::{Node, Supervisor, does_not_start};
use super::watcher::{self, View};
use super::{Args, STATE_DIR, cidr, host, own_program, progress, second, stale};
use crate::bus::{from_error, split_token};
use crate::cluster::ClusterFile;
use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;

const NODES_DEFAULT: u16 = 3;
/// How long the bus may take until it answers.
const BUS_START_MAX: Duration = Duration::from_secs(30);
/// How long all parts may take until they are Ready.
const START_MAX: Duration = Duration::from_secs(120);
/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the cluster until it is told to end.
pub(super) async fn run(args: &Args, layout: &Layout, server: Option<Server>, terminal: &Terminal) -> Outcome {
    state::create(layout)?;
    let _lock = loop {
        match state::lock(layout)? {
            Some(lock) => break lock,
            None if second::show_running(layout, terminal).await? => return Ok(()),
            None => {}
        }
    };
    let mut interrupts = Interrupts::new()?;
    stale::end(stale::find(&layout.state_dir)).await;
    make_run_dir(layout)?;
    let result = match Cluster::start(args, layout, server).await {
        Ok(mut cluster) => cluster.run(args, &mut interrupts, terminal).await,
        Err(failure) => Err(failure),
    };
    forget(layout);
    result
}

/// Makes the directory of sockets.
pub(crate) fn make_run_dir(layout: &Layout) -> std::io::Result<()> {
    fs::create_dir_all(crate::cluster::RUN_DIR)?;
    match std::fs::DirBuilder::new().mode(0o700).create(layout.run_dir()) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Removes what says that the cluster runs.
pub(crate) fn forget(layout: &Layout) {
    // What is not there any more is fine, and what cannot be removed is overwritten by the next start.
    let _ = fs::remove_file(layout.cluster_file());
    let _ = fs::remove_dir_all(layout.run_dir());
}

struct Cluster {
    supervisor: Supervisor,
    bus: Bus,
    status: watch::Sender<Status>,
    view: watch::Receiver<View>,
    orders: mpsc::Receiver<Order>,
    silence: Silence,
}

impl Cluster {
    /// Starts all parts; none of them need be Ready yet but the bus.
    async fn start(args: &Args, layout: &Layout, server: Option<Server>) -> Outcome<Self> {
        let turn = host::lock().await?;
        let settings = settle(args, layout, server.is_some())?;
        let mut common = Common { podbus: own_program(), layout: layout.clone(), url: String::new(), token_file: None };
        let sandboxes: Vec<_> =
            numbered(&settings).map(|(n, cidr)| Supervised::new(common.sandbox(&layout.node(n), cidr))).collect();
        sandboxes.iter().for_each(Supervised::start);

        let address = match &server {
            Some(_) => {
                (format!("nats://127.0.0.1:{}", settings.port.unwrap_or_default()), Some(state::ensure_token(layout)?))
            }
            None => external(args, layout)?,
        };
        (common.url, common.token_file) = (address.0.clone(), address.1.as_ref().map(|_| layout.file("token")));
        let (process, bus) = match &server {
            Some(server) => {
                let (process, bus) = start_bus(args, &common, server, &settings, &address).await?;
                (Some(process), bus)
            }
            None => (None, connect(&address).await.map_err(bus_failure)?),
        };
        let notes = check_bus(&bus, settings.port, server.is_some())?;
        write_cluster_file(layout, &address)?;
        drop::<File>(turn);

        let toleration = &args.not_ready_toleration;
        let schedulers = (1..=settings.schedulers).map(|n| Supervised::new(common.scheduler(n, toleration)));
        let schedulers: Vec<_> = schedulers.inspect(Supervised::start).collect();
        let share = share(args, settings.nodes);
        let nodes = numbered(&settings).zip(sandboxes).map(|((number, cidr), sandbox)| {
            let layout = layout.node(number);
            let agent = Supervised::new(common.agent(&layout, cidr, &share));
            agent.start();
            Node { layout, sandbox, agent }
        });
        let supervisor = Supervisor {
            bus: process,
            bus_detail: bus_detail(&bus, &common.url),
            bus_trouble: None,
            schedulers,
            nodes: nodes.collect(),
        };
        Self::watched(supervisor, bus, layout, common.url, notes)
    }

    fn watched(supervisor: Supervisor, bus: Bus, layout: &Layout, url: String, notes: Vec<String>) -> Outcome<Self> {
        let (view_tx, view) = watch::channel(View { connected: true, ..View::default() });
        let expected = supervisor.nodes.len();
        tokio::spawn(watcher::watch_cluster(bus.clone(), expected, view_tx));
        let status = watch::Sender::new(Status {
            name: layout.name.clone(),
            state_dir: layout.state_dir.clone(),
            url,
            pid: std::process::id(),
            phase: Phase::Starting,
            parts: supervisor.parts(&view.borrow()),
            notes,
        });
        let orders = control::listen(&layout.control_socket(), status.subscribe())?;
        Ok(Self { supervisor, bus, status, view, orders, silence: Silence::default() })
    }

    async fn run(&mut self, args: &Args, interrupts: &mut Interrupts, terminal: &Terminal) -> Outcome {
        let mut shown = tokio::spawn(progress::show(self.status.subscribe(), *terminal));
        let fate = match self.until_ready(interrupts).await {
            Ok(fate) => fate,
            Err(failure) => {
                // Pods of an earlier run are not to suffer from what hinders this one.
                self.supervisor.end_processes().await;
                return Err(failure);
            }
        };
        if fate.is_none() {
            // It ends by itself, now that all is Ready; an error would be its panic.
            let _ = (&mut shown).await;
            for note in &self.status.borrow().notes {
                terminal.note(&format!("note: {note}"));
            }
            if !args.background {
                terminal.line(&farewell(&self.status.borrow(), true))?;
            }
            shown = tokio::spawn(progress::follow(self.status.subscribe(), *terminal));
        }
        let fate = match fate {
            Some(fate) => fate,
            None => self.until_told(interrupts).await,
        };
        shown.abort();
        self.end(fate, interrupts, terminal).await
    }

    /// Until all is Ready, or somebody ends it before.
    async fn until_ready(&mut self, interrupts: &mut Interrupts) -> Outcome<Option<Fate>> {
        let deadline = Instant::now() + START_MAX;
        loop {
            if let Some(fate) = self.step(interrupts).await {
                return Ok(Some(fate));
            }
            if self.status.borrow().is_ready() {
                self.status.send_modify(|status| status.phase = Phase::Running);
                return Ok(None);
            }
            if let Some(failure) = self.supervisor.hopeless() {
                return Err(failure);
            }
            if Instant::now() > deadline {
                return Err(self.late());
            }
        }
    }

    async fn until_told(&mut self, interrupts: &mut Interrupts) -> Fate {
        loop {
            if let Some(fate) = self.step(interrupts).await {
                return fate;
            }
        }
    }

    /// Waits for something to happen and takes note of it. `Some`: the cluster is to end.
    async fn step(&mut self, interrupts: &mut Interrupts) -> Option<Fate> {
        let mut look = interval(LOOK);
        look.tick().await;
        let mut fate = None;
        tokio::select! {
            _ = look.tick() => {}
            // An error means that the watcher is gone; the last view stays.
            Ok(()) = self.view.changed() => {}
            Some((request, reply)) = self.orders.recv() => {
                let answer = self.obey(request, &mut fate).await;
                // Whoever asked may have gone; it is done all the same.
                let _ = reply.send(answer);
            }
            () = interrupts.next() => return Some(Fate::Stop),
        }
        let view = self.view.borrow_and_update().clone();
        self.mend_bus(&view).await;
        let parts = self.supervisor.parts(&view);
        self.status.send_if_modified(|status| {
            let changed = status.parts != parts;
            status.parts = parts;
            changed
        });
        fate
    }

    /// Starts a bus anew that takes no writes, when its disk has room for them.
    async fn mend_bus(&mut self, view: &View) {
        let Some(bus) = &self.supervisor.bus else { return };
        let scheduler_runs = self.supervisor.schedulers.iter().any(|it| it.life().pid.is_some());
        let excused = !view.connected || !scheduler_runs;
        let state_dir = self.status.borrow().state_dir.clone();
        // What cannot be looked at is not called full.
        let free_mib = || state::free_mib(&state_dir).unwrap_or(u64::MAX);
        match self.silence.note(view.scheduler, excused, Instant::now(), free_mib) {
            Remedy::Wait if view.scheduler => self.supervisor.bus_trouble = None,
            Remedy::Wait => {}
            Remedy::MakeRoom(left) => {
                let trouble = format!("takes no writes: {} has {left} MiB left, make room", state_dir.display());
                self.supervisor.bus_trouble = Some(trouble);
            }
            Remedy::Restart => {
                self.supervisor.bus_trouble = Some("took no writes: started anew".to_owned());
                bus.kill().await;
                bus.start();
            }
        }
    }

    async fn obey(&self, request: Request, end: &mut Option<Fate>) -> Reply {
        let done = match request {
            // The socket answers it.
            Request::Watch => Ok(()),
            Request::Stop { pods } => {
                *end = Some(pods);
                Ok(())
            }
            Request::NodeStop { node, kill } => self.supervisor.stop_node(&node, kill).await,
            Request::NodeStart { node } => self.supervisor.start_node(&node),
        };
        match done {
            Ok(()) => Reply::Done,
            Err(failure) => Reply::Refused(failure.text().trim_end().trim_start_matches("error: ").to_owned()),
        }
    }

    async fn end(&mut self, fate: Fate, interrupts: &mut Interrupts, terminal: &Terminal) -> Outcome {
        self.status.send_modify(|status| status.phase = Phase::Stopping);
        if fate != Fate::Keep {
            terminal.note("stopping the pods; once more Ctrl-C leaves them running");
        }
        let ended = tokio::select! {
            ended = self.supervisor.end(fate, Some(&self.bus)) => Some(ended),
            () = interrupts.next() => None,
        };
        match ended {
            Some(ended) => {
                terminal.note("stopped; the state is kept");
                ended
            }
            None => {
                self.supervisor.end_processes().await;
                terminal.note("stopped; pods that had not stopped run on, the next `podbus up` takes them over");
                Ok(())
            }
        }
    }

    fn late(&self) -> Failure {
        let status = self.status.borrow();
        let failure = Failure::local(format!("the cluster is not Ready after {} s", START_MAX.as_secs()));
        let failure = status.parts.iter().map(progress::plain).fold(failure, Failure::because);
        failure.hint(format!("the logs are below {}; `podbus doctor` checks the host", status.state_dir.display()))
    }
}

/// What is settled at the first start and kept: the number of nodes, the pods' range, the port.
fn settle(args: &Args, layout: &Layout, own_bus: bool) -> Outcome<Settings> {
    let before = state::read_settings(layout)?;
    let nodes = args.nodes.or(before.as_ref().map(|settings| settings.nodes)).unwrap_or(NODES_DEFAULT);
    let pod_cidr = host::choose_cidr(layout, before.as_ref())?;
    let port = match own_bus {
        true => Some(nats::choose_port(before.as_ref().and_then(|settings| settings.port))?),
        false => None,
    };
    let schedulers = args.schedulers.or(before.as_ref().map(|settings| settings.schedulers)).unwrap_or(1);
    let settings = Settings { nodes, schedulers, pod_cidr, port };
    state::write_settings(layout, &settings)?;
    Ok(settings)
}

fn numbered(settings: &Settings) -> impl Iterator<Item = (u16, ipnet::Ipv4Net)> + use<> {
    let cidr = settings.pod_cidr;
    (1..=settings.nodes).filter_map(move |number| Some((number, cidr::of_node(cidr, number)?)))
}

fn share(args: &Args, nodes: u16) -> Share {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = memory_total_kib(&fs::read_to_string("/proc/meminfo").unwrap_or_default()).unwrap_or_default();
    let share = Share::of_machine(cpus, memory, nodes);
    Share { cpu: args.cpu.clone().unwrap_or(share.cpu), memory: args.memory.clone().unwrap_or(share.memory) }
}

/// URL and token of a bus that is not ours; the token goes into a file for the services.
fn external(args: &Args, layout: &Layout) -> Outcome<(String, Option<String>)> {
    let address = split_token(args.nats.as_deref().unwrap_or_default());
    if let Some(token) = &address.token {
        state::write_secret(&layout.file("token"), format!("{token}\n").as_bytes())?;
    }
    Ok((address.url, address.token))
}

/// Refuses a bus that cannot be reached or cannot carry a cluster, before anything is made.
pub(super) async fn check_external(url: &str) -> Outcome {
    let address = split_token(url);
    let bus = connect(&(address.url, address.token)).await.map_err(bus_failure)?;
    check_bus(&bus, None, false).map(drop)
}

/// Starts nats-server and waits until it answers.
async fn start_bus(
    args: &Args,
    common: &Common,
    server: &Server,
    settings: &Settings,
    address: &(String, Option<String>),
) -> Outcome<(Supervised, Bus)> {
    let layout = &common.layout;
    let dir = layout.file("nats");
    fs::create_dir_all(&dir)?;
    let text = nats::config(&Config {
        name: &layout.name,
        port: settings.port.unwrap_or_default(),
        token: address.1.as_deref().unwrap_or_default(),
        store_dir: &dir,
        version: server.version,
        sync: args.sync,
    });
    let config = dir.join("nats.conf");
    state::replace(&config, text.as_bytes(), 0o600)?;
    let process = Supervised::new(common.bus(&server.program, &config));
    process.start();
    let deadline = Instant::now() + BUS_START_MAX;
    loop {
        match connect(address).await {
            Ok(bus) => return Ok((process, bus)),
            Err(_) if process.life().failures == 0 && Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await;
            }
            Err(_) => {
                process.stop().await;
                return Err(does_not_start("nats-server", &process));
            }
        }
    }
}

async fn connect(address: &(String, Option<String>)) -> Result<Bus, ConnectError> {
    let (url, token) = address.clone();
    Bus::connect(&BusOptions { url, token, name: "podbus up".into() }).await
}

#[expect(clippy::needless_pass_by_value, reason = "map_err hands it over")]
fn bus_failure(error: ConnectError) -> Failure {
    let hint = match error {
        ConnectError::Unauthorized { .. } => "write it in the URL: nats://TOKEN@host:port",
        _ => "is it running? without --nats, `podbus up` starts its own",
    };
    from_error(&error).hint(hint)
}

/// Refuses a bus that cannot carry a cluster; what is worth saying about one that can.
fn check_bus(bus: &Bus, port: Option<u16>, own: bool) -> Outcome<Vec<String>> {
    let info = bus.client().server_info();
    if !info.jetstream {
        return Err(Failure::local(format!("the NATS server at {} has JetStream disabled", bus.url()))
            .because("podbus keeps its objects in JetStream")
            .hint("start it with -js, or with `jetstream { store_dir: ... }` in its configuration"));
    }
    let Some(version) = Version::parse(&info.version) else { return Ok(Vec::new()) };
    nats::check_version(version)?;
    let mut notes = Vec::new();
    if own && !version.knows_sync_interval() {
        notes.push(format!(
            "nats-server {version} syncs its disk every 2 minutes only: a power cut may lose the last of them (2.10 can do better)"
        ));
    }
    if let Some(port) = port.filter(|port| *port != nats::USUAL_PORT) {
        notes.push(format!(
            "the bus listens on port {port}, as {} was taken when the cluster was made",
            nats::USUAL_PORT
        ));
    }
    Ok(notes)
}

fn bus_detail(bus: &Bus, url: &str) -> String {
    format!("nats-server {} on {}", bus.client().server_info().version, url.trim_start_matches("nats://"))
}

fn write_cluster_file(layout: &Layout, address: &(String, Option<String>)) -> Outcome {
    let (url, token) = address.clone();
    let file = ClusterFile {
        url,
        token: token.unwrap_or_default(),
        state_dir: layout.state_dir.clone(),
        name: layout.name.clone(),
        pid: std::process::id(),
    };
    state::write_secret(&layout.cluster_file(), &serde_json::to_vec_pretty(&file).map_err(std::io::Error::from)?)?;
    Ok(())
}

/// What `up` says at last. The last line follows the cluster with any NATS client.
pub(super) fn farewell(status: &Status, foreground: bool) -> String {
    let nodes = status.parts.iter().filter(|part| part.name.starts_with("node-")).count();
    let plural = if nodes == 1 { "" } else { "s" };
    let which = match status.state_dir.to_str() {
        Some(STATE_DIR) | None => String::new(),
        Some(dir) => format!(" --state-dir {dir}"),
    };
    let ends = if foreground {
        format!("Ctrl-C stops its pods and keeps its state; `podbus down{which}` removes all of it.")
    } else {
        format!("`podbus down{which}` stops and removes it.")
    };
    format!(
        "cluster {} is up: {nodes} node{plural}, bus at {}, state in {}\n{ends}\n\nAll that happens, for any NATS client:\n\
         nats -s \"$(podbus url{which})\" sub 'podbus.events.>'",
        status.name,
        status.url,
        status.state_dir.display(),
    )
}

/// Ctrl-C and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
