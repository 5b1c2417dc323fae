//! A node whose containers another runtime makes: the agent needs CRI, and nothing else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cluster::{Cluster, PODBUS, busybox_archive, container, kill, processes, until_some};
use crate::containerd;

const TWO_CONTAINERS: &str = include_str!("../../examples/two-containers.yaml");

#[test]
fn a_node_with_containerd_holds_a_pod_as_one_with_our_runtime_does() {
    let cluster = Cluster::start(1);
    let node = ContainerdNode::join(&cluster);
    cluster.wait_until("the node is Ready", || cluster.node_ready(NAME) == "True");
    let shown = cluster.ok(&["describe", "node", NAME]);
    assert!(shown.contains("containerd://"), "{shown}");

    cluster.apply(&TWO_CONTAINERS.replace("spec:\n", "spec:\n  nodeSelector: {runtime: containerd}\n"));
    let pod = cluster.wait_running("web");
    assert_eq!(pod["spec"]["nodeName"], NAME);
    cluster.wait_until("the page of the other container is served", || {
        let page = ["exec", "web", "-c", "sidecar", "--", "wget", "-qO-", "localhost:8080"];
        cluster.command(&page).output().unwrap().status.success()
    });
    assert_eq!(cluster.exec("web", "web", &["hostname"]), "web");
    assert!(cluster.ok(&["logs", "web", "-c", "sidecar"]).contains("Hello from web"));

    kill(node.pause());
    let restarted = |name: &str| cluster.pod("web").is_some_and(|pod| container(&pod, name)["restartCount"] == 1);
    cluster.wait_until("the containers are in a new sandbox", || restarted("web") && restarted("sidecar"));
    assert!(cluster.reasons("web").contains(&"SandboxChanged".to_owned()));
    cluster.wait_running("web");

    cluster.ok(&["delete", "pod", "web"]);
    cluster.wait_gone("web");
    assert_eq!(node.containers(), "", "containers that are left");
    cluster.wait_until("the pod's cgroup is gone", || node.cgroups().iter().all(|dir| leaves(dir).is_empty()));
}

const NAME: &str = "peer";

/// containerd and an agent that joins a cluster.
struct ContainerdNode {
    agent: Child,
    /// Waits for containerd, whose end is the end of all that it started and mounted.
    containerd: Child,
    /// The cgroup of its pods.
    cgroup: String,
    bridge: String,
    directory: tempfile::TempDir,
}

impl ContainerdNode {
    fn join(cluster: &Cluster) -> Self {
        let directory = tempfile::Builder::new().prefix("podbus-peer-").tempdir().unwrap();
        let of = |name: &str| directory.path().join(name);
        let (bridge, cgroup) = (format!("peer{}", std::process::id()), format!("podbus-peer-{}", std::process::id()));
        let (subnet, socket) = ("10.96.0.0/16", containerd::socket(directory.path()));
        let command = containerd::configure(directory.path(), &bridge, subnet).unwrap();

        // Volumes that the agent mounts are to be seen, and mounts that are made inside are not to be seen outside.
        let mut apart = Command::new("setpriv");
        apart.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "slave", "--pid", "--fork"]);
        apart.args(["--kill-child", "--mount-proc", "sh", "-ec", "mount -t tmpfs peer /run; exec \"$0\" \"$@\""]);
        let containerd = logged(apart.args(command), &of("containerd.log"));
        let imported = until_some(|| containerd::import(directory.path(), busybox_archive()).ok());
        imported.expect("containerd takes images");

        let mut agent = Command::new(PODBUS);
        agent.args(["node-agent", "--nats", cluster.url(), "--node", NAME, "--label", "runtime=containerd"]);
        agent.args(["--pod-cidr", subnet, "--cgroup-root", &cgroup]);
        agent.arg("--state-dir").arg(of("agent")).arg("--runtime").arg(socket);
        let agent = logged(&mut agent, &of("agent.log"));
        Self { agent, containerd, cgroup, bridge, directory }
    }

    /// The process id of the pod's pause.
    fn pause(&self) -> i32 {
        let in_cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let is_pause = |arguments: &[String]| arguments == ["/bin/busybox", "sleep", "100000"];
        let mut all = processes().into_iter().filter(|process| is_pause(&process.arguments));
        all.find(|process| in_cgroup(process.pid).contains(&self.cgroup)).expect("a pause").pid
    }

    /// What containerd has, a line each.
    fn containers(&self) -> String {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(containerd::socket(self.directory.path()));
        let output = command.args(["--namespace", "k8s.io", "containers", "list", "--quiet"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The cgroup of its pods in each hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let trees = mounts.lines().filter(|line| line.contains(" - cgroup"));
        trees.map(|line| Path::new(line.split(' ').nth(4).unwrap()).join(&self.cgroup)).collect()
    }
}

impl Drop for ContainerdNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["agent.log", "containerd.log"] {
                eprintln!("--- {log}\n{}", fs::read_to_string(self.directory.path().join(log)).unwrap_or_default());
            }
        }
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
        // The first process of its PID namespace takes all others along.
        let waiting = self.containerd.id();
        let children = fs::read_to_string(format!("/proc/{waiting}/task/{waiting}/children")).unwrap_or_default();
        children.split_whitespace().for_each(|pid| kill(pid.parse().unwrap()));
        self.containerd.wait().unwrap();
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).status(); // there is none without a pod
        for dir in self.cgroups() {
            let classes = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
            classes.filter(|path| path.is_dir()).for_each(|class| fs::remove_dir(class).unwrap());
            let _ = fs::remove_dir(dir); // not in every hierarchy
        }
    }
}

fn logged(command: &mut Command, log: &Path) -> Child {
    let log = File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// The cgroups of pods in the classes of a node's.
fn leaves(dir: &Path) -> Vec<PathBuf> {
    let directories = |dir: &Path| -> Vec<PathBuf> {
        let all = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        all.filter(|path| path.is_dir()).collect()
    };
    directories(dir).iter().flat_map(|class| directories(class)).collect()
}
