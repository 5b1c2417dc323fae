//! A cluster on a bus with keys, its services started one by one as on machines of their own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::apart::{Apart, logged};
use crate::cluster::{PODBUS, busybox_archive, text, until_some};

#[test]
fn on_a_bus_with_keys_each_user_does_what_its_role_may() {
    let cluster = Locked::start();
    let admin = |arguments: &[&str]| cluster.ok("admin.alice", arguments);
    let ready = until_some(|| admin(&["get", "nodes", "--no-headers"]).contains(" Ready ").then_some(()));
    ready.unwrap_or_else(|| panic!("no node is Ready\n{}", cluster.logs()));
    admin(&["image", "load", busybox_archive().to_str().unwrap()]);
    for namespace in ["team-a", "team-b"] {
        let manifest = cluster.file(&format!("{namespace}.yaml"), &pod(namespace));
        admin(&["apply", "-f", manifest.to_str().unwrap()]);
        admin(&["wait", "pod", "web", "-n", namespace, "--for=condition=Ready", "--timeout=60s"]);
    }

    let team = |arguments: &[&str]| cluster.ok("team.team-a", arguments);
    assert!(team(&["get", "pods", "-n", "team-a"]).contains("Running"));
    assert_eq!(team(&["exec", "web", "-n", "team-a", "--", "hostname"]).trim(), "web");
    assert!(team(&["logs", "web", "-n", "team-a"]).contains("hello"));
    for (stream, begins) in [
        (&["attach", "web", "-n", "team-a"][..], "still here"),
        (&["port-forward", "web", ":80", "-n", "team-a"], "Forwarding from 127.0.0.1:"),
    ] {
        let said = cluster.first_line("team.team-a", stream);
        assert!(said.starts_with(begins), "{stream:?}: {said}");
    }
    assert!(team(&["events", "-n", "team-a"]).contains("Started"));
    for theirs in [
        &["get", "pods", "-n", "team-b"][..],
        &["get", "pods", "-A"],
        &["events", "-n", "team-b"],
        &["events", "-A"],
        &["attach", "web", "-n", "team-b"],
        &["port-forward", "web", ":80", "-n", "team-b"],
        &["delete", "pod", "web", "-n", "team-b"],
    ] {
        let refused = cluster.refused("team.team-a", theirs);
        assert!(refused.contains("has no right to") && refused.contains("podbus keys"), "{theirs:?}: {refused}");
    }

    assert!(cluster.ok("viewer.grafana", &["get", "pods", "-A"]).contains("team-b"));
    assert!(cluster.ok("viewer.grafana", &["logs", "web", "-n", "team-b"]).contains("hello"));
    assert!(cluster.ok("viewer.grafana", &["top", "nodes"]).contains("node-1"));
    for change in [
        &["exec", "web", "-n", "team-b", "--", "true"][..],
        &["attach", "web", "-n", "team-b"],
        &["port-forward", "web", ":80", "-n", "team-b"],
        &["delete", "pod", "web", "-n", "team-b"],
    ] {
        let refused = cluster.refused("viewer.grafana", change);
        assert!(refused.contains("has no right to"), "{change:?}: {refused}");
    }

    team(&["delete", "pod", "web", "-n", "team-a"]);
    admin(&["delete", "pods", "--all", "-A"]);
    assert!(admin(&["events", "-A"]).contains("Killing"));
}

fn pod(namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: {namespace}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n  - {{name: main, image: 'localhost/busybox:latest', command: [sh, -c, 'echo hello; while sleep 0.1; do echo still here; done']}}\n"
    )
}

/// nats-server, a scheduler and a node, each with a key of its own.
struct Locked {
    /// In the order of their start.
    services: Vec<Child>,
    sandbox: Option<Apart>,
    url: String,
    instance: String,
    directory: tempfile::TempDir,
}

impl Locked {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("podbus-keys-").tempdir().unwrap();
        // It also names a bridge, so that it is short.
        let instance = format!("k{:07x}", std::process::id() & 0xfff_ffff);
        let mut cluster = Self { services: Vec::new(), sandbox: None, url: String::new(), instance, directory };
        let keys = cluster.path("keys");
        let mut command = Command::new(PODBUS);
        command.arg("keys").arg(&keys).args(["--node", "node-1", "--admin", "alice", "--team", "team-a"]);
        let made = command.args(["--viewer", "grafana"]).output().unwrap();
        assert!(String::from_utf8_lossy(&made.stdout).contains("with 5 users"), "{}", text(&made));

        let ports = cluster.path("ports");
        fs::create_dir(&ports).unwrap();
        let conf = format!(
            "listen: \"127.0.0.1:-1\"\nports_file_dir: {ports:?}\njetstream {{ store_dir: {:?} }}\ninclude keys/accounts.conf\n",
            cluster.path("nats")
        );
        let conf = cluster.file("nats.conf", &conf);
        let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        cluster.service("nats", Command::new(program).arg("-c").arg(conf));
        cluster.url = until_some(|| url(&ports)).expect("nats-server listens");

        let (socket, cidr) = (cluster.path("s"), "10.95.0.0/24");
        let podbus = |service: &str| {
            let mut command = Command::new(PODBUS);
            command.arg(service);
            command
        };
        let mut scheduler = podbus("scheduler");
        scheduler.args(["--nats", &cluster.url]).arg("--token-file").arg(keys.join("scheduler.nk"));
        let [state, socket_path] = [&cluster.path("sandbox"), &socket].map(|path| path.display().to_string());
        let sandbox = [PODBUS, "sandbox", "--state-dir", &state, "--socket", &socket_path, "--pod-cidr", cidr];
        let sandbox = [&sandbox[..], &["--instance", &cluster.instance]].concat();
        let (cgroup, bridge) = (format!("podbus-{}", cluster.instance), format!("pb-{}", cluster.instance));
        cluster.sandbox = Some(Apart::start(&sandbox, &cgroup, &bridge, &cluster.path("sandbox.log")));
        let mut agent = podbus("node-agent");
        agent.args(["--nats", &cluster.url, "--node", "node-1", "--pod-cidr", cidr]);
        agent.arg("--token-file").arg(keys.join("node.node-1.nk")).arg("--runtime").arg(socket);
        agent.arg("--state-dir").arg(cluster.path("agent")).args(["--cgroup-root", &cgroup]);
        cluster.service("scheduler", &mut scheduler);
        cluster.service("node-agent", &mut agent);
        cluster
    }

    fn service(&mut self, name: &str, command: &mut Command) {
        let service = logged(command, &self.path(&format!("{name}.log")));
        self.services.push(service);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// A verb of this user.
    fn command(&self, user: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(PODBUS);
        command.args(arguments).env("PODBUS_NATS_URL", &self.url);
        command.env("PODBUS_TOKEN_FILE", self.path("keys").join(format!("{user}.nk")));
        command
    }

    fn run(&self, user: &str, arguments: &[&str]) -> Output {
        self.command(user, arguments).output().unwrap()
    }

    fn ok(&self, user: &str, arguments: &[&str]) -> String {
        let output = self.run(user, arguments);
        assert!(output.status.success(), "{user}: podbus {arguments:?} failed: {}\n{}", text(&output), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a verb that goes on says first; then it is ended.
    fn first_line(&self, user: &str, arguments: &[&str]) -> String {
        let mut child = self.command(user, arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        line
    }

    fn refused(&self, user: &str, arguments: &[&str]) -> String {
        let output = self.run(user, arguments);
        assert_eq!(output.status.code(), Some(1), "{user}: podbus {arguments:?}: {}", text(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    fn logs(&self) -> String {
        let log = |name: &str| fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        ["nats", "scheduler", "sandbox", "node-agent"].map(|name| format!("--- {name}\n{}", log(name))).concat()
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        for service in self.services.iter_mut().rev() {
            service.kill().unwrap();
            service.wait().unwrap();
        }
        let table = format!("podbus-{}", self.instance);
        let _ = Command::new("nft").args(["delete", "table", "ip", &table]).stderr(Stdio::null()).status();
    }
}

/// The URL in the file that nats-server writes about its ports.
fn url(ports: &Path) -> Option<String> {
    let file = fs::read_dir(ports).ok()?.flatten().next()?;
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
    ports["nats"][0].as_str().map(ToOwned::to_owned)
}
