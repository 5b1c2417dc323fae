//! Networks that CNI plugins make: Debian's, and a script that fails where it is told to.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use podbus_common_cri::runtime::*;
use podbus_test_support::program::install;

use super::host::{Host, namespace, on_host, pod, until};

/// Starts the daemon again with plugins of ours.
pub(crate) async fn with_fakes(host: &mut Host) {
    install_fakes(host);
    with_conf(host, FAKE).await;
}

/// Starts the daemon again with this configuration.
async fn with_conf(host: &mut Host, conf: &str) {
    fs::create_dir_all(host.path("cni")).unwrap();
    fs::write(host.path("cni/10-test.conflist"), conf).unwrap();
    host.kill_daemon();
    host.run_daemon().await;
}

/// Plugins `a` and `b`, which write down what they are asked for and what they have given, and fail where a file
/// `fail-VERB-NAME` is, or what is to be a namespace is none.
fn install_fakes(host: &Host) {
    let dir = host.path("cni-bin");
    fs::create_dir_all(&dir).unwrap();
    for name in ["a", "b"] {
        let script = format!(
            r#"#!/bin/sh
d={}
cat >$d/input-$CNI_COMMAND-{name}
echo $CNI_COMMAND {name} >>$d/calls
if [ -e $d/fail-$CNI_COMMAND-{name} ]; then echo '{{"code": 100, "msg": "not today"}}'; exit 1; fi
case $CNI_COMMAND in ADD | DEL) [ -z "$CNI_NETNS" ] || nsenter --net="$CNI_NETNS" true || exit 1; rm -f $d/lease-$CNI_CONTAINERID-{name} ;; esac
[ $CNI_COMMAND != ADD ] || echo >$d/lease-$CNI_CONTAINERID-{name}
[ $CNI_COMMAND != ADD ] || echo '{{"cniVersion": "1.1.0", "ips": [{{"address": "10.9.0.2/24"}}, {{"address": "fd09::2/64"}}]}}'
"#,
            dir.display()
        );
        let source = host.path("cni-script");
        fs::write(&source, script).unwrap();
        install(&source, &dir.join(name)).unwrap();
    }
}

const FAKE: &str = r#"{"name": "fake", "cniVersion": "1.1.0", "plugins": [
    {"type": "a", "capabilities": {"portMappings": true}}, {"type": "b"}]}"#;

/// What the fakes were asked for since the last time.
fn calls(host: &Host) -> String {
    let path = host.path("cni-bin/calls");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(path);
    text.lines().filter(|line| !line.starts_with("STATUS") && !line.starts_with("GC")).collect::<Vec<_>>().join(", ")
}

async fn network_condition(host: &mut Host) -> RuntimeCondition {
    let status = host.cri.status(StatusRequest { verbose: false }).await.unwrap().into_inner().status.unwrap();
    status.conditions.into_iter().find(|it| it.r#type == "NetworkReady").unwrap()
}

#[test]
fn debians_plugins_give_a_pod_an_address_a_host_port_and_a_way_and_take_them_back_after_a_restart() {
    on_host(|mut host| async move {
        let data = host.path("leases");
        let conf = format!(
            r#"{{"name": "pods", "cniVersion": "1.0.0", "plugins": [
                {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "ipam": {{"type": "host-local",
                  "dataDir": "{}", "ranges": [[{{"subnet": "10.77.0.0/24"}}], [{{"subnet": "fd77::/64"}}]],
                  "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
                {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
            data.display()
        );
        with_conf(&mut host, &conf).await;
        assert!(network_condition(&mut host).await.status);
        let port = PortMapping { container_port: 80, host_port: 8080, ..PortMapping::default() };
        let id = host.run_pod_with(PodSandboxConfig { port_mappings: vec![port], ..pod("web") }).await;
        let network = host.pod_status(&id).await.network.unwrap();
        assert_eq!(network.ip, "10.77.0.2");
        assert_eq!(network.additional_ips[0].ip, "fd77::2");
        let seen =
            host.output(&id, "a", "ip -o addr show eth0; ping -c1 -W5 10.77.0.1 >/dev/null && echo reached").await;
        assert!(seen.contains("10.77.0.2/24") && seen.contains("fd77::2/64") && seen.contains("reached"), "{seen}");
        assert!(data.join("pods/10.77.0.2").exists());

        host.kill_daemon();
        host.run_daemon().await;
        host.remove_pod(&id).await;
        assert!(!data.join("pods/10.77.0.2").exists(), "the address is still taken");
        assert_eq!(host.attachments(), [] as [PathBuf; 0]);
        assert!(!host.links().contains("veth"), "{}", host.links());
        host
    });
}

#[test]
fn a_failed_add_is_undone_in_reverse_and_told_in_the_plugins_words() {
    on_host(|mut host| async move {
        install_fakes(&host);
        with_conf(&mut host, FAKE).await;
        for (failing, expected) in [("a", "ADD a, DEL b, DEL a"), ("b", "ADD a, ADD b, DEL b, DEL a")] {
            let file = host.path(&format!("cni-bin/fail-ADD-{failing}"));
            fs::write(&file, "").unwrap();
            let request = RunPodSandboxRequest { config: Some(pod("web")), ..Default::default() };
            let error = host.cri.run_pod_sandbox(request).await.unwrap_err();
            assert_eq!(error.message(), format!("the CNI plugin {failing} refused ADD: not today"));
            assert_eq!(calls(&host), expected);
            assert_eq!(host.attachments(), [] as [PathBuf; 0]);
            fs::remove_file(file).unwrap();
        }
        let port = PortMapping { container_port: 80, host_port: 8080, ..PortMapping::default() };
        let id = host.run_pod_with(PodSandboxConfig { port_mappings: vec![port], ..pod("web") }).await;
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&fs::read(host.path(&format!("cni-bin/input-{name}"))).unwrap()).unwrap()
        };
        assert_eq!(read("ADD-a")["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        assert!(read("ADD-a")["prevResult"].is_null() && read("ADD-b")["runtimeConfig"].is_null());
        assert_eq!(read("ADD-b")["prevResult"]["ips"][1]["address"], "fd09::2/64");
        host.remove_pod(&id).await;
        host
    });
}

#[test]
fn a_pod_whose_shim_was_made_in_advance_has_the_network_that_plugins_made_for_it() {
    on_host(|mut host| async move {
        with_fakes(&mut host).await;
        until(async || {
            let made = host.spares();
            let pod = host.run_pod("web").await;
            let path = format!("/run/podbus-{}/netns/{pod}", host.instance);
            let mounted = fs::metadata(path).unwrap().ino();
            let pause = host.pause_pid(&pod).await;
            assert_eq!(namespace(pause, "net"), format!("net:[{mounted}]"));
            // One that was not ready yet is of no pod.
            let is_of_spare = host.shims().iter().any(|shim| made.contains(shim));
            host.remove_pod(&pod).await;
            is_of_spare.then_some(()).ok_or("no pod has a shim that was made in advance")
        })
        .await;
        host
    });
}

#[test]
fn a_refused_del_keeps_the_pod_until_it_works_and_what_a_killed_daemon_left_is_undone() {
    on_host(|mut host| async move {
        install_fakes(&host);
        with_conf(&mut host, FAKE).await;
        let id = host.run_pod("web").await;
        assert_eq!(calls(&host), "ADD a, ADD b");
        fs::write(host.path("cni-bin/fail-DEL-b"), "").unwrap();
        let request = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        let error = host.cri.stop_pod_sandbox(request.clone()).await.unwrap_err();
        assert_eq!(error.message(), "the CNI plugin b refused DEL: not today");
        fs::remove_file(host.path("cni-bin/fail-DEL-b")).unwrap();
        calls(&host);
        host.cri.stop_pod_sandbox(request.clone()).await.unwrap();
        host.cri.stop_pod_sandbox(request).await.unwrap();
        assert_eq!(calls(&host), "DEL b, DEL a");
        host.remove_pod(&id).await;

        // As a daemon leaves it that is killed between ADD and the record.
        let id = host.run_pod("web").await;
        let cached = fs::read(host.path(&format!("state/cni/{id}.json"))).unwrap();
        host.remove_pod(&id).await;
        fs::write(host.path(&format!("state/cni/{id}.json")), cached).unwrap();
        calls(&host);
        host.kill_daemon();
        host.run_daemon().await;
        assert_eq!(calls(&host), "DEL b, DEL a");
        assert_eq!(host.attachments(), [] as [PathBuf; 0]);
        host
    });
}

#[test]
fn the_network_is_not_ready_while_there_is_no_configuration_no_plugin_or_one_says_so() {
    on_host(|mut host| async move {
        with_conf(&mut host, FAKE).await;
        let condition = network_condition(&mut host).await;
        assert!(!condition.status && condition.message.starts_with("the CNI plugin a is in none of"), "{condition:?}");
        install_fakes(&host);
        assert!(network_condition(&mut host).await.status);
        fs::write(host.path("cni-bin/fail-STATUS-b"), "").unwrap();
        assert_eq!(network_condition(&mut host).await.message, "the CNI plugin b refused STATUS: not today");
        fs::remove_file(host.path("cni/10-test.conflist")).unwrap();
        let condition = network_condition(&mut host).await;
        assert!(condition.message.starts_with("no CNI configuration in"), "{condition:?}");
        host
    });
}
