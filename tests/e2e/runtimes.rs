//! A node whose containers another runtime makes: the agent needs CRI, and nothing else.

use std::fs;
use std::process::{Child, Command};

use podbus_test_support::cgroups::{cgroups, directories};
use podbus_test_support::containerd;

use crate::apart::{Apart, logged};
use crate::cluster::{Cluster, PODBUS, busybox_archive, container, kill, processes, until_some};
use crate::streams::{Verb, page};

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

    let mut counted = cluster.command(&["exec", "-i", "web", "-c", "web", "--", "wc", "-c"]);
    let output = counted.stdin(fs::File::open(cluster.file("input", "five\n")).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "5", "the end of stdin arrives");
    let mut attached = Verb::start(&cluster, &["attach", "web", "-c", "sidecar"]);
    assert!(attached.line().starts_with("Hello from web"));
    let mut forward = Verb::start(&cluster, &["port-forward", "web", ":http", ":1"]);
    let ports = forward.forwarded(2);
    assert!(page(ports[0]).contains("Hello from web"));
    assert_eq!(page(ports[1]), "", "nobody listens there");
    cluster.wait_until("it is told", || forward.errors().contains(" -> 1: "));
    assert!(page(ports[0]).contains("Hello from web"), "{}", forward.errors());

    kill(node.pause());
    assert_eq!(forward.wait(), Some(1));
    assert!(forward.errors().contains("error: lost connection to pod"), "{}", forward.errors());
    let restarted = |name: &str| cluster.pod("web").is_some_and(|pod| container(&pod, name)["restartCount"] == 1);
    cluster.wait_until("the containers are in a new sandbox", || restarted("web") && restarted("sidecar"));
    assert!(cluster.reasons("web").contains(&"SandboxChanged".to_owned()));
    cluster.wait_running("web");

    cluster.ok(&["delete", "pod", "web"]);
    cluster.wait_gone("web");
    assert_eq!(node.containers(), "", "containers that are left");
    // Those of the classes stay: the next pod has them.
    let of_pods =
        || cgroups(&node.cgroup).iter().flat_map(|dir| directories(dir)).flat_map(|class| directories(&class)).count();
    cluster.wait_until("the pod's cgroup is gone", || of_pods() == 0);
}

const NAME: &str = "peer";

/// containerd and an agent that joins a cluster.
struct ContainerdNode {
    agent: Child,
    _containerd: Apart,
    /// The cgroup of its pods.
    cgroup: String,
    directory: tempfile::TempDir,
}

impl ContainerdNode {
    fn join(cluster: &Cluster) -> Self {
        let directory = tempfile::Builder::new().prefix("podbus-peer-").tempdir().unwrap();
        let of = |name: &str| directory.path().join(name);
        let (bridge, cgroup) = (format!("peer{}", std::process::id()), format!("podbus-peer-{}", std::process::id()));
        let (subnet, socket) = ("10.96.0.0/16", containerd::socket(directory.path()));
        let command = containerd::configure(directory.path(), &bridge, subnet).unwrap();

        let containerd = Apart::start(&command, &cgroup, &bridge, &of("containerd.log"));
        let imported = until_some(|| containerd::import(directory.path(), busybox_archive()).ok());
        imported.expect("containerd takes images");

        let mut agent = Command::new(PODBUS);
        agent.args(["node-agent", "--nats", cluster.url(), "--node", NAME, "--label", "runtime=containerd"]);
        agent.args(["--pod-cidr", subnet, "--cgroup-root", &cgroup]);
        agent.arg("--state-dir").arg(of("agent")).arg("--runtime").arg(socket);
        let agent = logged(&mut agent, &of("agent.log"));
        Self { agent, _containerd: containerd, cgroup, directory }
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
    }
}
