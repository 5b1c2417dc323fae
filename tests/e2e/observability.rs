//! What each service of a real cluster shows of itself: it is alive and ready, and what happens is counted.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::cluster::Cluster;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: watched}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost/busybox:latest
    command: [sleep, "1000"]
    resources: {requests: {cpu: 10m}}
"#;

/// Status and body of `path` at the metrics socket of a service; `None`: it does not answer.
fn get(cluster: &Cluster, service: &str, path: &str) -> Option<(u16, String)> {
    // An instance's name is the cluster's with two digits.
    let name = &cluster.instances[0][..cluster.instances[0].len() - 2];
    let mut stream = UnixStream::connect(format!("/run/podbus/{name}/{service}.metrics")).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: podbus\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The value of the sample that begins with `sample`; 0 where there is none, and no number where nobody answers: no
/// condition holds for that.
fn value(cluster: &Cluster, service: &str, path: &str, sample: &str) -> f64 {
    let Some((200, text)) = get(cluster, service, path) else { return f64::NAN };
    let line = text.lines().find(|line| line.starts_with(sample));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn each_service_is_ready_and_counts_what_happens() {
    let cluster = Cluster::start(1);
    for service in ["scheduler", "node-1.agent", "node-1.sandbox"] {
        assert_eq!(get(&cluster, service, "/livez").unwrap().1, "ok", "{service}");
        cluster.wait_until(&format!("{service} is ready"), || {
            get(&cluster, service, "/readyz").is_some_and(|(status, _)| status == 200)
        });
        assert!(value(&cluster, service, "/metrics", "process_resident_memory_bytes ") > 0.0, "{service}");
    }
    let counted = [
        ("scheduler", "scheduler_schedule_attempts_total{result=\"scheduled\"}"),
        ("scheduler", "scheduler_scheduling_attempt_duration_seconds_count{result=\"scheduled\"}"),
        ("scheduler", "scheduler_pod_scheduling_sli_duration_seconds_count"),
        ("scheduler", "podbus_scheduler_request_duration_seconds_count{resource=\"pods\",verb=\"apply\",code=\"2xx\"}"),
        ("scheduler", "podbus_scheduler_store_write_duration_seconds_count"),
        ("node-1.agent", "kubelet_running_pods"),
        ("node-1.agent", "kubelet_running_containers{container_state=\"running\"}"),
        ("node-1.agent", "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"}"),
        ("node-1.agent", "kubelet_pod_start_duration_seconds_count"),
        ("node-1.agent", "podbus_agent_status_duration_seconds_count"),
        ("node-1.sandbox", "podbus_sandbox_sandboxes{state=\"ready\"}"),
        ("node-1.sandbox", "podbus_sandbox_operation_duration_seconds_count{operation=\"RunPodSandbox\"}"),
    ];
    let before = counted.map(|(service, sample)| value(&cluster, service, "/metrics", sample));
    assert!(before.iter().all(|value| value.is_finite()), "{before:?}");
    cluster.apply(POD);
    let pod = cluster.wait_running("watched");
    for ((service, sample), before) in counted.into_iter().zip(before) {
        cluster.wait_until(&format!("{service} counts {sample}"), || {
            value(&cluster, service, "/metrics", sample) > before
        });
    }

    // What boards for Kubernetes query: of containers from the node, of pods from the leader.
    let memory = get(&cluster, "node-1.agent", "/metrics/cadvisor").unwrap().1;
    let of_container = |line: &&str| {
        line.starts_with("container_memory_working_set_bytes{")
            && line.contains("container=\"main\"")
            && line.contains("pod=\"watched\"")
            && line.contains("namespace=\"default\"")
    };
    assert!(memory.lines().any(|line| of_container(&line)), "{memory}");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let own = format!("namespace=\"default\",pod=\"watched\",uid=\"{uid}\"");
    let requests = "node=\"node-1\",container=\"main\",resource=\"cpu\",unit=\"core\"";
    for (sample, expected) in [
        (format!("kube_pod_status_phase{{{own},phase=\"Running\"}}"), 1.0),
        (format!("kube_pod_container_resource_requests{{{own},{requests}}}"), 0.01),
    ] {
        cluster.wait_until(&format!("{sample} is {expected}"), || {
            (value(&cluster, "scheduler", "/metrics/kube-state", &sample) - expected).abs() < 1e-9
        });
    }

    cluster.ok(&["delete", "pod", "watched"]);
    cluster.wait_until("nothing runs any more", || {
        value(&cluster, "node-1.agent", "/metrics", "kubelet_running_pods") < 1.0
            && value(&cluster, "node-1.sandbox", "/metrics", "podbus_sandbox_sandboxes{state=\"ready\"}") < 1.0
    });
}
