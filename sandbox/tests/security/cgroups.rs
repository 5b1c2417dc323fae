//! Limits: what is asked for is what the kernel has, and nothing escapes it.

use std::path::PathBuf;

use podbus_common_cri::runtime::*;

use crate::runtime::host::{Host, limited, on_host, wait_until};

/// A container's cgroup with this file in it.
fn dir(host: &Host, id: &str, file: &str) -> PathBuf {
    let pods = host.cgroups().into_iter();
    pods.map(|pod| pod.join(id)).find(|dir| dir.join(file).exists()).unwrap()
}

fn read(host: &Host, id: &str, file: &str) -> String {
    std::fs::read_to_string(dir(host, id, file).join(file)).unwrap().trim().to_owned()
}

fn is_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Memory in bytes, CPU quota and period in microseconds, shares: as the tree of this machine has them.
fn limits(host: &Host, id: &str) -> [String; 4] {
    if is_v2() {
        let cpu = read(host, id, "cpu.max");
        let (quota, period) = cpu.split_once(' ').unwrap();
        [read(host, id, "memory.max"), quota.to_owned(), period.to_owned(), read(host, id, "cpu.weight")]
    } else {
        ["memory.limit_in_bytes", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"]
            .map(|file| read(host, id, file))
    }
}

#[test]
fn a_fork_bomb_ends_at_the_limit_and_its_neighbour_lives() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let neighbour = host.run(&sandbox, "neighbour", "sleep 1000").await;
        let script = "while [ ! -e /go ]; do sleep 0.01; done; bomb() { bomb | bomb & }; bomb; exec sleep 1000";
        let bomb = host.run(&sandbox, "bomb", script).await;
        assert_eq!(read(&host, &bomb, "pids.max"), "4096");
        let pids = dir(&host, &bomb, "pids.max");
        std::fs::write(pids.join("pids.max"), "40").unwrap(); // enough to show it, and cheap
        host.exec(&bomb, "touch /go").await;
        let hits = || std::fs::read_to_string(pids.join("pids.events")).unwrap() != "max 0\n";
        wait_until("the bomb has met its limit", hits).await;
        assert_eq!(host.exec(&neighbour, "echo alive").await.0, "alive\n");
        host.stop(&bomb, 0).await;
        assert_eq!(host.status(&bomb).await.exit_code, 137);
        host
    });
}

#[test]
fn limits_are_written_at_the_start_and_changed_later_all_or_none() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let resources = LinuxContainerResources {
            cpu_period: 50_000,
            cpu_quota: 25_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            cpuset_cpus: "0".into(),
            oom_score_adj: 500,
            ..Default::default()
        };
        let id = host.run_with(&sandbox, limited("a", "sleep 1000", resources)).await;
        let pid = host.pid(&id).await;
        let score = || std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert_eq!(score(), "500\n");
        let shares = if is_v2() { "20" } else { "512" };
        assert_eq!(limits(&host, &id), [(64 << 20).to_string().as_str(), "25000", "50000", shares]);
        let set = host.exec(&id, "grep Cpus_allowed_list /proc/self/status").await.0;
        assert_eq!(set, "Cpus_allowed_list:\t0\n");

        let update = |change: LinuxContainerResources| UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(change),
            ..Default::default()
        };
        let grow = LinuxContainerResources {
            memory_limit_in_bytes: 128 << 20,
            cpu_quota: -1,
            oom_score_adj: 600,
            ..Default::default()
        };
        host.cri.update_container_resources(update(grow)).await.unwrap();
        let [memory, quota, _, _] = limits(&host, &id);
        assert_eq!((memory, quota.as_str()), ((128 << 20).to_string(), if is_v2() { "max" } else { "-1" }));
        assert_eq!(score(), "600\n");
        // The kernel refuses the last of these: then none holds.
        let half = LinuxContainerResources { cpu_shares: 100, cpuset_cpus: "4000".into(), ..Default::default() };
        host.cri.update_container_resources(update(half)).await.unwrap_err();
        assert_eq!(limits(&host, &id)[3], shares);
        let nonsense = LinuxContainerResources { oom_score_adj: 5000, ..Default::default() };
        let refused = host.cri.update_container_resources(update(nonsense)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let shown = host.status(&id).await.resources.unwrap().linux.unwrap();
        assert_eq!((shown.cpu_shares, shown.memory_limit_in_bytes, shown.cpuset_cpus.as_str()), (512, 128 << 20, "0"));
        host
    });
}

#[test]
fn limits_that_change_before_the_start_hold_though_the_cgroup_is_made_before_it() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let resources = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
        let ids = [
            host.create(&sandbox, limited("a", "sleep 1000", resources.clone())).await,
            host.create(&sandbox, limited("never", "true", resources)).await,
        ];
        let file = if is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
        let memory = |id: &str| {
            let mut found = host.cgroups().into_iter().map(|pod| pod.join(id).join(file));
            found.find_map(|file| std::fs::read_to_string(file).ok()).unwrap_or_default().trim().to_owned()
        };
        for id in &ids {
            wait_until("the limit is set before the start", || memory(id) == (64 << 20).to_string()).await;
        }
        let change = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
        let request =
            UpdateContainerResourcesRequest { container_id: ids[0].clone(), linux: Some(change), ..Default::default() };
        host.cri.update_container_resources(request).await.unwrap();
        host.start_container(&ids[0]).await;
        assert_eq!(limits(&host, &ids[0])[0], (96 << 20).to_string());
        host
    });
}

#[test]
fn cpus_can_be_given_to_a_container_that_runs() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let change = LinuxContainerResources { cpuset_cpus: "0".into(), ..Default::default() };
        let request =
            UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(change), ..Default::default() };
        host.cri.update_container_resources(request).await.unwrap();
        let pid = host.pid(&id).await;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        host
    });
}
