//! What pods and containers are told to use.

use std::collections::HashMap;

use podbus_common_cri::runtime::*;

use super::host::{limited, on_host, wait_until};

#[test]
fn each_announced_metric_of_a_running_container_has_as_many_values_as_labels() {
    on_host(|mut host| async move {
        let pod = host.run_pod("web").await;
        let resources = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            memory_limit_in_bytes: 64 << 20,
            ..LinuxContainerResources::default()
        };
        let script = "echo hi > /tmp/f; sleep 1000";
        let id = host.run_with(&pod, limited("a", script, resources)).await;
        let file = host.path(&format!("state/sandboxes/{pod}/c/{id}/upper/tmp/f"));
        wait_until("the file is written", || file.metadata().is_ok_and(|file| file.len() > 0)).await;
        let descriptors = host.cri.list_metric_descriptors(ListMetricDescriptorsRequest {}).await.unwrap().into_inner();
        let keys: HashMap<_, _> =
            descriptors.descriptors.iter().map(|it| (it.name.clone(), it.label_keys.len())).collect();
        let listed = host.cri.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await.unwrap().into_inner();
        let [of_pod] = listed.pod_metrics.try_into().unwrap();
        assert_eq!(of_pod.pod_sandbox_id, pod);
        let [of_container] = <[ContainerMetrics; 1]>::try_from(of_pod.container_metrics).unwrap();
        assert_eq!(of_container.container_id, id);
        let all: Vec<_> = of_pod.metrics.into_iter().chain(of_container.metrics).collect();
        for metric in &all {
            assert_eq!(metric.label_values.len(), keys[&metric.name], "{metric:?}");
        }
        let value = |name: &str| all.iter().find(|it| it.name == name).and_then(|it| it.value).map(|it| it.value);
        assert_eq!(value("container_spec_memory_limit_bytes"), Some(64 << 20));
        assert_eq!(value("container_spec_cpu_quota"), Some(20_000));
        assert!(value("container_processes").unwrap() >= 1);
        assert!(value("container_memory_usage_bytes").unwrap() > 0);
        assert!(value("container_fs_usage_bytes").unwrap() > 0);
        // What a node may lack: devices that are counted, pressure, huge pages.
        let may_be_absent =
            |name: &str| ["blkio", "_reads_", "_writes_", "pressure", "hugetlb"].iter().any(|it| name.contains(it));
        let absent: Vec<_> = keys.keys().filter(|name| !may_be_absent(name) && value(name).is_none()).collect();
        assert!(absent.is_empty(), "{absent:?}");
        host
    });
}

#[test]
fn stats_tell_the_writable_layer_and_the_network_of_a_pod() {
    on_host(|mut host| async move {
        let pod = host.run_pod("web").await;
        let id = host
            .run(&pod, "a", "dd if=/dev/zero of=/tmp/f bs=1024 count=512 2>/dev/null; touch /tmp/done; sleep 1000")
            .await;
        let upper = host.path(&format!("state/sandboxes/{pod}/c/{id}/upper/tmp/done"));
        wait_until("the file is written", || upper.exists()).await;
        let request = ContainerStatsRequest { container_id: id.clone() };
        let stats = host.cri.container_stats(request).await.unwrap().into_inner().stats.unwrap();
        let layer = stats.writable_layer.unwrap();
        let held = layer.used_bytes.unwrap().value;
        assert!((512 << 10..1 << 20).contains(&held), "{held}");
        assert!(std::path::Path::new(&layer.fs_id.unwrap().mountpoint).is_dir());
        assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);

        let request = PodSandboxStatsRequest { pod_sandbox_id: pod.clone() };
        let linux = host.cri.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
        assert_eq!(linux.network.unwrap().default_interface.unwrap().name, "eth0");
        assert_eq!(linux.containers.len(), 1);
        assert!(linux.process.unwrap().process_count.unwrap().value >= 1);
        host
    });
}

#[test]
fn the_runtime_and_its_pods_describe_themselves_when_asked_in_detail() {
    on_host(|mut host| async move {
        let status = host.cri.status(StatusRequest { verbose: true }).await.unwrap().into_inner();
        assert!(status.info["config"].contains("\"stateDir\""), "{:?}", status.info);
        assert!(status.status.unwrap().conditions.iter().all(|it| it.status));
        let brief = host.cri.status(StatusRequest { verbose: false }).await.unwrap().into_inner();
        assert!(brief.info.is_empty());

        let pod = host.run_pod("web").await;
        let told = LinuxContainerResources { cpu_shares: 512, ..LinuxContainerResources::default() };
        let request =
            UpdatePodSandboxResourcesRequest { pod_sandbox_id: pod.clone(), overhead: None, resources: Some(told) };
        host.cri.update_pod_sandbox_resources(request).await.unwrap();
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
        let info = host.cri.pod_sandbox_status(request).await.unwrap().into_inner().info;
        assert!(info["info"].contains("\"cpuShares\":512"), "{info:?}");

        let id = host.run(&pod, "a", "sleep 1000").await;
        let request = ContainerStatusRequest { container_id: id, verbose: true };
        let info = host.cri.container_status(request).await.unwrap().into_inner().info;
        assert!(info["info"].contains("\"args\"") && info["info"].contains(&pod), "{info:?}");
        host
    });
}
