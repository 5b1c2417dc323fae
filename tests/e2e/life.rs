//! The life of a pod, from `apply` to `delete`.

use serde_json::Value;

use crate::cluster::{Cluster, condition, container, namespace, phase};

/// The repository's example: a web server, and a sidecar that writes its page.
const TWO_CONTAINERS: &str = include_str!("../../examples/two-containers.yaml");

#[test]
fn the_example_pod_becomes_ready_serves_the_sidecars_page_and_goes_without_a_trace() {
    let cluster = Cluster::start(3);
    let nodes = cluster.ok(&["get", "nodes", "--no-headers"]);
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 3, "{nodes}");

    cluster.apply(TWO_CONTAINERS);
    let pod = cluster.wait_running("web");
    let ip = pod["status"]["podIP"].as_str().unwrap();
    assert!(ip.parse::<std::net::Ipv4Addr>().is_ok(), "{ip}");
    let row = cluster.ok(&["get", "pods", "--no-headers"]);
    assert!(row.contains("2/2") && row.contains("Running"), "{row}");

    cluster.wait_until("the page is served", || {
        cluster
            .command(&["exec", "web", "-c", "sidecar", "--", "wget", "-qO-", "localhost:8080"])
            .output()
            .unwrap()
            .status
            .success()
    });
    let page = cluster.exec("web", "sidecar", &["wget", "-qO-", "localhost:8080"]);
    assert!(!page.is_empty());
    assert_eq!(cluster.exec("web", "web", &["hostname"]), "web");
    assert_eq!(cluster.exec("web", "sidecar", &["hostname", "-i"]), ip);
    for (kind, shared) in [("net", true), ("ipc", true), ("uts", true), ("pid", false), ("mnt", false)] {
        let of = |name| cluster.exec("web", name, &["readlink", &format!("/proc/self/ns/{kind}")]);
        assert_eq!(of("web") == of("sidecar"), shared, "namespace {kind}");
    }

    assert!(cluster.ok(&["logs", "web", "-c", "sidecar"]).lines().count() > 0);
    assert!(cluster.ok(&["delete", "pod", "web"]).contains("pod \"web\" deleted"));
    cluster.wait_gone("web");
    cluster.down();
}

#[test]
fn applying_again_changes_nothing_and_what_get_prints_can_be_applied() {
    let cluster = Cluster::start(1);
    let manifest = cluster.file("pod.yaml", &sleeper("again", "Always", "sleep 1001"));
    let manifest = manifest.to_str().unwrap();
    assert_eq!(cluster.ok(&["apply", "-f", manifest]), "pod/again created\n");
    cluster.wait_running("again");
    assert_eq!(cluster.ok(&["apply", "-f", manifest]), "pod/again unchanged\n");
    let shown = cluster.file("shown.yaml", &cluster.ok(&["get", "pod", "again", "-o", "yaml"]));
    assert_eq!(cluster.ok(&["apply", "-f", shown.to_str().unwrap()]), "pod/again unchanged\n");
    let other = cluster.file("other.yaml", &sleeper("again", "Always", "sleep 1002"));
    let error = cluster.refused(&["apply", "-f", other.to_str().unwrap()]);
    assert!(error.contains("Forbidden: pod updates may not change fields other than"), "{error}");
}

#[test]
fn with_a_shared_process_namespace_pid_1_is_pause() {
    let cluster = Cluster::start(1);
    let pod = sleeper("shared", "Always", "sleep 1003").replace("spec:\n", "spec:\n  shareProcessNamespace: true\n");
    cluster.apply(&pod);
    cluster.wait_running("shared");
    assert_eq!(cluster.exec("shared", "main", &["cat", "/proc/1/comm"]), "pause");
}

#[test]
fn a_pod_with_users_of_its_own_shares_none_with_the_node_or_another_pod() {
    let cluster = Cluster::start(2);
    let example = include_str!("../../examples/user-namespace.yaml");
    cluster.apply(example);
    cluster.apply(&example.replace("name: user-namespace\n", "name: another\n"));
    let first_of = |name: &str| {
        cluster.wait_running(name);
        let map = cluster.exec(name, "main", &["cat", "/proc/self/uid_map"]);
        let ids: Vec<u32> = map.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!((ids[0], ids[2]), (0, 65_536), "{map}");
        ids[1]
    };
    let (one, other) = (first_of("user-namespace"), first_of("another"));
    assert!(one >= 65_536 && one.abs_diff(other) >= 65_536, "{one} and {other}");
    assert_eq!(cluster.exec("another", "main", &["id", "-u"]), "0");
    assert_eq!(cluster.exec("another", "main", &["stat", "-c", "%u", "/data/mine", "/etc/hosts"]), "0\n0");
}

#[test]
fn init_containers_run_to_their_end_one_after_the_other_before_the_containers() {
    let cluster = Cluster::start(1);
    cluster.apply(include_str!("../../examples/init.yaml"));
    let pod = cluster.wait_running("init");
    let init = pod["status"]["initContainerStatuses"].as_array().unwrap();
    assert!(
        init.iter().all(|c| c["state"]["terminated"]["exitCode"] == 0 || c["state"]["running"].is_object()),
        "{init:#?}"
    );
}

#[test]
fn exec_passes_stdin_and_the_exit_code_on() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("exec", "Always", "sleep 1004"));
    cluster.wait_running("exec");
    let output =
        cluster.command(&["exec", "exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("err\n"));

    let input = cluster.file("input", &"a line of input\n".repeat(100_000));
    let mut counted = cluster.command(&["exec", "-i", "exec", "--", "wc", "-c"]);
    let output = counted.stdin(std::fs::File::open(input).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1600000");
}

#[test]
fn a_pod_that_fits_nowhere_waits_and_says_why() {
    let cluster = Cluster::start(2);
    let pod = sleeper("huge", "Always", "sleep 1005")
        .replace("    command", "    resources: {requests: {memory: 900Gi}}\n    command");
    cluster.apply(&pod);
    let pod = cluster.wait_pod("huge", "unschedulable", |pod| condition(pod, "PodScheduled") == "False");
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let message = conditions.iter().find(|c| c["type"] == "PodScheduled").unwrap()["message"].as_str().unwrap();
    assert!(message.starts_with("0/2 nodes are available: 2 Insufficient memory."), "{message}");
    let described = cluster.ok(&["describe", "pod", "huge"]);
    assert!(described.trim_end().lines().last().unwrap().starts_with("Why"), "{described}");
    cluster.ok(&["delete", "pod", "huge"]);
}

#[test]
fn requests_beyond_a_node_are_never_placed_together() {
    let cluster = Cluster::start_with(2, &["--cpu", "1", "--memory", "1Gi"]);
    for name in ["a", "b", "c"] {
        let pod = sleeper(name, "Always", "sleep 1006")
            .replace("    command", "    resources: {requests: {cpu: 700m}}\n    command");
        cluster.apply(&pod);
    }
    let running =
        || ["a", "b", "c"].iter().filter(|name| cluster.pod(name).is_some_and(|pod| phase(&pod) == "Running")).count();
    cluster.wait_until("two of three run", || running() == 2);
    let waiting: Vec<_> =
        ["a", "b", "c"].into_iter().filter_map(|n| cluster.pod(n)).filter(|p| phase(p) == "Pending").collect();
    assert_eq!(waiting.len(), 1);
    assert_eq!(condition(&waiting[0], "PodScheduled"), "False");
    let first = cluster.pod("a").unwrap();
    let placed = if phase(&first) == "Running" { "a" } else { "b" };
    cluster.ok(&["delete", "pod", placed, "--grace-period=0"]);
    cluster.wait_pod(waiting[0]["metadata"]["name"].as_str().unwrap(), "placed when there is room", |p| {
        phase(p) == "Running"
    });
}

#[test]
fn containers_of_one_pod_are_isolated_from_another_pod() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("one", "Always", "sleep 1007"));
    cluster.apply(&sleeper("two", "Always", "sleep 1008"));
    cluster.wait_running("one");
    cluster.wait_running("two");
    let (one, two) = (cluster.container_pids("1007"), cluster.container_pids("1008"));
    let own = i32::try_from(std::process::id()).unwrap();
    for kind in ["net", "ipc", "uts", "pid", "mnt"] {
        assert_ne!(namespace(one[0], kind), namespace(two[0], kind), "{kind}");
        assert_ne!(namespace(one[0], kind), namespace(own, kind), "{kind}");
    }
}

#[test]
fn a_deleted_pod_gets_its_grace_and_another_may_take_its_name_at_once() {
    let cluster = Cluster::start(1);
    let script = "trap 'echo asked to stop; exit 0' TERM; while true; do sleep 0.1; done";
    cluster.apply(&sleeper("graceful", "Always", script));
    let uid = cluster.wait_running("graceful")["metadata"]["uid"].clone();
    cluster.ok(&["delete", "pod", "graceful"]);
    assert!(cluster.pod("graceful").is_none(), "delete waits until the pod is gone");
    cluster.apply(&sleeper("graceful", "Always", "sleep 1009"));
    let again: Value = cluster.wait_running("graceful");
    assert_ne!(again["metadata"]["uid"], uid);
    assert_eq!(container(&again, "main")["restartCount"], 0);
}

/// A pod of one container `main` that runs a shell script.
pub(crate) fn sleeper(name: &str, restart_policy: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  restartPolicy: {restart_policy}\n  terminationGracePeriodSeconds: 3\n  \
         containers:\n  - name: main\n    image: localhost/busybox:latest\n    command: [sh, -c, \"{script}\"]\n"
    )
    .replace("sh, -c, \"sleep ", "sleep, \"")
}
