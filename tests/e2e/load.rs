//! `podbus load` on real nodes, and its view on a terminal.

use std::io::Write as _;
use std::path::Path;

use nix::pty::{Winsize, openpty};
use nix::sys::termios::tcgetattr;
use serde_json::Value;

use crate::cluster::{Cluster, text};
use crate::terminal::OnTerminal;

/// An example, by its name.
fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/load").join(name);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_load_test_measures_real_nodes_and_leaves_nothing() {
    let cluster = Cluster::start(2);
    let reports = tempfile::tempdir().unwrap();
    let arguments = ["load", &example("real-nodes.yaml"), "--output-dir", reports.path().to_str().unwrap()];
    let output = cluster.command(&arguments).output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output), cluster.logs());
    let (table, lines) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(table.starts_with("real-nodes: 20 pods asked, 20 ran"), "{table}");
    assert!(lines.contains(" s  due ") && !lines.contains('\u{1b}'), "no terminal, no view: {lines}");

    let report = std::fs::read(reports.path().join("real-nodes.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["environment"]["nodes"], "2, 0 of them simulated");
    for latency in report["latencies"].as_array().unwrap() {
        assert_eq!(latency["count"], 20, "{}", latency["name"]);
    }
    assert_eq!(cluster.ok(&["get", "pods", "-o", "name"]), "");
    cluster.wait_until("no container runs", || cluster.container_pids("infinity").is_empty());
}

#[test]
fn a_key_ends_a_load_test_that_takes_its_pods_along_and_gives_the_terminal_back() {
    let cluster = Cluster::start(1);
    let scenario = std::fs::read_to_string(example("real-nodes.yaml")).unwrap().replace("for: 5s", "for: 10m");
    let scenario = cluster.file("long.yaml", &scenario);
    for key in [b"q", b"\x03"] {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let mut load = OnTerminal::start(&pty, &cluster, &["load", scenario.to_str().unwrap()]);
        cluster.wait_until("the view is there and a pod runs", || {
            let shown = load.shown();
            let pods = cluster.ok(&["get", "pods", "--no-headers"]);
            shown.contains("\u{1b}[?1049h") && shown.contains("arrive") && pods.contains("Running")
        });
        assert_ne!(tcgetattr(&pty.slave).unwrap().local_flags, before.local_flags, "keys come one by one");
        load.keys.write_all(key).unwrap();
        assert_eq!(load.child.wait().unwrap().code(), Some(1));
        cluster.wait_until("it is told", || load.shown().contains("the test was stopped"));
        let shown = load.shown();
        let (_, after) = shown.rsplit_once("\u{1b}[?1049l").expect("the screen is given back");
        assert!(after.contains("run ") && after.contains("the test was stopped"), "{after:?}");
        assert_eq!(tcgetattr(&pty.slave).unwrap(), before);
        assert_eq!(cluster.ok(&["get", "pods", "-o", "name"]), "");
    }
}
