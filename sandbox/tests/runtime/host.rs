//! A node for one test: a daemon in a network namespace of its own, with an image of busybox.

use std::collections::HashMap;
use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use podbus_common_cri::runtime::runtime_service_client::RuntimeServiceClient;
use podbus_common_cri::runtime::*;
use podbus_common_cri::sandbox::LoadRequest;
use podbus_common_cri::sandbox::image_archive_client::ImageArchiveClient;
use podbus_test_support::wait::{PATIENCE, retry};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::images::pack::{Archive, docker_archive};

pub(crate) const IMAGE: &str = "localhost/busybox:latest";
/// One, so that tests meet both a network made in advance and one made for them.
const WARM_NETWORKS: usize = 1;
/// Tells the test binary, run again, to be the daemon: state directory, instance, networks made in advance.
const DAEMON: &str = "PODBUS_TEST_DAEMON";

/// Not a test: what this binary does when a test starts it as the daemon.
#[test]
#[ignore = "the daemon of the other tests, started by them"]
fn daemon_process() {
    let Ok(arguments) = std::env::var(DAEMON) else { return };
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap(); // whose end lets it begin
    let [dir, instance, warm_networks] = arguments.split('|').collect::<Vec<_>>()[..] else { panic!("{arguments}") };
    let args = podbus_sandbox::Args {
        state_dir: Path::new(dir).join("state"),
        socket: Path::new(dir).join("cri.sock"),
        pod_cidr: "10.111.0.0/24".parse().unwrap(),
        instance: instance.to_owned(),
        warm_networks: warm_networks.parse().unwrap(),
        cni_conf_dir: Some(Path::new(dir).join("cni")).filter(|path| path.exists()),
        cni_bin_dir: vec![Path::new(dir).join("cni-bin"), "/usr/lib/cni".into(), "/opt/cni/bin".into()],
        images: podbus_sandbox::image::Args::default(),
        handlers: Some(Path::new(dir).join("handlers.yaml")).filter(|path| path.exists()),
        metrics: None,
    };
    podbus_sandbox::main(args).unwrap();
}

/// A node. Dropping it ends all of it.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
    pub(crate) instance: String,
    netns: OwnedFd,
    warm_networks: usize,
    daemon: Option<Child>,
    pub(crate) cri: RuntimeServiceClient<Channel>,
    /// The runtime handler of pods that are run from now on.
    pub(crate) handler: String,
}

/// Runs `test` on a node with a daemon and an image.
pub(crate) fn on_host<F: Future<Output = Host>>(test: impl FnOnce(Host) -> F) {
    with_networks(WARM_NETWORKS, test);
}

/// As [`on_host`], with so many networks made in advance.
pub(crate) fn with_networks<F: Future<Output = Host>>(warm_networks: usize, test: impl FnOnce(Host) -> F) {
    assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces and mounts: run them as root");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = test(Host::start(warm_networks).await).await;
        host.end().await;
    });
}

impl Host {
    async fn start(warm_networks: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("podbus-rt-").tempdir().unwrap();
        let instance = format!("t{:07x}", rand::random::<u32>() >> 4);
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
            OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
        });
        let netns = netns.join().unwrap();
        let socket = dir.path().join("cri.sock");
        let cri = RuntimeServiceClient::new(podbus_common_cri::connect_lazy(&socket, PATIENCE));
        let mut host = Self { dir, instance, netns, warm_networks, daemon: None, cri, handler: String::new() };
        host.run_daemon().await;
        host.load_image().await;
        host
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("cri.sock")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the daemon and waits until it serves.
    pub(crate) async fn run_daemon(&mut self) {
        self.spawn_daemon(Stdio::null());
        self.cri = until(async || {
            let log = || format!("the daemon does not serve:\n{}", self.daemon_log());
            let channel = podbus_common_cri::connect(&self.socket(), PATIENCE).await.map_err(|_| log())?;
            let mut cri = RuntimeServiceClient::new(channel);
            cri.version(VersionRequest::default()).await.map(|_| cri).map_err(|_| log())
        })
        .await;
    }

    pub(crate) fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Starts the daemon, which does nothing before the end of its standard input; ours, where that is a pipe.
    pub(crate) fn spawn_daemon(&mut self, stdin: Stdio) -> Option<ChildStdin> {
        let netns = self.netns.try_clone().unwrap();
        let arguments = format!("{}|{}|{}", self.dir.path().display(), self.instance, self.warm_networks);
        let log = std::fs::File::options().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let started = std::thread::spawn(move || {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "runtime::host::daemon_process", "--ignored", "--nocapture"])
                .env(DAEMON, arguments)
                .stdin(stdin)
                .stdout(Stdio::from(log.try_clone().unwrap()))
                .stderr(Stdio::from(log))
                .spawn()
                .unwrap()
        });
        self.daemon.insert(started.join().unwrap()).stdin.take()
    }

    /// `kill -9` of the daemon; one that is dead already is fine.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let _ = daemon.kill();
        let _ = daemon.wait(); // who traced it may have seen its end already
    }

    pub(crate) fn daemon_pid(&self) -> i32 {
        i32::try_from(self.daemon.as_ref().unwrap().id()).unwrap()
    }

    /// A connection of its own, made by its first request: a daemon that dies meanwhile fails that.
    pub(crate) fn channel(&self) -> Channel {
        podbus_common_cri::connect_lazy(&self.socket(), PATIENCE)
    }

    /// SIGTERM to the daemon; whether it ended well.
    pub(crate) fn stop_daemon(&mut self) -> bool {
        let mut daemon = self.daemon.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        daemon.wait().unwrap().success()
    }

    async fn load_image(&self) {
        let busybox = std::fs::read("/bin/busybox").expect("these tests need a static /bin/busybox");
        let mut archive = Archive::new()
            .directory("bin", 0o755)
            .owned_file("bin/busybox", &busybox, 0o755, 0, 0)
            .directory("tmp", 0o1777)
            .directory("etc", 0o755)
            .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n")
            .file("etc/group", b"root:x:0:\nweb:x:102:\nextra:x:103:web\n");
        for name in
            "sh cat echo sleep id hostname ls mount touch mknod env grep head readlink kill true false ps wc dd \
                     stty tty printf seq ip ping chmod stat test trap date rm ln mkdir tail yes wget nslookup ulimit httpd"
                .split_whitespace()
        {
            archive = archive.symlink(&format!("bin/{name}"), "busybox");
        }
        self.load(&docker_archive(IMAGE, &[archive.layer()])).await;
    }

    /// Loads an archive of images.
    pub(crate) async fn load(&self, bytes: &[u8]) {
        let chunks: Vec<LoadRequest> = bytes
            .chunks(1 << 20)
            .map(|chunk| LoadRequest { name: String::new(), chunk: chunk.to_vec().into() })
            .collect();
        let mut answers =
            ImageArchiveClient::new(self.channel()).load(tokio_stream::iter(chunks)).await.unwrap().into_inner();
        while answers.message().await.unwrap().is_some() {}
    }

    /// Removes all pods, and shows that nothing of them is left.
    async fn end(mut self) {
        let pods = self.cri.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        for pod in pods {
            self.remove_pod(&pod.id).await;
        }
        self.assert_nothing_is_left().await;
        self.kill_daemon();
        wait_until("no veth of the pool is left", || self.veths() == 0).await;
        self.destroy();
    }

    /// Removes all but the state directory, of a node without a daemon.
    pub(crate) fn destroy(&self) {
        std::thread::scope(|scope| {
            let destroy = || {
                self.enter_network();
                podbus_sandbox::destroy(&self.instance).unwrap();
            };
            scope.spawn(destroy).join().unwrap();
        });
    }

    /// Of pods that were removed: cgroups, directories, shims, links, mounts, rules, what plugins gave them.
    pub(crate) async fn assert_nothing_is_left(&self) {
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new(), "cgroups are left");
        let state = self.path("state/sandboxes");
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0, "directories are left in {}", state.display());
        wait_until("no shim is left", || self.shims().is_empty()).await;
        wait_until("no veth but the pool's is left", || self.veths() <= self.warm_networks).await;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "mounts are left");
        assert_eq!(self.attachments(), [] as [PathBuf; 0], "networks of plugins are left");
        let rules = self.inside("nft", &["list", "ruleset"]);
        assert!(!rules.contains("elements = "), "host ports are left:\n{rules}");
    }

    /// What is kept of pods that have a network of plugins: namespaces, cache files, what plugins of ours gave.
    pub(crate) fn attachments(&self) -> Vec<PathBuf> {
        let dirs = [format!("/run/podbus-{}/netns", self.instance).into(), self.path("state/cni")];
        let paths = |dir| std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
        let leases = paths(self.path("cni-bin"))
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("lease-"));
        dirs.into_iter().flat_map(paths).chain(leases).collect()
    }

    /// The cgroups of pods of this instance, in whichever hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let root = format!("podbus-{}", self.instance);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let trees = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
        let dirs =
            trees.flat_map(|tree| std::fs::read_dir(Path::new(tree).join(&root)).into_iter().flatten().flatten());
        dirs.filter(|it| it.file_type().unwrap().is_dir() && it.file_name() != "shims").map(|it| it.path()).collect()
    }

    /// Moves the calling thread into the node's network namespace: for connections to its loopback.
    pub(crate) fn enter_network(&self) {
        setns(self.netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
    }

    pub(crate) fn veths(&self) -> usize {
        self.links().lines().filter(|line| line.starts_with("vt")).count()
    }

    pub(crate) fn links(&self) -> String {
        self.inside("ip", &["-br", "link"])
    }

    /// What a program says that runs in the node's network.
    fn inside(&self, program: &str, arguments: &[&str]) -> String {
        std::thread::scope(|scope| {
            let run = || {
                self.enter_network();
                let output = Command::new(program).args(arguments).output().unwrap();
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            scope.spawn(run).join().unwrap()
        })
    }

    /// The process ids of the shims of this node, by its cgroup of shims.
    pub(crate) fn shims(&self) -> Vec<i32> {
        self.named("podbus-shim")
    }

    /// The shims that were made in advance and are no pod's yet.
    pub(crate) fn spares(&self) -> Vec<i32> {
        self.named("podbus-spare")
    }

    /// The pauses of these.
    pub(crate) fn spare_pauses(&self) -> Vec<i32> {
        let children = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children: Vec<_> = self.spares().iter().filter_map(|pid| children(pid).ok()).collect();
        let all = children.iter().flat_map(|text| text.split_whitespace()).filter_map(|pid| pid.parse().ok());
        all.filter(|pid| comm(*pid) == "pause").collect()
    }

    /// Waits until as many are made in advance as there are to be, and the daemon has them to give.
    pub(crate) async fn wait_for_spares(&self) {
        until(async || {
            let status = self.cri.clone().status(StatusRequest { verbose: true }).await;
            let ready = status.map_err(|status| status.to_string())?.into_inner().info["warmNetworks"].clone();
            let all = ready == self.warm_networks.to_string();
            all.then_some(()).ok_or_else(|| format!("{ready} of {} spares are made", self.warm_networks))
        })
        .await;
    }

    /// The process that forks shims.
    pub(crate) fn spawner(&self) -> i32 {
        self.named("podbus-spawner")[0]
    }

    /// Those that live: who waits for what a dead daemon left is PID 1, which may take its time.
    fn named(&self, name: &str) -> Vec<i32> {
        let root = format!("podbus-{}/shims", self.instance);
        let all = processes();
        let in_shims =
            |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|it| it.contains(&root));
        all.into_iter().filter(|pid| comm(*pid) == name && in_shims(pid) && is_alive(*pid)).collect()
    }

    pub(crate) async fn run_pod(&mut self, name: &str) -> String {
        self.run_pod_with(pod(name)).await
    }

    /// Runs a pod whose logs are in the node's directory.
    pub(crate) async fn run_pod_with(&mut self, mut config: PodSandboxConfig) -> String {
        let logs = self.path("logs").join(&config.metadata.as_ref().unwrap().name);
        config.log_directory = logs.display().to_string();
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: self.handler.clone() };
        self.cri.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub(crate) async fn create(&mut self, pod: &str, config: ContainerConfig) -> String {
        let request =
            CreateContainerRequest { pod_sandbox_id: pod.to_owned(), config: Some(config), sandbox_config: None };
        self.cri.create_container(request).await.unwrap().into_inner().container_id
    }

    pub(crate) async fn start_container(&mut self, id: &str) {
        self.cri.start_container(StartContainerRequest { container_id: id.to_owned() }).await.unwrap();
    }

    /// Creates and starts `sh -c script`.
    pub(crate) async fn run(&mut self, pod: &str, name: &str, script: &str) -> String {
        self.run_with(pod, container(name, script)).await
    }

    pub(crate) async fn run_with(&mut self, pod: &str, config: ContainerConfig) -> String {
        let id = self.create(pod, config).await;
        self.start_container(&id).await;
        id
    }

    pub(crate) async fn status(&mut self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.cri.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// The process id of a container's first process.
    pub(crate) async fn pid(&mut self, id: &str) -> i32 {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        pid_in(&self.cri.container_status(request).await.unwrap().into_inner().info)
    }

    pub(crate) async fn pause_pid(&mut self, id: &str) -> i32 {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        pid_in(&self.cri.pod_sandbox_status(request).await.unwrap().into_inner().info)
    }

    pub(crate) async fn pod_status(&mut self, id: &str) -> PodSandboxStatus {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        self.cri.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// Waits until a container has ended.
    pub(crate) async fn exit(&mut self, id: &str) -> ContainerStatus {
        until(async || {
            let status = self.status(id).await;
            match status.state() {
                ContainerState::ContainerExited => Ok(status),
                _ => Err(format!("the container did not end: {status:?}")),
            }
        })
        .await
    }

    /// The output of `sh -c script` in a container of its own, which has to succeed.
    pub(crate) async fn output(&mut self, pod: &str, name: &str, script: &str) -> String {
        self.output_of(pod, container(name, script)).await
    }

    pub(crate) async fn output_of(&mut self, pod: &str, config: ContainerConfig) -> String {
        let id = self.run_with(pod, config).await;
        let status = self.exit(&id).await;
        let output = self.log(&id).await.into_iter().map(|line| line.text + "\n").collect::<String>();
        assert_eq!(status.exit_code, 0, "{status:?}\n{output}");
        output
    }

    /// What the runtime says of a container that it does not create: the request's fault.
    pub(crate) async fn refused(&mut self, pod: &str, config: ContainerConfig) -> String {
        let request =
            CreateContainerRequest { pod_sandbox_id: pod.to_owned(), config: Some(config), sandbox_config: None };
        let refusal = self.cri.create_container(request).await.unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{refusal}");
        refusal.message().to_owned()
    }

    /// Waits until a container has written a line.
    pub(crate) async fn wait_for_log(&mut self, id: &str) {
        until(async || self.log(id).await.pop().ok_or("nothing was written")).await;
    }

    /// The lines of a container's log.
    pub(crate) async fn log(&mut self, id: &str) -> Vec<Line> {
        let path = self.status(id).await.log_path;
        std::fs::read_to_string(path).unwrap().lines().map(Line::parse).collect()
    }

    pub(crate) async fn exec(&mut self, id: &str, script: &str) -> (String, i32) {
        let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 10 };
        let answer = self.cri.exec_sync(request).await.unwrap().into_inner();
        (String::from_utf8([answer.stdout, answer.stderr].concat()).unwrap(), answer.exit_code)
    }

    pub(crate) async fn stop(&mut self, id: &str, timeout: i64) {
        self.cri.stop_container(StopContainerRequest { container_id: id.to_owned(), timeout }).await.unwrap();
    }

    pub(crate) async fn remove_pod(&mut self, id: &str) {
        self.cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.unwrap();
        self.cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Only after a failed test anything is left: its daemon, and what its cgroups hold.
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
            eprintln!("{}", self.daemon_log());
            let instance = self.instance.clone();
            let _ = std::thread::spawn(move || podbus_sandbox::destroy(&instance)).join();
        }
    }
}

/// A line of a log in the format of CRI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) stream: String,
    pub(crate) tag: String,
    pub(crate) text: String,
}

impl Line {
    fn parse(line: &str) -> Self {
        let mut parts = line.splitn(4, ' ');
        let time = parts.next().unwrap();
        assert!(time.len() == 30 && time.ends_with('Z'), "{line}");
        let mut next = || parts.next().unwrap_or_else(|| panic!("a line of a log is {line:?}")).to_owned();
        Self { stream: next(), tag: next(), text: next() }
    }
}

pub(crate) fn pod(name: &str) -> PodSandboxConfig {
    let metadata =
        PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), namespace: "test".into(), attempt: 0 };
    let options = NamespaceOption { pid: NamespaceMode::Container.into(), ..NamespaceOption::default() };
    let context = LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    PodSandboxConfig {
        metadata: Some(metadata),
        hostname: name.into(),
        linux: Some(LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() }),
        ..Default::default()
    }
}

/// All containers of the pod share one PID namespace.
pub(crate) fn with_shared_pid(mut config: PodSandboxConfig) -> PodSandboxConfig {
    let options = NamespaceOption { pid: NamespaceMode::Pod.into(), ..NamespaceOption::default() };
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options);
    config
}

pub(crate) fn container(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        labels: HashMap::from([("name".to_owned(), name.to_owned())]),
        ..Default::default()
    }
}

/// A container with a security context.
pub(crate) fn secured(name: &str, script: &str, context: LinuxContainerSecurityContext) -> ContainerConfig {
    let linux = LinuxContainerConfig { security_context: Some(context), ..Default::default() };
    ContainerConfig { linux: Some(linux), ..container(name, script) }
}

/// A container with limits.
pub(crate) fn limited(name: &str, script: &str, resources: LinuxContainerResources) -> ContainerConfig {
    let linux = LinuxContainerConfig { resources: Some(resources), ..Default::default() };
    ContainerConfig { linux: Some(linux), ..container(name, script) }
}

pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    until(async || condition().then_some(()).ok_or_else(|| format!("gave up waiting until {what}"))).await;
}

/// Looks until all is well; what is wrong at the end is why the test fails.
pub(crate) async fn until<T, E: Display>(look: impl AsyncFnMut() -> Result<T, E>) -> T {
    retry(PATIENCE, look).await.unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// The process id in a verbose status.
fn pid_in(info: &HashMap<String, String>) -> i32 {
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    i32::try_from(info["pid"].as_i64().unwrap()).unwrap()
}

fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(crate) fn comm(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

pub(crate) fn kill_9(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// What a namespace of a process is called.
pub(crate) fn namespace(pid: i32, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}
