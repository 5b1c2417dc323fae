//! `podbus node-init`: PID 1 of a node that is a container. It makes the container a machine that can run pods, keeps
//! runtime and agent running, and reaps. Its death is a reboot of the node.

mod machine;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use ipnet::Ipv4Net;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;

use crate::bus::split_token;
use crate::failure::{Failure, Outcome};
use crate::up::cidr;
use crate::up::host::host_ranges;
use crate::up::pods::{self, Fate, Graces};
use crate::up::process::{Spec, Supervised};
use crate::up::{own_program, state};

/// In a container's own network and cgroup namespaces no other node can be met.
const INSTANCE: &str = "node";
const SOCKET: &str = "/run/podbus/node.sock";
const TOKEN_FILE: &str = "/run/podbus/token";
/// The first field of its network namespace's range is 10, the second chosen among these many.
const NODE_NUMBERS: u16 = 200;
/// Orphans that SIGCHLD did not announce alone are found by then.
const REAP: Duration = Duration::from_secs(1);

/// Flags of `podbus node-init`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The bus; a token may stand before an @
    #[arg(long, value_name = "URL", env = "PODBUS_NATS_URL", hide_env_values = true)]
    nats: String,
    /// The node's name; by default the host's
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where runtime and agent keep their state: a volume, as overlay does not lie on overlay
    #[arg(long, value_name = "DIR", default_value = crate::up::STATE_DIR)]
    state_dir: PathBuf,
    /// The addresses of its pods; by default a range that no route of the container has
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<Ipv4Net>,
    /// CPU that the node offers; by default the machine's
    #[arg(long, value_name = "QUANTITY")]
    cpu: Option<String>,
    /// Memory that the node offers; by default the machine's
    #[arg(long, value_name = "QUANTITY")]
    memory: Option<String>,
}

/// Runs the node until SIGTERM, then stops its pods.
pub(crate) async fn run(args: Args) -> Outcome {
    if std::process::id() != 1 {
        return Err(Failure::local("podbus node-init is for PID 1 of a container: it mounts over /proc and /sys")
            .hint("`podbus up` runs nodes on a machine"));
    }
    machine::prepare()?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut children = signal(SignalKind::child())?;
    let (sandbox, agent) = processes(&args)?;
    sandbox.start();
    agent.start();
    let mut ticks = interval(REAP);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = children.recv() => {}
            _ = ticks.tick() => {}
        }
        reap(&[&sandbox, &agent]);
    }
    agent.stop().await;
    let ended = pods::end(Path::new(SOCKET), Fate::Stop, &Graces::new()).await;
    join_all([sandbox.stop()]).await;
    Ok(ended?)
}

fn processes(args: &Args) -> Outcome<(Supervised, Supervised)> {
    let name = match &args.node {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().map_err(std::io::Error::from)?.to_string_lossy().into_owned(),
    };
    let pod_cidr = args.pod_cidr.map_or_else(|| choose_cidr(&name), Ok)?.to_string();
    fs_err::create_dir_all("/run/podbus")?;
    let address = split_token(&args.nats);
    let mut agent = vec!["node-agent".into(), "--nats".into(), address.url];
    if let Some(token) = &address.token {
        // In the arguments everybody could read it.
        state::write_secret(Path::new(TOKEN_FILE), token.as_bytes())?;
        agent.extend(["--token-file".to_owned(), TOKEN_FILE.to_owned()]);
    }
    let dir = |name: &str| args.state_dir.join(name).to_string_lossy().into_owned();
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    agent.extend(text(&["--node", &name, "--state-dir", &dir("agent"), "--runtime", SOCKET, "--pod-cidr", &pod_cidr]));
    agent.extend(text(&["--cgroup-root", &format!("podbus-{INSTANCE}")]));
    for (flag, value) in [("--cpu", &args.cpu), ("--memory", &args.memory)] {
        agent.extend(value.iter().flat_map(|value| [flag.to_owned(), value.clone()]));
    }
    let sandbox = text(&[
        "sandbox",
        "--state-dir",
        &dir("sandbox"),
        "--socket",
        SOCKET,
        "--pod-cidr",
        &pod_cidr,
        "--instance",
        INSTANCE,
    ]);
    let spec = |arguments: Vec<String>, needs: Option<PathBuf>| Spec {
        program: own_program(),
        arguments: arguments.into_iter().map(Into::into).collect(),
        // Both log where the container's own log is read.
        log: PathBuf::from("/proc/1/fd/2"),
        state_dir: args.state_dir.clone(),
        needs,
    };
    Ok((Supervised::new(spec(sandbox, None)), Supervised::new(spec(agent, Some(SOCKET.into())))))
}

/// Nodes have networks of their own, but a person who looks at their pods is glad when addresses differ.
fn choose_cidr(name: &str) -> Outcome<Ipv4Net> {
    let seed = name.bytes().fold(0_u16, |seed, byte| seed.wrapping_mul(31).wrapping_add(u16::from(byte)));
    cidr::choose(0, &host_ranges(|link| link.starts_with("pb-")))
        .and_then(|range| cidr::of_node(range, seed % NODE_NUMBERS + 1))
        .ok_or_else(|| {
            Failure::local("the container's routes leave no private /16 for pods").hint("give one with --pod-cidr")
        })
}

/// Waits for what has ended and is nobody else's: PID 1 inherits orphans. The supervised are waited for elsewhere.
fn reap(supervised: &[&Supervised]) {
    let ours: Vec<_> = supervised.iter().filter_map(|process| process.life().pid).collect();
    loop {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) = waitid(Id::All, look) else { return };
        if ours.iter().any(|own| i32::try_from(*own) == Ok(pid.as_raw())) {
            // Its own task takes it within a moment; what is behind it waits for the next tick.
            return;
        }
        if waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}
