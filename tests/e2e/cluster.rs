//! A cluster of one test: `podbus up --detach` in a temporary directory, `podbus down` when it is dropped.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use podbus_test_support::wait::{PATIENCE, retry_blocking};
use serde_json::Value;

/// The binary under test.
pub(crate) const PODBUS: &str = env!("CARGO_BIN_EXE_podbus");

pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    /// The state is on a small file system of its own.
    disk: Option<Disk>,
    url: String,
    /// The instance names of its nodes: part of each bridge, table and cgroup.
    pub(crate) instances: Vec<String>,
    /// What the processes of this test find in their environment.
    environment: Vec<(&'static str, PathBuf)>,
    down: bool,
}

impl Cluster {
    /// Starts a cluster of `nodes` nodes with the test image on each of them.
    pub(crate) fn start(nodes: u32) -> Self {
        Self::start_with(nodes, &[])
    }

    /// The same, with more flags for `podbus up`.
    pub(crate) fn start_with(nodes: u32, flags: &[&str]) -> Self {
        Self::start_on(None, nodes, flags, Vec::new())
    }

    /// The same, with a variable for `podbus up` and what it starts.
    pub(crate) fn start_in(variable: (&'static str, PathBuf), nodes: u32) -> Self {
        Self::start_on(None, nodes, &[], vec![variable])
    }

    /// The same, with its state on a file system of `mib` MiB.
    pub(crate) fn start_on_disk(mib: u32, nodes: u32) -> Self {
        Self::start_on(Some(mib), nodes, &[], Vec::new())
    }

    fn start_on(disk_mib: Option<u32>, nodes: u32, flags: &[&str], environment: Vec<(&'static str, PathBuf)>) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the end-to-end tests make namespaces: run them as root (`make test`)"
        );
        let directory = tempfile::Builder::new().prefix("podbus-e2e-").tempdir().unwrap();
        let disk = disk_mib.map(|mib| Disk::mount(&directory.path().join("disk"), mib));
        let mut cluster = Self { directory, disk, url: String::new(), instances: Vec::new(), environment, down: false };
        let nodes = nodes.to_string();
        let mut arguments = vec!["--detach", "--nodes", nodes.as_str()];
        arguments.extend(flags);
        cluster.up(&arguments);
        let image = busybox_archive().to_str().unwrap();
        cluster.ok(&["image", "load", image]);
        cluster
    }

    /// `podbus up` again: what was killed is started, what runs is adopted.
    pub(crate) fn up(&mut self, flags: &[&str]) {
        let state_dir = self.state_dir();
        let mut arguments = vec!["up", "--state-dir", state_dir.to_str().unwrap()];
        arguments.extend(flags);
        let output = self.command(&arguments).output().unwrap();
        assert!(output.status.success(), "podbus up failed: {}\n{}", text(&output), self.logs());
        let url = self.command(&["url", "--state-dir", self.state_dir().to_str().unwrap()]).output().unwrap();
        self.url = String::from_utf8(url.stdout).unwrap().trim().to_owned();
        assert!(self.url.starts_with("nats://"), "podbus url printed {:?}", self.url);
        self.instances = instances(state_dir.to_str().unwrap());
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.disk.as_ref().map_or(self.directory.path(), |disk| &disk.path).join("state")
    }

    /// Fills the disk of [`Self::start_on_disk`] to the last byte; the file that does it.
    pub(crate) fn fill_disk(&self) -> PathBuf {
        let path = self.disk.as_ref().expect("a cluster on a disk of its own").path.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        path
    }

    /// A file of this test.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The bus, with its token.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(PODBUS);
        command.args(arguments).stdin(Stdio::null()).env_remove("PODBUS_NATS_URL");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if !self.url.is_empty() {
            command.env("PODBUS_NATS_URL", &self.url);
        }
        command
    }

    /// Runs a verb that must succeed; what it printed on stdout.
    pub(crate) fn ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, arguments: &[S]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "podbus {arguments:?} failed: {}\n{}", text(&output), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb that must fail with exit status 1; what it printed on stderr.
    pub(crate) fn refused<S: AsRef<OsStr> + std::fmt::Debug>(&self, arguments: &[S]) -> String {
        refused(&mut self.command(arguments))
    }

    pub(crate) fn apply(&self, manifest: &str) {
        let path = self.file("manifest.yaml", manifest);
        self.ok(&["apply", "-f", path.to_str().unwrap()]);
    }

    /// The pod as `get -o json` shows it; `None` when there is none.
    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        let output = self.command(&["get", "pod", name, "-o", "json"]).output().unwrap();
        if output.status.success() {
            return Some(serde_json::from_slice(&output.stdout).unwrap());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        // Anything but "not found" is weather while services are being killed: ask again.
        if stderr.contains("NotFound") { None } else { Some(Value::Null) }
    }

    /// Waits until the pod satisfies `condition`; the pod.
    pub(crate) fn wait_pod(&self, name: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let found = until_some(|| {
            last = self.pod(name);
            last.clone().filter(|pod| !pod.is_null() && condition(pod))
        });
        found.unwrap_or_else(|| {
            let (events, logs) = (self.ok(&["events"]), self.logs());
            panic!("pod {name}: not {what} after {PATIENCE:?}; it is {last:#?}\n{events}\n{logs}")
        })
    }

    pub(crate) fn wait_running(&self, name: &str) -> Value {
        self.wait_pod(name, "Running and Ready", |pod| phase(pod) == "Running" && condition(pod, "Ready") == "True")
    }

    pub(crate) fn wait_gone(&self, name: &str) {
        self.wait_until(&format!("pod {name} is gone"), || self.pod(name).is_none());
    }

    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let is_so = until_some(|| condition().then_some(())).is_some();
        assert!(is_so, "not within {PATIENCE:?}: {what}\n{}", self.logs());
    }

    /// Readiness of a node: "True", "False", "Unknown".
    pub(crate) fn node_ready(&self, name: &str) -> String {
        let output = self.command(&["get", "node", name, "-o", "json"]).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).map(|node| condition(&node, "Ready")).unwrap_or_default()
    }

    /// Events of a pod, oldest first.
    pub(crate) fn events(&self, pod: &str) -> Vec<Value> {
        let list = self.ok(&["get", "events", "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        let mut events = list["items"].as_array().unwrap().clone();
        events.retain(|event| event["involvedObject"]["name"] == pod);
        events
    }

    pub(crate) fn reasons(&self, pod: &str) -> Vec<String> {
        self.events(pod).iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    /// `podbus node start NAME`, or `stop NAME --kill`.
    pub(crate) fn node(&self, verb: &str, name: &str) {
        let state_dir = self.state_dir();
        let mut arguments = vec!["node", verb, name, "--state-dir", state_dir.to_str().unwrap()];
        arguments.extend((verb == "stop").then_some("--kill"));
        self.ok(&arguments);
    }

    pub(crate) fn exec(&self, pod: &str, container: &str, command: &[&str]) -> String {
        let mut arguments = vec!["exec", pod, "-c", container, "--"];
        arguments.extend(command);
        self.ok(&arguments).trim_end().to_owned()
    }

    /// Process IDs of this cluster's services: `subcommand` is `scheduler`, `node-agent`, `sandbox` or `nats-server`.
    pub(crate) fn service_pids(&self, subcommand: &str) -> Vec<i32> {
        let state_dir = self.state_dir();
        processes()
            .into_iter()
            .filter(|process| {
                process.arguments.iter().any(|a| a.contains(state_dir.to_str().unwrap()))
                    && (process.arguments.get(1).is_some_and(|a| a == subcommand)
                        || Path::new(&process.arguments[0]).file_name() == Some(OsStr::new(subcommand)))
            })
            .map(|process| process.pid)
            .collect()
    }

    /// Host PIDs of the containers' processes of this cluster that have `marker` among their arguments.
    pub(crate) fn container_pids(&self, marker: &str) -> Vec<i32> {
        let is_ours = |pid: &i32| {
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            self.instances.iter().any(|instance| cgroup.contains(instance))
        };
        let mut pids: Vec<_> = processes()
            .into_iter()
            .filter(|process| process.arguments.iter().any(|a| a == marker))
            .map(|process| process.pid)
            .filter(is_ours)
            .collect();
        pids.sort_unstable();
        pids
    }

    /// `kill -9` of every process of a service.
    pub(crate) fn kill_service(&self, subcommand: &str) -> usize {
        let pids = self.service_pids(subcommand);
        for &pid in &pids {
            kill(pid);
        }
        pids.len()
    }

    /// The end of each service's log, for a failure's message.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for entry in walk(&self.state_dir()).into_iter().filter(|p| p.extension() == Some(OsStr::new("log"))) {
            if entry.components().any(|c| c.as_os_str() == "pods") {
                continue;
            }
            let content = fs::read_to_string(&entry).unwrap_or_default();
            let lines: Vec<_> = content.lines().collect();
            let _ = writeln!(all, "--- {}", entry.display());
            for line in &lines[lines.len().saturating_sub(25)..] {
                let _ = writeln!(all, "{line}");
            }
        }
        all
    }

    /// `podbus down`, now and checked.
    pub(crate) fn down(mut self) {
        self.down = true;
        let output = self.command(&["down", "--state-dir", self.state_dir().to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "podbus down failed: {}", text(&output));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.down {
            return;
        }
        let output = self.command(&["down", "--state-dir", self.state_dir().to_str().unwrap()]).output();
        if !std::thread::panicking() {
            let output = output.unwrap();
            assert!(output.status.success(), "podbus down failed: {}", text(&output));
        }
    }
}

/// A small file system, unmounted when it is dropped.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
}

impl Disk {
    fn mount(path: &Path, mib: u32) -> Self {
        fs::create_dir(path).unwrap();
        let options = format!("size={mib}m");
        nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options.as_str()))
            .unwrap();
        Self { path: path.to_owned() }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        nix::mount::umount2(&self.path, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

/// What the sandbox daemons of a cluster are told to put into names.
fn instances(state_dir: &str) -> Vec<String> {
    let of = |process: Process| {
        let at = process.arguments.iter().position(|a| a == "--instance")?;
        process.arguments.iter().any(|a| a.contains(state_dir)).then(|| process.arguments[at + 1].clone())
    };
    let mut names: Vec<_> = processes().into_iter().filter_map(of).collect();
    names.sort();
    names.dedup();
    names
}

/// One process of this machine.
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) arguments: Vec<String>,
}

/// All processes that can be read.
pub(crate) fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments: Vec<_> = line
            .split(|&b| b == 0)
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .filter(|a| !a.is_empty())
            .collect();
        (!arguments.is_empty()).then_some(Process { pid, arguments })
    })
    .collect()
}

/// A namespace of a process, such as `net:[4026531840]`.
pub(crate) fn namespace(pid: i32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

pub(crate) fn kill(pid: i32) {
    // It may have ended by itself meanwhile.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

/// Whether a process runs: one that ended and that nobody reaped yet does not.
pub(crate) fn runs(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

pub(crate) fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

pub(crate) fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// The status of a condition of a pod or a node; empty when it has none.
pub(crate) fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|c| c["type"] == kind));
    found.and_then(|c| c["status"].as_str()).unwrap_or_default().to_owned()
}

/// Status of one container.
pub(crate) fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = pod["status"]["containerStatuses"].as_array();
    all.and_then(|all| all.iter().find(|c| c["name"] == name)).unwrap_or(&Value::Null)
}

/// Runs a command that must fail with exit status 1; what it printed on stderr.
pub(crate) fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?} should be refused: {}", text(&output));
    String::from_utf8(output.stderr).unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The test image as an archive, made once: `localhost/busybox:latest`.
pub(crate) fn busybox_archive() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("busybox-{}.tar", std::process::id()));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/build-busybox-image.sh");
        let output = Command::new("sh").arg(script).arg(&path).output().unwrap();
        assert!(output.status.success(), "cannot build the test image: {}", text(&output));
        path
    })
}

/// Looks until there is something; `None`: not within [`PATIENCE`].
pub(crate) fn until_some<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    retry_blocking(PATIENCE, || look().ok_or(())).ok()
}

/// Every file below `directory`.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && entry.file_name() != "layers" => files.extend(walk(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}
