//! Host ports of pods, from the request to the port.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use podbus_common_cri::runtime::*;
use podbus_test_support::wait::PATIENCE;

use super::host::{Host, on_host, pod};

fn with_port(name: &str, host_port: i32) -> PodSandboxConfig {
    let mapping = PortMapping { protocol: 0, container_port: 8080, host_port, host_ip: String::new() };
    PodSandboxConfig { port_mappings: vec![mapping], ..pod(name) }
}

/// What the port of the node's loopback answers; `None` where it refuses.
fn answer(host: &Host, port: u16) -> Option<String> {
    std::thread::scope(|scope| {
        let called = scope.spawn(|| {
            host.enter_network();
            let address = ([127, 0, 0, 1], port).into();
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /it HTTP/1.0\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        });
        called.join().unwrap()
    })
}

async fn run(host: &mut Host, config: PodSandboxConfig) -> Result<String, tonic::Status> {
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    Ok(host.cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

const SERVER: &str = "mkdir /srv; echo here > /srv/it; exec httpd -f -p 8080 -h /srv";

#[test]
fn a_host_port_leads_to_its_pod_outlives_the_daemon_and_is_nobody_elses() {
    on_host(|mut host| async move {
        let first = host.run_pod_with(with_port("first", 8000)).await;
        host.run(&first, "web", SERVER).await;
        super::host::wait_until("the port answers", || answer(&host, 8000).is_some_and(|it| it.contains("here"))).await;
        let refused = run(&mut host, with_port("second", 8000)).await.unwrap_err();
        assert!(refused.message().contains("cannot take the host port 0.0.0.0:8000 (TCP)"), "{refused}");
        assert!(refused.message().contains("in use"), "{refused}");
        host.kill_daemon();
        assert!(answer(&host, 8000).is_some_and(|it| it.contains("here")), "without a daemon");
        host.run_daemon().await;
        assert!(answer(&host, 8000).is_some_and(|it| it.contains("here")), "with the next daemon");
        assert!(run(&mut host, with_port("second", 8000)).await.is_err());
        // Stop gives the port back before it answers, as often as anyone likes.
        let mut before = first;
        for round in 0..5 {
            host.cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: before.clone() }).await.unwrap();
            assert_eq!(answer(&host, 8000), None);
            before = host.run_pod_with(with_port(&format!("next{round}"), 8000)).await;
        }
        host
    });
}

#[test]
fn the_dns_config_and_the_hostname_are_what_was_asked_for() {
    on_host(|mut host| async move {
        let dns = DnsConfig {
            servers: vec!["10.10.10.10".into(), "fd00::10".into()],
            searches: vec!["google.com".into(), "svc".into()],
            options: vec!["ndots:8".into()],
        };
        let config = PodSandboxConfig { dns_config: Some(dns), hostname: "test-hostname".into(), ..pod("dns") };
        let sandbox = host.run_pod_with(config).await;
        let shown = host.output(&sandbox, "show", "cat /etc/resolv.conf; hostname; cat /etc/hostname").await;
        let expected = "search google.com svc\nnameserver 10.10.10.10\nnameserver fd00::10\noptions ndots:8\n\
                        test-hostname\ntest-hostname\n";
        assert_eq!(shown, expected);
        let hostile = DnsConfig { servers: vec!["1.1.1.1\nnameserver 6.6.6.6".into()], ..DnsConfig::default() };
        let refused = run(&mut host, PodSandboxConfig { dns_config: Some(hostile), ..pod("hostile") }).await;
        assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument);
        host
    });
}

#[test]
fn a_client_that_announces_a_pod_cidr_changes_nothing_and_the_network_is_ready() {
    on_host(|mut host| async move {
        let network_config = Some(NetworkConfig { pod_cidr: "10.9.0.0/24,fd00::/64".into() });
        let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
        host.cri.update_runtime_config(request).await.unwrap();
        let status = host.cri.status(StatusRequest::default()).await.unwrap().into_inner().status.unwrap();
        assert!(status.conditions.iter().any(|it| it.r#type == "NetworkReady" && it.status), "{status:?}");
        let sandbox = host.run_pod("still").await;
        let ip = host.pod_status(&sandbox).await.network.unwrap().ip;
        assert!(ip.starts_with("10.111.0."), "{ip}");
        host
    });
}
