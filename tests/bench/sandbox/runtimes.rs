//! The two runtimes: each started with root, state and socket of its own, in namespaces of its own, whose end is the end
//! of all that the runtime has started and mounted. So nothing is left, also of a benchmark that is killed, but for empty
//! cgroups and a directory.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podbus_common_cri::sandbox::LoadRequest;
use podbus_common_cri::sandbox::image_archive_client::ImageArchiveClient;
use podbus_test_support::cgroups::{cgroups, remove_cgroup};
use podbus_test_support::containerd;
use podbus_test_support::wait::retry_blocking;

use super::client::{Client, IMAGE};
use super::footprint;
use super::report::path;

const PODBUS: &str = env!("CARGO_BIN_EXE_podbus");
/// How the directory of a runtime begins; the benchmark's process id follows.
const DIRECTORY: &str = "podbus-bench-";
/// How long a cgroup may be busy with what dies in it.
const BUSY_MAX: Duration = Duration::from_secs(1);
/// In it, the name of its cgroup.
const CGROUP: &str = "cgroup";

/// A running runtime. Dropping it ends it, its pods with it.
pub(crate) struct Runtime {
    pub(crate) client: Client,
    daemon: Daemon,
    /// Our instance's name; `None` for the peer.
    pub(crate) instance: Option<String>,
}

/// What a runtime leaves in places that it does not let itself be told is gone with its mounts.
const SCRIPT: &str =
    r#"ip link set lo up; for dir in /run /var/lib; do mount -t tmpfs bench $dir; done; exec "$0" "$@""#;

/// The processes of a runtime, in namespaces of their own, where only the loopback is up.
struct Daemon {
    /// Waits for the daemon, and takes it along when it dies itself.
    process: Child,
    /// The cgroup of all pods.
    cgroup: String,
    directory: tempfile::TempDir,
}

impl Daemon {
    /// Starts one that dies with the calling thread.
    fn start(directory: tempfile::TempDir, cgroup: String, program: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        std::fs::write(directory.path().join(CGROUP), &cgroup)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]);
        command.args(["--mount-proc", "sh", "-ec", SCRIPT, program]).args(arguments);
        let log = std::fs::File::create(directory.path().join("log"))?;
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { process, cgroup, directory })
    }

    /// The first process of the PID namespace: the shell, which became the daemon.
    fn pid(&self) -> Option<u32> {
        let parent = self.process.id();
        std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?.trim().parse().ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The first process of a PID namespace takes all others along, and its parent ends after them.
        let killed = self
            .pid()
            .and_then(|pid| i32::try_from(pid).ok())
            .map(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL));
        if !matches!(killed, Some(Ok(()))) {
            let _ = self.process.kill(); // fails only where it has ended
        }
        if self.process.wait().is_err() {
            eprintln!("warning: a runtime did not end");
        }
        remove_cgroups(&self.cgroup);
    }
}

impl Runtime {
    /// Starts our daemon with so many network namespaces made in advance.
    pub(crate) async fn podbus(archive: &Path, warm_networks: usize) -> anyhow::Result<Self> {
        let directory = new_directory()?;
        let instance = format!("b{:07x}", std::process::id() & 0xfff_ffff);
        let (state, socket) = (directory.path().join("state"), directory.path().join("s"));
        let warm = warm_networks.to_string();
        let arguments = [
            "sandbox",
            "--state-dir",
            path(&state),
            "--socket",
            path(&socket),
            "--pod-cidr",
            "10.98.0.0/16",
            "--instance",
            &instance,
            "--warm-networks",
            &warm,
        ];
        let daemon = Daemon::start(directory, format!("podbus-{instance}"), PODBUS, &arguments)?;
        // Without a parent of its own a pod's cgroup lies beneath the instance's.
        let client = Client::connect(&socket, "").await?;
        let mut runtime = Self { client, daemon, instance: Some(instance) };
        load(&socket, archive).await?;
        runtime.client.wait_for_image(IMAGE).await?;
        Ok(runtime)
    }

    /// Starts containerd, where it, runc and CNI's plugins are installed.
    pub(crate) async fn containerd(archive: &Path) -> anyhow::Result<Option<Self>> {
        let directory = new_directory()?;
        let [program, arguments @ ..] = match containerd::configure(directory.path(), "bench0", "10.97.0.0/16") {
            Ok(command) => command,
            Err(error) => {
                eprintln!("no peer: {error:#}");
                return Ok(None);
            }
        };
        let socket = containerd::socket(directory.path());
        let cgroup = format!("podbus-bench-peer-{}", std::process::id());
        let daemon = Daemon::start(directory, cgroup.clone(), &program, &arguments.each_ref().map(String::as_str))?;
        let client = Client::connect(&socket, &format!("/{cgroup}")).await?;
        let mut runtime = Self { client, daemon, instance: None };
        containerd::import(runtime.directory(), archive)?;
        runtime.client.wait_for_image(IMAGE).await?;
        runtime.client.wait_for_image(containerd::PAUSE_IMAGE).await?;
        Ok(Some(runtime))
    }

    /// Where all is that it keeps.
    pub(crate) fn directory(&self) -> &Path {
        self.daemon.directory.path()
    }

    /// The daemon's process id; 0 of one that has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid().unwrap_or(0)
    }

    /// The processes that a pod without containers has: its shim and its pause.
    pub(crate) fn shims_and_pauses(&self) -> Vec<u32> {
        let mut found = footprint::processes("cgroup", &self.daemon.cgroup);
        if self.instance.is_none() {
            let (daemon, waiting) = (self.pid(), self.daemon.process.id());
            let shims = footprint::processes("cmdline", path(self.directory()));
            found.extend(shims.into_iter().filter(|pid| ![daemon, waiting].contains(pid)));
            found.sort_unstable();
            found.dedup();
        }
        found
    }

    /// Removes all pods and ends the daemon.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.client.remove_everything().await
    }
}

fn new_directory() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(&format!("{DIRECTORY}{}-", std::process::id())).tempdir()
}

/// Removes what benchmarks left that were killed.
pub(crate) fn remove_leftovers() -> std::io::Result<()> {
    for entry in std::fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_none_or(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            continue;
        }
        // A name that was not written whole would be that of all cgroups.
        let cgroup = std::fs::read_to_string(entry.path().join(CGROUP)).unwrap_or_default();
        if cgroup.starts_with("podbus-") {
            remove_cgroups(&cgroup);
        }
        std::fs::remove_dir_all(entry.path())?;
    }
    Ok(())
}

fn remove_cgroups(name: &str) {
    for dir in cgroups(name) {
        // What lived in it may take a moment to be gone; one that stays is none of the figures.
        let _ = retry_blocking(BUSY_MAX, || remove_cgroup(&dir));
    }
}

async fn load(socket: &Path, archive: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(archive)?;
    let chunks: Vec<_> =
        bytes.chunks(1 << 20).map(|chunk| LoadRequest { name: String::new(), chunk: chunk.to_vec().into() }).collect();
    let channel = podbus_common_cri::connect(socket, Duration::from_secs(10)).await?;
    let mut answers = ImageArchiveClient::new(channel).load(tokio_stream::iter(chunks)).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}
