//! What a person changes in what is there, and creates without a file: labels, annotations, taints, `run`.

use std::process::Output;

use serde_json::Value;

use crate::cluster::{Cluster, phase, text};
use crate::life::sleeper;

#[test]
fn pods_and_nodes_are_labelled_and_tainted_and_the_scheduler_and_restarted_agents_heed_it() {
    let mut cluster = Cluster::start(2);
    labels_of_a_pod(&cluster);
    labels_of_a_node(&mut cluster);
    taints_of_a_node(&cluster);
    pods_without_a_file(&cluster);
    patches(&cluster);
    an_editor(&cluster);
}

fn labels_of_a_pod(cluster: &Cluster) {
    cluster.apply(&sleeper("web", "Always", "sleep 1031"));
    let before = cluster.wait_running("web");
    for (change, answer) in [
        (&["tier=front", "app=web"][..], "pod/web labeled\n"),
        (&["tier=front"], "pod/web not labeled\n"),
        (&["tier=back", "--overwrite"], "pod/web labeled\n"),
        (&["app-"], "pod/web unlabeled\n"),
        (&["app-"], "label \"app\" not found.\npod/web not labeled\n"),
        (&["--list"], "tier=back\n"),
    ] {
        assert_eq!(cluster.ok(&[&["label", "pod", "web"], change].concat()), answer, "{change:?}");
    }
    let kept = cluster.refused(&["label", "pod", "web", "tier=front"]);
    assert!(
        kept.starts_with("error: 'tier' already has a value (back), and --overwrite is false\n  pod/web\n"),
        "{kept}"
    );
    let nowhere = cluster.refused(&["label", "pod", "nix", "tier=front"]);
    assert_eq!(nowhere, "Error from server (NotFound): pods \"nix\" not found\n");
    assert_eq!(cluster.ok(&["label", "pods", "-l", "tier=back", "seen=yes"]), "pod/web labeled\n");
    assert_eq!(cluster.ok(&["annotate", "po/web", "note=a b=c"]), "pod/web annotated\n");
    let after = cluster.wait_running("web");
    assert_eq!(after["metadata"]["annotations"]["note"], "a b=c");
    let of = |pod: &Value| (pod["spec"].clone(), pod["metadata"]["uid"].clone(), pod["metadata"]["generation"].clone());
    assert_eq!(of(&after), of(&before), "it is the same pod, and runs on");
}

fn labels_of_a_node(cluster: &mut Cluster) {
    cluster.apply(&sleeper("fast", "Always", "sleep 1032").replace("spec:", "spec:\n  nodeSelector: {disk: ssd}"));
    cluster.wait_until("no node has the label", || {
        cluster.ok(&["describe", "pod", "fast"]).contains("2 node(s) didn't match Pod's node affinity/selector")
    });
    assert_eq!(cluster.ok(&["label", "node", "node-2", "disk=ssd"]), "node/node-2 labeled\n");
    assert_eq!(cluster.wait_running("fast")["spec"]["nodeName"], "node-2");
    assert_eq!(cluster.ok(&["annotate", "nodes", "--all", "rack=7"]), "node/node-1 annotated\nnode/node-2 annotated\n");
    let invalid = cluster.refused(&["label", "node", "node-2", "disk=a/b"]);
    assert!(invalid.starts_with("error: invalid label value: \"disk=a/b\": a valid label must be"), "{invalid}");

    assert_eq!(cluster.kill_service("node-agent"), 2);
    cluster.up(&["--detach", "--nodes", "2"]);
    let labels = cluster.ok(&["label", "node/node-2", "--list"]);
    assert!(labels.contains("disk=ssd\n") && labels.contains("kubernetes.io/hostname=node-2\n"), "{labels}");
}

fn taints_of_a_node(cluster: &Cluster) {
    let web = cluster.wait_running("web");
    let from = web["spec"]["nodeName"].as_str().unwrap();
    let taint = |change: &[&str]| cluster.ok(&[&["taint", "node", from], change].concat());
    assert_eq!(taint(&["gone=yes:NoExecute"]), format!("node/{from} tainted\n"));
    cluster.wait_pod("web", "at the other node", |pod| pod["spec"]["nodeName"] != from && phase(pod) == "Running");
    let again = cluster.refused(&["taint", "node", from, "gone=no:NoExecute"]);
    assert!(again.contains(&format!("node {from} already has gone taint(s) with same effect(s)")), "{again}");
    assert_eq!(taint(&["gone-", "full:NoSchedule"]), format!("node/{from} modified\n"));
    let all = cluster.ok(&["taint", "nodes", "--all", "full=now:NoSchedule", "--overwrite"]);
    assert_eq!(all, "node/node-1 modified\nnode/node-2 modified\n");
    cluster.apply(&sleeper("waits", "Always", "sleep 1033"));
    cluster.wait_until("both nodes keep it away", || {
        cluster.ok(&["describe", "pod", "waits"]).contains("2 node(s) had untolerated taint {full: now}")
    });
    assert_eq!(taint(&["full-"]), format!("node/{from} untainted\n"));
    assert_eq!(cluster.wait_running("waits")["spec"]["nodeName"], from);
    assert_eq!(
        cluster.refused(&["taint", "node", from, "full-"]),
        format!("error: taint \"full\" not found\n  node/{from}\n")
    );
}

fn pods_without_a_file(cluster: &Cluster) {
    fn line<'a>(words: &[&'a str]) -> Vec<&'a str> {
        [&["run", "--image=localhost/busybox:latest", "--restart=Never"], words].concat()
    }
    let once = ["hello", "--attach", "--rm", "--env", "GREETING=hi", "--", "sh", "-c", "echo $GREETING; exit 3"];
    let output = cluster.command(&line(&once)).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hi\npod \"hello\" deleted from default namespace\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "pod default/hello terminated (Error)\n");

    let input = cluster.file("input", "spoken\n");
    let mut talk = cluster.command(&line(&["echo", "-i", "--rm", "-q", "--", "cat"]));
    let output = talk.stdin(std::fs::File::open(input).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "spoken\n", "{}", text(&output));
    cluster.wait_gone("echo");

    assert_eq!(cluster.ok(&line(&["plain", "--", "true"])), "pod/plain created\n");
    let taken = cluster.refused(&line(&["plain"]));
    assert_eq!(taken, "Error from server (AlreadyExists): pods \"plain\" already exists\n");
    let manifest = cluster.ok(&line(&["other", "--dry-run=client", "-o", "yaml"]));
    assert!(manifest.contains("run: other") && cluster.pod("other").is_none(), "{manifest}");
}

fn patches(cluster: &Cluster) {
    let labels = r#"{"metadata": {"labels": {"tier": null, "patched": "yes"}}}"#;
    assert_eq!(cluster.ok(&["patch", "pod", "web", "-p", labels]), "pod/web patched\n");
    assert_eq!(cluster.ok(&["patch", "pod", "web", "-p", labels]), "pod/web patched (no change)\n");
    let listed = cluster.ok(&["label", "pod", "web", "--list"]);
    assert!(listed.contains("patched=yes") && !listed.contains("tier="), "{listed}");
    let spec = cluster.refused(&["patch", "pod", "web", "-p", "spec: {hostname: other}"]);
    assert!(spec.starts_with("The Pod \"web\" is invalid: spec: Forbidden: pod updates may not change"), "{spec}");
    let node = ["patch", "node", "node-2", "-p", "spec: {unschedulable: true, taints: null}"];
    assert_eq!(cluster.ok(&node), "node/node-2 patched\n");
    assert_eq!(cluster.ok(&["cordon", "node-2"]), "node/node-2 already cordoned\n");
    let agent = cluster.refused(&["patch", "node", "node-2", "-p", "status: {capacity: {cpu: 99}}"]);
    assert!(agent.contains("only metadata.labels, metadata.annotations, spec.taints"), "{agent}");
}

fn an_editor(cluster: &Cluster) {
    let edit = |editor: &str| cluster.command(&["edit", "pod", "web"]).env("KUBE_EDITOR", editor).output().unwrap();
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said(&edit("sed -i s/patched:/edited:/")), "pod/web edited\n");
    assert!(cluster.ok(&["label", "pod", "web", "--list"]).contains("edited=yes"));
    assert_eq!(said(&edit("true")), "Edit cancelled, no changes made.\n");
    let refused = edit("sed -i s/Always/Never/");
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && stderr.contains("pod updates may not change"), "{stderr}");
    let copy = stderr.lines().find_map(|line| line.split('"').find(|part| part.ends_with(".yaml"))).unwrap();
    assert!(std::fs::read_to_string(copy).unwrap().contains("restartPolicy: Never"));
    std::fs::remove_file(copy).unwrap();
}
