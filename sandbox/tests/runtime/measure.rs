//! How long things take: printed, and bounded far above what they should take.

use std::time::{Duration, Instant};

use podbus_common_cri::runtime::{RemovePodSandboxRequest, RunPodSandboxRequest};

use super::host::on_host;

/// Far above what a busy machine in a debug build needs; a hidden wait for RCU or a timeout is above it.
const SLOW: Duration = Duration::from_millis(500);

#[test]
fn a_pod_starts_and_stops_without_hidden_waits() {
    on_host(|mut host| async move {
        let mut rows = [const { Vec::new() }; 4];
        for at in 0..20 {
            let begin = Instant::now();
            let sandbox = host.run_pod(&format!("pod-{at}")).await;
            rows[0].push(begin.elapsed());
            let begin = Instant::now();
            let id = host.run(&sandbox, "a", "exec sleep 1000").await;
            rows[1].push(begin.elapsed());
            let begin = Instant::now();
            host.exec(&id, "true").await;
            rows[2].push(begin.elapsed());
            let begin = Instant::now();
            host.remove_pod(&sandbox).await;
            rows[3].push(begin.elapsed());
        }
        for (name, mut row) in
            ["RunPodSandbox", "Create + StartContainer", "ExecSync", "stop + remove"].into_iter().zip(rows)
        {
            row.sort();
            println!("{name}: p50 {:?}, min {:?}, max {:?}", row[row.len() / 2], row[0], row[row.len() - 1]);
            assert!(row[row.len() / 2] < SLOW, "{name}: {row:?}");
        }
        host
    });
}

#[test]
fn many_pods_at_once_all_start_and_all_go() {
    on_host(|mut host| async move {
        const PODS: u32 = 60;
        let begin = Instant::now();
        let requests: Vec<_> = (0..PODS)
            .map(|at| {
                let mut cri = host.cri.clone();
                let config = super::host::pod(&format!("pod-{at}"));
                tokio::spawn(async move {
                    let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
                    cri.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
                })
            })
            .collect();
        let mut pods = Vec::new();
        for request in requests {
            pods.push(request.await.unwrap());
        }
        println!("{PODS} pods at once: {:?}", begin.elapsed());
        let sum: u64 = host.shims().iter().map(|pid| pss_kib(*pid)).sum();
        println!("PSS of {PODS} shims: {sum} KiB");
        assert!(sum < 200 * u64::from(PODS), "a shim costs more than 200 KiB: {sum} KiB for {PODS}");
        let removals: Vec<_> = pods
            .into_iter()
            .map(|id| {
                let mut cri = host.cri.clone();
                tokio::spawn(async move {
                    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
                })
            })
            .collect();
        for removal in removals {
            removal.await.unwrap();
        }
        host.run_pod("one-more").await;
        host
    });
}

fn pss_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
