//! The two runtimes: each started with root, state and socket of its own in a network namespace of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podbus_common_cri::sandbox::LoadRequest;
use podbus_common_cri::sandbox::image_archive_client::ImageArchiveClient;

use super::client::{Client, IMAGE};
use super::footprint;
use super::report::{path, succeeded};

const PODBUS: &str = env!("CARGO_BIN_EXE_podbus");
/// containerd has its pause from an image: one of busybox, made for the benchmark.
const PAUSE_IMAGE: &str = "localhost/pause:bench";
const CNI_PLUGINS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// A running runtime. Dropping it ends it.
pub(crate) struct Runtime {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) client: Client,
    process: Child,
    /// Our instance's name; `None` for the peer.
    pub(crate) instance: Option<String>,
    cgroup: String,
}

/// A command in a network namespace of its own, where only the loopback is up.
fn isolated(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up; exec \"$0\" \"$@\"", program]).args(arguments);
    command.stdin(Stdio::null());
    command
}

fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Child> {
    let log = std::fs::File::create(log)?;
    Ok(command.stdout(log.try_clone()?).stderr(log).spawn()?)
}

impl Runtime {
    /// Starts our daemon with so many network namespaces made in advance.
    pub(crate) async fn podbus(archive: &Path, warm_networks: usize) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("podbus-bench-").tempdir()?;
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
        let process = spawn(isolated(PODBUS, &arguments), &directory.path().join("log"))?;
        // Without a parent of its own a pod's cgroup lies beneath the instance's.
        let client = Client::connect(&socket, "").await?;
        let cgroup = format!("podbus-{instance}");
        let mut runtime = Self { directory, client, process, instance: Some(instance), cgroup };
        load(&socket, archive).await?;
        runtime.client.wait_for_image(IMAGE).await?;
        Ok(runtime)
    }

    /// Starts containerd, where it, runc and CNI's plugins are installed.
    pub(crate) async fn containerd(archive: &Path) -> anyhow::Result<Option<Self>> {
        let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
        let plugins = CNI_PLUGINS.into_iter().find(|dir| Path::new(dir).join("bridge").exists());
        let (true, Some(plugins)) = (has("containerd") && has("runc"), plugins) else {
            eprintln!("no peer: it needs containerd, runc and containernetworking-plugins");
            return Ok(None);
        };
        let directory = tempfile::Builder::new().prefix("podbus-bench-peer-").tempdir()?;
        let socket = directory.path().join("s");
        let config = directory.path().join("config.toml");
        std::fs::create_dir(directory.path().join("cni"))?;
        std::fs::write(directory.path().join("cni/10-bench.conflist"), conflist(directory.path()))?;
        std::fs::write(&config, configuration(directory.path(), plugins))?;
        let process = spawn(isolated("containerd", &["--config", path(&config)]), &directory.path().join("log"))?;
        let cgroup = format!("podbus-bench-peer-{}", std::process::id());
        let client = Client::connect(&socket, &format!("/{cgroup}")).await?;
        let mut runtime = Self { directory, client, process, instance: None, cgroup };
        let pause = pause_archive(archive, runtime.directory.path())?;
        for archive in [archive, &pause] {
            let arguments = ["--address", path(&socket), "--namespace", "k8s.io", "images", "import", path(archive)];
            succeeded(Command::new("ctr").args(arguments))?;
        }
        runtime.client.wait_for_image(IMAGE).await?;
        runtime.client.wait_for_image(PAUSE_IMAGE).await?;
        Ok(Some(runtime))
    }

    /// The daemon's process id: that of the shell, which became it.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The processes that a pod without containers has: its shim and its pause.
    pub(crate) fn shims_and_pauses(&self) -> Vec<u32> {
        let mut found = footprint::processes("cgroup", &self.cgroup);
        if self.instance.is_none() {
            let shims = footprint::processes("cmdline", path(self.directory.path()));
            found.extend(shims.into_iter().filter(|pid| *pid != self.pid()));
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

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        if self.process.wait().is_err() {
            eprintln!("warning: a runtime did not end");
        }
        remove_cgroups(&self.cgroup);
    }
}

/// Empty ones only: a runtime that could not end its pods keeps them, for people to look at.
fn remove_cgroups(name: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let trees = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    for dir in trees.map(|tree| PathBuf::from(tree).join(name)) {
        // What lived in it may take a moment to be gone.
        for _ in 0..50 {
            let _ = std::fs::remove_dir(dir.join("shims"));
            match std::fs::remove_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => break,
            }
        }
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

fn configuration(directory: &Path, plugins: &str) -> String {
    let directory = path(directory);
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
  address = "{directory}/s"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true # runs without CAP_SYS_RESOURCE too
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{directory}/cni"
"#
    )
}

/// A bridge and addresses, as our own network has them; without masquerading, for which the plugins need iptables.
fn conflist(directory: &Path) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "bench", "plugins": [{{"type": "bridge", "bridge": "bench0", "isGateway": true,
  "ipam": {{"type": "host-local", "dataDir": "{}/ipam", "ranges": [[{{"subnet": "10.97.0.0/16"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
        path(directory)
    )
}

/// The benchmark's image with another command, so that it can stand in for pause.
fn pause_archive(archive: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let packed = directory.join("pause.tar");
    let script = format!(
        r#"mkdir {dir}/pause && cd {dir}/pause && tar -xf {archive}
config=$(sed 's/.*"Config":"\([^"]*\)".*/\1/' manifest.json) layer=$(sed 's/.*"Layers":\["\([^"]*\)".*/\1/' manifest.json)
sed 's/"Cmd":\["sh"\]/"Entrypoint":["\/bin\/busybox","sleep","100000"]/' "$config" > pause.json
echo "[{{\"Config\":\"pause.json\",\"RepoTags\":[\"{PAUSE_IMAGE}\"],\"Layers\":[\"$layer\"]}}]" > manifest.json
tar -cf {packed} manifest.json pause.json "$layer""#,
        dir = path(directory),
        archive = path(archive),
        packed = path(&packed),
    );
    succeeded(Command::new("sh").args(["-ec", &script]))?;
    Ok(packed)
}
