//! How containers end, and what the pod says of it.

use crate::cluster::{Cluster, container, phase};
use crate::life::sleeper;

#[test]
fn a_container_above_its_memory_limit_is_oom_killed_with_137() {
    let cluster = Cluster::start(1);
    cluster.apply(include_str!("../../examples/out-of-memory.yaml"));
    let ended = |pod: &serde_json::Value| {
        let status = &pod["status"]["containerStatuses"][0];
        [&status["state"]["terminated"], &status["lastState"]["terminated"]]
            .into_iter()
            .find(|t| t.is_object())
            .cloned()
    };
    let pod = cluster.wait_pod("out-of-memory", "OOM-killed", |pod| ended(pod).is_some());
    let ended = ended(&pod).unwrap();
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()));
}

#[test]
fn a_container_that_keeps_failing_waits_longer_each_time() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("crash", "Always", "exit 1"));
    let pod = cluster.wait_pod("crash", "in CrashLoopBackOff after two restarts", |pod| {
        let main = container(pod, "main");
        main["state"]["waiting"]["reason"] == "CrashLoopBackOff" && main["restartCount"] == 2
    });
    let main = container(&pod, "main");
    let message = main["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("back-off 20s restarting failed container=main pod=crash_default("), "{message}");
    assert_eq!(main["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(phase(&pod), "Running");
}

#[test]
fn the_restart_policy_decides_what_an_exit_means() {
    let cluster = Cluster::start(1);
    let cases = [("never", "Never", "exit 3", "Failed", 3), ("done", "OnFailure", "exit 0", "Succeeded", 0)];
    for (name, policy, script, ..) in cases {
        cluster.apply(&sleeper(name, policy, script));
    }
    for (name, _, _, expected, code) in cases {
        let pod = cluster.wait_pod(name, expected, |pod| phase(pod) == expected);
        let ended = &container(&pod, "main")["state"]["terminated"];
        assert_eq!(ended["exitCode"], code, "{name}");
        assert_eq!(ended["reason"], if code == 0 { "Completed" } else { "Error" }, "{name}");
    }
}

#[test]
fn a_container_whose_program_does_not_exist_says_so() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("missing", "Never", "x").replace("[sh, -c, \"x\"]", "[/no/such/program]"));
    let pod = cluster.wait_pod("missing", "Failed", |pod| phase(pod) == "Failed");
    let ended = &container(&pod, "main")["state"]["terminated"];
    assert_eq!(ended["exitCode"], 128, "{ended:#?}");
    assert!(ended["message"].as_str().unwrap().contains("/no/such/program"), "{ended:#?}");
}

#[test]
fn a_missing_image_is_reported_and_the_pod_can_be_deleted() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("local", "Always", "sleep 1").replace("busybox:latest", "nothing:here"));
    let pod = cluster.wait_pod("local", "ErrImageNeverPull", |pod| {
        container(pod, "main")["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    });
    assert_eq!(phase(&pod), "Pending");
    cluster
        .apply(&sleeper("remote", "Always", "sleep 1").replace("localhost/busybox:latest", "127.0.0.1:9/no/image:v1"));
    cluster.wait_pod("remote", "in image back-off", |pod| {
        let reason = container(pod, "main")["state"]["waiting"]["reason"].as_str().unwrap_or_default().to_owned();
        reason == "ErrImagePull" || reason == "ImagePullBackOff"
    });
    cluster.ok(&["delete", "pods", "--all"]);
}

#[test]
fn a_pod_whose_empty_dir_outgrows_its_limit_is_evicted() {
    let cluster = Cluster::start(1);
    let volume = "volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]\n  containers:\n  - volumeMounts: [{name: v, mountPath: /v}]\n    name: main";
    let pod = sleeper("full", "Always", "head -c 3000000 /dev/zero > /v/file; sleep 7001");
    cluster.apply(&pod.replace("containers:\n  - name: main", volume));
    let pod = cluster.wait_pod("full", "Failed", |pod| phase(pod) == "Failed");
    assert_eq!(pod["status"]["reason"], "Evicted");
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\".";
    assert!(pod["status"]["message"].as_str().unwrap().starts_with(message.trim_end()), "{:#?}", pod["status"]);
    cluster.wait_until("the eviction is told", || cluster.reasons("full").contains(&"Evicted".to_owned()));
}

#[test]
fn a_pod_whose_container_writes_more_than_its_limit_is_evicted() {
    let cluster = Cluster::start(1);
    let example = include_str!("../../examples/disk-limit.yaml");
    cluster.apply(example);
    cluster.apply(&example.replace("name: disk-limit", "name: modest").replace("20m", "2m"));
    let pod = cluster.wait_pod("disk-limit", "Failed", |pod| phase(pod) == "Failed");
    assert_eq!(pod["status"]["reason"], "Evicted");
    let message = pod["status"]["message"].as_str().unwrap();
    let expected = "Container main exceeded its local ephemeral storage limit \"5Mi\". It has written 20";
    assert!(message.starts_with(expected), "{message}");
    cluster.wait_until("the eviction is told", || cluster.reasons("disk-limit").contains(&"Evicted".to_owned()));
    cluster.wait_until("nothing of it runs", || cluster.container_pids("infinity").len() == 1);
    cluster.wait_running("modest");
}
