//! Bad input and bad days: each has an error that says what, where and what to do, and leaves nothing half-done.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use podbus_test_support::program::install;

use crate::cluster::{Cluster, PODBUS, busybox_archive, refused, until_some};
use crate::life::sleeper;

#[test]
fn an_unreachable_bus_is_named_with_what_to_do() {
    let error = refused(Command::new(PODBUS).args(["get", "pods", "--nats", "nats://127.0.0.1:1"]));
    assert!(error.contains("nats://127.0.0.1:1"), "{error}");
    assert!(error.contains("podbus up"), "{error}");
}

#[test]
fn a_bad_manifest_is_refused_whole_with_every_fault() {
    let cluster = Cluster::start(1);
    let good = sleeper("good", "Always", "sleep 6001");
    let bad =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: Bad_Name\nspec:\n  containers:\n  - name: a\n    imag: x\n";
    let file = cluster.file("both.yaml", &format!("{good}---\n{bad}"));
    let error = cluster.refused(&["apply", "-f", file.to_str().unwrap()]);
    assert!(error.contains("metadata.name") && error.contains("did you mean \"image\"?"), "{error}");
    let line = error.lines().find(|l| l.contains("imag:")).unwrap_or_else(|| panic!("{error}"));
    let expected = format!("both.yaml:{}:5:", good.lines().count() + 9);
    assert!(line.contains(&expected), "{line} should point at {expected}");
    assert!(cluster.pod("good").is_none(), "nothing of a bad file is applied");
}

#[test]
fn a_corrupt_archive_is_refused_and_leaves_nothing() {
    let cluster = Cluster::start(1);
    let images = cluster.ok(&["image", "list"]);
    let whole = fs::read(busybox_archive()).unwrap();
    let cut = cluster.state_dir().join("../cut.tar");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let error = cluster.refused(&["image", "load", cut.to_str().unwrap()]);
    assert!(error.starts_with("error") || error.starts_with("Error"), "{error}");
    fs::write(&cut, b"this is not an archive").unwrap();
    cluster.refused(&["image", "load", cut.to_str().unwrap()]);
    assert_eq!(cluster.ok(&["image", "list"]), images);
}

#[test]
fn a_second_agent_with_the_same_identity_is_refused_while_the_first_lives() {
    let cluster = Cluster::start(1);
    let state_dir = cluster.state_dir();
    let agents = crate::cluster::processes();
    let first = agents
        .iter()
        .find(|p| {
            p.arguments.get(1).is_some_and(|a| a == "node-agent")
                && p.arguments.iter().any(|a| a.contains(state_dir.to_str().unwrap()))
        })
        .unwrap();
    let mut second = Command::new(PODBUS);
    second.args(&first.arguments[1..]).stdin(Stdio::null());
    let error = refused(&mut second);
    assert!(error.to_lowercase().contains("another") || error.contains("already"), "{error}");
    assert_eq!(cluster.node_ready("node-1"), "True");
}

#[test]
fn without_root_up_says_that_it_needs_it() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("podbus");
    install(Path::new(PODBUS), &copy).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = directory.path().join("state");
    let error = refused(Command::new(copy).args(["up", "--state-dir", state.to_str().unwrap()]).uid(65534).gid(65534));
    assert!(error.contains("root") && error.contains("sudo"), "{error}");
    assert!(!state.exists());
}

#[test]
fn a_newer_state_directory_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("version"), "999\n").unwrap();
    let error = refused(Command::new(PODBUS).args(["up", "--detach", "--state-dir", state.to_str().unwrap()]));
    assert!(error.contains("999") && error.contains("newer"), "{error}");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
}

#[test]
fn a_bus_without_jetstream_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let server = plain_nats_server(directory.path());
    let error = refused(Command::new(PODBUS).args(["scheduler", "--nats", &server.url]));
    assert!(error.contains("JetStream"), "{error}");
}

#[test]
fn an_old_nats_server_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let (program, state) = (directory.path().join("nats-server"), directory.path().join("state"));
    let script = directory.path().join("script");
    fs::write(&script, "#!/bin/sh\necho 'nats-server: v2.8.4'\n").unwrap();
    install(&script, &program).unwrap();
    let up = ["up", "--detach", "--state-dir", state.to_str().unwrap()];
    let expected = "nats-server 2.8.4 is too old: podbus needs 2.9.0 or later";
    let error = refused(Command::new(PODBUS).args(up).env("NATS_SERVER", &program));
    assert!(error.contains(expected) && error.contains("apt-get"), "{error}");

    let bus = OldServer::start();
    let error = refused(Command::new(PODBUS).args(up).args(["--nats", &bus.url]));
    assert!(error.contains(expected), "{error}");
    let error = refused(Command::new(PODBUS).args(["scheduler", "--nats", &bus.url]));
    assert!(error.contains("2.8.4") && error.contains("upgrade"), "{error}");
    assert!(!state.exists());
}

#[test]
fn a_disk_with_no_room_for_a_cluster_is_refused_before_anything_is_made() {
    let cluster = Cluster::start_on_disk(80, 1);
    cluster.fill_disk();
    let other = cluster.state_dir().with_file_name("other");
    let error = refused(Command::new(PODBUS).args(["up", "--detach", "--state-dir", other.to_str().unwrap()]));
    assert!(error.contains("0 MiB left") && error.contains("--state-dir"), "{error}");
    assert!(!other.exists());
}

#[test]
fn a_state_directory_that_fills_up_is_told_and_harms_nothing_that_runs() {
    let cluster = Cluster::start_on_disk(80, 1);
    cluster.apply(&sleeper("works", "Always", "sleep 6011"));
    cluster.wait_running("works");
    let before = cluster.container_pids("6011");
    let filler = cluster.fill_disk();

    let error = cluster.refused(&["image", "load", busybox_archive().to_str().unwrap()]);
    assert!(error.contains("No space left on device"), "{error}");
    let state_dir = cluster.state_dir();
    cluster.wait_until("`podbus up` tells what to do", || {
        let shown = cluster.command(&["up", "--state-dir", state_dir.to_str().unwrap()]).output().unwrap();
        String::from_utf8_lossy(&shown.stderr).contains("0 MiB left, make room")
    });
    let error = cluster.refused(&["get", "pods"]);
    assert!(error.contains("full"), "{error}");
    assert_eq!(cluster.container_pids("6011"), before, "pods run on");

    fs::remove_file(filler).unwrap();
    cluster.wait_running("works");
    cluster.apply(&sleeper("new", "Always", "sleep 6012"));
    cluster.wait_running("new");
    assert_eq!(cluster.container_pids("6011"), before);
}

/// What greets as a nats-server of long ago.
struct OldServer {
    url: String,
}

impl OldServer {
    /// It answers until the test's process ends.
    fn start() -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                std::thread::spawn(move || greet(client));
            }
        });
        Self { url }
    }
}

fn greet(client: std::net::TcpStream) -> std::io::Result<()> {
    let mut writer = client.try_clone()?;
    let info =
        r#"{"server_id":"OLD","version":"2.8.4","proto":1,"headers":true,"max_payload":1048576,"jetstream":true}"#;
    writer.write_all(format!("INFO {info}\r\n").as_bytes())?;
    for line in BufReader::new(client).lines() {
        if line?.starts_with("PING") {
            writer.write_all(b"PONG\r\n")?;
        }
    }
    Ok(())
}

struct NatsServer {
    child: std::process::Child,
    url: String,
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // Ended or not, it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A nats-server on a free port, with JetStream off.
fn plain_nats_server(directory: &Path) -> NatsServer {
    let ports = directory.join("ports");
    fs::create_dir(&ports).unwrap();
    let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned());
    let child = Command::new(program)
        .args(["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", ports.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server is installed (`make test` does it)");
    let url = until_some(|| {
        let file = fs::read_dir(&ports).ok()?.flatten().find(|e| e.path().extension().is_some_and(|e| e == "ports"))?;
        let ports: serde_json::Value = serde_json::from_str(&fs::read_to_string(file.path()).ok()?).ok()?;
        Some(ports["nats"][0].as_str()?.to_owned())
    });
    NatsServer { child, url: url.expect("nats-server writes a ports file") }
}
