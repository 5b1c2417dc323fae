//! Host ports: who reaches a pod by them, and who does not.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use podbus_sandbox::network::{self, Attached, HostPort, Network, Protocol, Used, reserve};
use podbus_test_support::wait::PATIENCE;

use super::{cidr, enter, in_namespace, inside, run, run_inside, world};

/// How long nobody answers a packet that was dropped.
const SILENCE: Duration = Duration::from_millis(500);

fn tcp(host_port: u16) -> HostPort {
    HostPort { protocol: Protocol::Tcp, host_ip: None, host_port, pod_port: 8080 }
}

/// Answers each connection with the caller's address, until the test ends.
fn serve(pod: &Attached) {
    let address = SocketAddr::from((pod.ip, 8080));
    let listener = inside(pod, move || TcpListener::bind(address).unwrap()).join().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let from = stream.peer_addr().unwrap().ip().to_string();
            stream.write_all(from.as_bytes()).unwrap();
        }
    });
}

/// Whom the server saw; `None` where the call was refused.
pub(super) fn call(to: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn call_from(pod: &Attached, to: &'static str) -> Option<String> {
    inside(pod, move || call(to)).join().unwrap()
}

#[test]
fn a_host_port_is_reached_from_the_world_the_node_its_loopback_and_the_pods() {
    in_namespace(|| {
        let world = world();
        let network = Network::open("p1", cidr("10.61.0.0/24"), &[]).unwrap();
        let (pod, other) = (network.attach().unwrap(), network.attach().unwrap());
        let _reserved = reserve(&[tcp(8000)], false).unwrap();
        network.open_ports(pod.ip, &[tcp(8000)]).unwrap();
        serve(&pod);
        let some = |address: &str| Some(address.to_owned());
        assert_eq!(call_from(&world, "192.0.2.1:8000"), some("192.0.2.2"), "the pod sees who calls");
        assert_eq!(call("192.0.2.1:8000"), some("192.0.2.1"));
        assert_eq!(call("127.0.0.1:8000"), some("10.61.0.1"));
        assert_eq!(call("127.0.0.2:8000"), some("10.61.0.1"));
        assert_eq!(call_from(&other, "10.61.0.1:8000"), some("10.61.0.1"));
        assert_eq!(call_from(&pod, "192.0.2.1:8000"), some("10.61.0.1"), "a pod reaches itself");
        assert_eq!(call_from(&world, "192.0.2.1:8001"), None);
        network.release(pod.ip, &pod.veth);
        assert_eq!(call_from(&world, "192.0.2.1:8000"), None);
        assert_eq!(call("127.0.0.1:8000"), None);
        assert!(!run("nft", &["list", "ruleset"]).contains("8000"));
    });
}

#[test]
fn datagrams_take_a_host_port_too() {
    in_namespace(|| {
        let world = world();
        let network = Network::open("p2", cidr("10.62.0.0/24"), &[]).unwrap();
        let pod = network.attach().unwrap();
        let port = HostPort { protocol: Protocol::Udp, host_ip: None, host_port: 5300, pod_port: 53 };
        network.open_ports(pod.ip, &[port]).unwrap();
        let address = (pod.ip, 53);
        let server = inside(&pod, move || UdpSocket::bind(address).unwrap()).join().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = enter(world.netns.try_clone().unwrap(), || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"who?", "192.0.2.1:5300").unwrap();
            let mut answer = [0; 16];
            let (length, from) = socket.recv_from(&mut answer).unwrap();
            (answer[..length].to_vec(), from.to_string())
        });
        let mut question = [0; 16];
        let (length, from) = server.recv_from(&mut question).unwrap();
        assert_eq!(&question[..length], b"who?");
        server.send_to(b"me", from).unwrap();
        assert_eq!(client.join().unwrap(), (b"me".to_vec(), "192.0.2.1:5300".to_owned()));
    });
}

#[test]
fn a_host_port_of_one_address_is_not_there_at_another() {
    in_namespace(|| {
        let world = world();
        let network = Network::open("p3", cidr("10.63.0.0/24"), &[]).unwrap();
        let (near, far) = (network.attach().unwrap(), network.attach().unwrap());
        let on = |host_ip: Ipv4Addr| HostPort { host_ip: Some(host_ip.into()), ..tcp(8000) };
        let (local, public) = (on(Ipv4Addr::LOCALHOST), on([192, 0, 2, 1].into()));
        let _reserved = reserve(&[local, public], false).unwrap();
        network.open_ports(near.ip, &[local]).unwrap();
        network.open_ports(far.ip, &[public]).unwrap();
        serve(&near);
        assert_eq!(call("127.0.0.1:8000"), Some("10.63.0.1".to_owned()));
        assert_eq!(call_from(&world, "192.0.2.1:8000"), None, "nobody serves there");
        serve(&far);
        assert_eq!(call_from(&world, "192.0.2.1:8000"), Some("192.0.2.2".to_owned()));
        let error = reserve(&[on([192, 0, 2, 77].into())], false).unwrap_err();
        assert_eq!(error.to_string(), "cannot take the host port 192.0.2.77:8000 (TCP)");
    });
}

#[test]
fn a_pod_cannot_use_the_way_of_host_ports_to_the_nodes_loopback() {
    in_namespace(|| {
        let network = Network::open("p4", cidr("10.64.0.0/24"), &[]).unwrap();
        let pod = network.attach().unwrap();
        network.open_ports(pod.ip, &[tcp(8000)]).unwrap();
        let routed = || std::fs::read_to_string("/proc/sys/net/ipv4/conf/pb-p4/route_localnet").unwrap();
        assert_eq!(routed(), "1\n");
        let listener = TcpListener::bind("127.0.0.1:7777").unwrap();
        // The pod's root sends packets for 127.0.0.1 to the bridge (CVE-2020-8558).
        inside(&pod, || {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            run("ip", &["route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"]);
            run("ip", &["route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local"]);
            run("ip", &["route", "add", "127.0.0.1/32", "via", "10.64.0.1"]);
            let to = "127.0.0.1:7777".parse().unwrap();
            assert!(TcpStream::connect_timeout(&to, SILENCE).is_err());
        })
        .join()
        .unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err());
        let dropped = run("nft", &["list", "chain", "ip", "podbus-p4", "raw"]);
        assert!(dropped.contains("iifname \"pb-p4\" ip daddr 127.0.0.0/8 drop"), "{dropped}");
        network.release(pod.ip, &pod.veth);
        assert_eq!(routed(), "0\n", "without host ports the kernel itself drops them");
    });
}

#[test]
fn a_host_port_that_is_taken_is_an_error() {
    in_namespace(|| {
        let first = reserve(&[tcp(8000)], true).unwrap();
        assert_eq!(first.len(), 2);
        let error = reserve(&[tcp(8000)], false).unwrap_err();
        assert_eq!(error.to_string(), "cannot take the host port 0.0.0.0:8000 (TCP)");
        assert!(TcpListener::bind("[::1]:8000").is_err(), "a program of the node does not get it either");
        assert_eq!(reserve(&[HostPort { protocol: Protocol::Udp, ..tcp(8000) }], true).unwrap().len(), 2);
        drop(first);
        assert!(first_fd_is_open(&reserve(&[tcp(8000)], true).unwrap()));
    });
}

fn first_fd_is_open(fds: &[std::os::fd::OwnedFd]) -> bool {
    fds.iter().all(|fd| nix::fcntl::fcntl(fd.as_fd(), nix::fcntl::FcntlArg::F_GETFD).is_ok())
}

#[test]
fn host_ports_are_there_again_after_a_restart_and_after_a_flush_and_are_never_rules() {
    in_namespace(|| {
        let network = Network::open("p6", cidr("10.66.0.0/24"), &[]).unwrap();
        let pods: Vec<Attached> = (0..3).map(|_| network.attach().unwrap()).collect();
        let rules = || run("nft", &["list", "ruleset"]).lines().filter(|line| !line.contains("tcp . ")).count();
        let before = rules();
        let ports: Vec<HostPort> = (0..300).map(|at| tcp(9000 + at)).collect();
        network.open_ports(pods[0].ip, &ports).unwrap();
        network.open_ports(pods[1].ip, &[tcp(8001)]).unwrap();
        assert!(rules() <= before + 1, "elements and no rules:\n{}", run("nft", &["list", "ruleset"]));
        serve(&pods[0]);
        drop(network);
        let used = Used { ip: pods[0].ip, ports };
        let network = Network::open("p6", cidr("10.66.0.0/24"), &[used]).unwrap();
        assert_eq!(call("127.0.0.1:9299"), Some("10.66.0.1".to_owned()));
        assert!(!run("nft", &["list", "ruleset"]).contains("8001"), "what no record names is gone");
        for damage in ["flush ruleset", "flush chain ip podbus-p6 ports"] {
            run("nft", &[damage]);
            assert_eq!(call("127.0.0.1:9000"), None);
            assert!(network.repair().unwrap());
            assert_eq!(call("127.0.0.1:9000"), Some("10.66.0.1".to_owned()), "{damage}");
        }
        network::destroy("p6").unwrap();
    });
}

#[test]
fn pods_with_two_ranges_have_an_address_of_each_and_both_lead_out() {
    in_namespace(|| {
        let ranges: network::Ranges = "10.67.0.0/24,fd00:67::/64".parse().unwrap();
        let network = Network::open("p7", ranges, &[]).unwrap();
        let (pod, other) = (network.attach().unwrap(), network.attach().unwrap());
        assert_eq!(pod.second_ip, Some("fd00:67::2".parse().unwrap()));
        let addresses = run_inside(&pod, "ip", &["-o", "addr"]);
        assert!(
            addresses.contains("inet6 fd00:67::2/64 scope global") && !addresses.contains("tentative"),
            "{addresses}"
        );
        let routes = run_inside(&pod, "ip", &["-6", "route"]);
        assert!(routes.contains("default via fd00:67::1 dev eth0"), "{routes}");
        let address: SocketAddr = "[fd00:67::2]:8080".parse().unwrap();
        let listener = inside(&pod, move || TcpListener::bind(address).unwrap()).join().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let from = stream.peer_addr().unwrap().ip().to_string();
                stream.write_all(from.as_bytes()).unwrap();
            }
        });
        assert_eq!(call_from(&other, "[fd00:67::2]:8080"), Some("fd00:67::3".to_owned()));
        // The world beyond the node sees the node.
        let world = world();
        run("ip", &["addr", "add", "2001:db8::1/64", "dev", "uplink", "nodad"]);
        run_inside(&world, "ip", &["addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad"]);
        let listener = inside(&world, || TcpListener::bind("[2001:db8::2]:8080").unwrap()).join().unwrap();
        let caller = inside(&pod, || {
            drop(TcpStream::connect_timeout(&"[2001:db8::2]:8080".parse().unwrap(), PATIENCE).unwrap());
        });
        assert_eq!(listener.accept().unwrap().1.ip().to_string(), "2001:db8::1");
        caller.join().unwrap();
        // And reaches it by a host port.
        network.open_ports(pod.ip, &[tcp(8000)]).unwrap();
        assert_eq!(call_from(&world, "[2001:db8::1]:8000"), Some("2001:db8::2".to_owned()));
        assert_eq!(call_from(&pod, "[fd00:67::1]:8000"), Some("fd00:67::1".to_owned()), "a pod reaches itself");
        network::destroy("p7").unwrap();
        assert!(!run("nft", &["list", "tables"]).contains("podbus-p7"));
    });
}
