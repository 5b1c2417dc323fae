//! The pod network on a real kernel, each test in network namespaces of its own. `ip` and `nft` are the oracle.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns, unshare};
use podbus_sandbox::network::{self, Attached, Network, NetworkError, Used};
use podbus_test_support::wait::{PATIENCE, retry_blocking};

mod ports;

fn cidr(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

/// Runs `test` on a thread in a new network namespace, with loopback up.
fn in_namespace<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        run("ip", &["link", "set", "lo", "up"]);
        test()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `work` on a thread inside a pod's namespace.
fn inside<T: Send + 'static>(pod: &Attached, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    let netns = pod.netns.try_clone().unwrap();
    enter(netns, work)
}

fn enter<T: Send + 'static>(netns: OwnedFd, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// A program's output; it runs in the calling thread's namespace.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error} (apt-get install iproute2 nftables)"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

fn run_inside(pod: &Attached, program: &'static str, args: &'static [&'static str]) -> String {
    inside(pod, move || run(program, args)).join().unwrap()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let is_so = retry_blocking(PATIENCE, || condition().then_some(()).ok_or(()));
    is_so.unwrap_or_else(|()| panic!("gave up waiting until {what}"));
}

/// Takes one connection in `server`, made from `client`; returns the address that the server saw.
fn who_calls(server: &Attached, client: &Attached) -> Ipv4Addr {
    let to = SocketAddr::from((server.ip, 8080));
    let listener = inside(server, move || TcpListener::bind(to).unwrap()).join().unwrap();
    let caller =
        inside(client, move || TcpStream::connect_timeout(&to, PATIENCE).unwrap().write_all(b"hello").unwrap());
    let (mut stream, from) = listener.accept().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    caller.join().unwrap();
    assert_eq!(text, "hello");
    match from.ip() {
        std::net::IpAddr::V4(ip) => ip,
        std::net::IpAddr::V6(ip) => panic!("{ip}"),
    }
}

#[test]
fn a_pod_has_loopback_an_address_and_a_way_out() {
    in_namespace(|| {
        let network = Network::open("t1", cidr("10.71.0.0/24"), &[]).unwrap();
        let pod = network.attach().unwrap();
        assert_eq!((pod.ip, pod.prefix_len, pod.gateway), ([10, 71, 0, 2].into(), 24, [10, 71, 0, 1].into()));
        let addresses = run_inside(&pod, "ip", &["-o", "addr"]);
        assert!(addresses.contains("lo    inet 127.0.0.1/8"), "{addresses}");
        assert!(addresses.contains("eth0    inet 10.71.0.2/24 brd 10.71.0.255"), "{addresses}");
        assert!(!addresses.contains("eth0    inet6"), "IPv6 is on: {addresses}");
        for link in [pod.veth.as_str(), "pb-t1"] {
            let path = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n", "{path}");
        }
        let routes = run_inside(&pod, "ip", &["route"]);
        assert!(routes.contains("default via 10.71.0.1 dev eth0"), "{routes}");
        let links = run_inside(&pod, "ip", &["-o", "link"]);
        assert_eq!(links.matches("state UP").count() + links.matches("LOOPBACK,UP").count(), 2, "{links}");
    });
}

#[test]
fn a_node_that_forwards_ipv6_goes_on_believing_routers_where_it_did_and_nowhere_else() {
    in_namespace(|| {
        let path = |link: &str| format!("/proc/sys/net/ipv6/conf/{link}/accept_ra");
        for (link, value) in [("uplink", "1"), ("strict", "0")] {
            run("ip", &["link", "add", link, "type", "veth"]);
            std::fs::write(path(link), value).unwrap();
        }
        let ranges: network::Ranges = "10.73.0.0/24,fd00:73::/64".parse().unwrap();
        let _network = Network::open("t9", ranges, &[]).unwrap();
        let found = ["uplink", "strict", "default"].map(|link| std::fs::read_to_string(path(link)).unwrap());
        assert_eq!(found, ["2\n", "0\n", "1\n"]);
    });
}

#[test]
fn pods_reach_each_other_as_themselves() {
    in_namespace(|| {
        let network = Network::open("t2", cidr("10.72.0.0/24"), &[]).unwrap();
        let (one, two) = (network.attach().unwrap(), network.attach().unwrap());
        assert_eq!(who_calls(&one, &two), two.ip);
        assert_eq!(who_calls(&two, &one), one.ip);
    });
}

/// A namespace beyond the node: the node is 192.0.2.1 and the world 192.0.2.2.
fn world() -> Attached {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sender.send(OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())).unwrap();
    });
    let netns = receiver.recv().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
    run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", &path]);
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "uplink"]);
    run("ip", &["link", "set", "uplink", "mtu", "1400", "up"]);
    run("ip", &["route", "add", "default", "via", "192.0.2.2"]);
    let ip = [192, 0, 2, 2].into();
    let world =
        Attached { netns, ip, prefix_len: 24, second_ip: None, gateway: [192, 0, 2, 1].into(), veth: "uplink".into() };
    run_inside(&world, "ip", &["addr", "add", "192.0.2.2/24", "dev", "eth0"]);
    run_inside(&world, "ip", &["link", "set", "eth0", "up"]);
    world
}

#[test]
fn the_world_sees_the_node_and_not_the_pod() {
    in_namespace(|| {
        let world = world();
        let network = Network::open("t3", cidr("10.73.0.0/24"), &[]).unwrap();
        let pod = network.attach().unwrap();
        assert_eq!(who_calls(&world, &pod), Ipv4Addr::new(192, 0, 2, 1));
        let links = run_inside(&pod, "ip", &["-o", "link"]);
        assert!(links.contains("mtu 1400"), "a pod's MTU is that of the way out: {links}");
    });
}

#[test]
fn dockers_firewall_lets_pods_through_and_keeps_the_users_rules() {
    in_namespace(|| {
        let world = world();
        run(
            "nft",
            &["add table ip filter; add chain ip filter DOCKER-USER; \
            add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
            add rule ip filter FORWARD jump DOCKER-USER; add rule ip filter DOCKER-USER ip saddr 192.0.2.99 drop"],
        );
        let before = run("nft", &["list", "chain", "ip", "filter", "DOCKER-USER"]);
        let network = Network::open("t4", cidr("10.74.0.0/24"), &[]).unwrap();
        let _again = Network::open("t4", cidr("10.74.0.0/24"), &[]).unwrap();
        let rules = run("nft", &["list", "chain", "ip", "filter", "DOCKER-USER"]);
        assert_eq!(rules.matches("pb-t4").count(), 2, "{rules}");
        let pod = network.attach().unwrap();
        assert_eq!(who_calls(&world, &pod), Ipv4Addr::new(192, 0, 2, 1));
        network::destroy("t4").unwrap();
        assert_eq!(run("nft", &["list", "chain", "ip", "filter", "DOCKER-USER"]), before);
    });
}

#[test]
fn rules_that_another_firewall_flushed_are_put_back() {
    in_namespace(|| {
        let world = world();
        let network = Network::open("t11", cidr("10.83.0.0/24"), &[]).unwrap();
        let pod = network.attach().unwrap();
        assert!(!network.repair().unwrap(), "nothing was missing");
        for damage in ["flush ruleset", "flush chain ip podbus-t11 postrouting", "delete table ip podbus-t11"] {
            run("nft", &[damage]);
            assert!(network.repair().unwrap(), "{damage}");
            assert!(!network.repair().unwrap());
            assert_eq!(who_calls(&world, &pod), Ipv4Addr::new(192, 0, 2, 1), "{damage}");
        }
        // Docker that starts after us.
        run(
            "nft",
            &["add table ip filter; add chain ip filter DOCKER-USER; \
            add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
            add rule ip filter FORWARD jump DOCKER-USER"],
        );
        network.repair().unwrap();
        assert_eq!(who_calls(&world, &pod), Ipv4Addr::new(192, 0, 2, 1));
    });
}

#[test]
fn a_pod_cannot_reach_what_listens_on_the_nodes_loopback() {
    in_namespace(|| {
        let network = Network::open("t5", cidr("10.75.0.0/24"), &[]).unwrap();
        let pod = network.attach().unwrap();
        let listener = TcpListener::bind("127.0.0.1:7777").unwrap();
        run_inside(&pod, "ip", &["route", "add", "127.0.0.1/32", "via", "10.75.0.1", "table", "main"]);
        let reached = inside(&pod, || {
            TcpStream::connect_timeout(&"10.75.0.1:7777".parse().unwrap(), Duration::from_millis(300)).is_ok()
        });
        assert!(!reached.join().unwrap());
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err());
    });
}

#[test]
fn opening_again_changes_nothing_and_destroying_leaves_nothing() {
    in_namespace(|| {
        let state = || {
            format!("{}{}{}", run("ip", &["-o", "link"]), run("ip", &["-o", "addr"]), run("nft", &["list", "ruleset"]))
        };
        let before = state();
        let network = Network::open("t6", cidr("10.76.0.0/16"), &[]).unwrap();
        let made = state();
        assert!(made.contains("pb-t6    inet 10.76.0.1/16"), "{made}");
        assert!(made.contains("ip saddr 10.76.0.0/16 ip daddr != 10.76.0.0/16 masquerade"), "{made}");
        let _again = Network::open("t6", cidr("10.76.0.0/16"), &[]).unwrap();
        assert_eq!(state(), made);
        let moved = Network::open("t6", cidr("10.77.0.0/24"), &[]).unwrap();
        let after_move = state();
        assert!(after_move.contains("pb-t6    inet 10.77.0.1/24") && !after_move.contains("10.76."), "{after_move}");
        let _pod = moved.attach().unwrap();
        network::destroy("t6").unwrap();
        assert_eq!(state(), before);
        network::destroy("t6").unwrap();
        drop(network);
    });
}

#[test]
fn two_nodes_of_one_machine_do_not_disturb_each_other() {
    in_namespace(|| {
        let one = Network::open("n1", cidr("10.78.1.0/24"), &[]).unwrap();
        let two = Network::open("n2", cidr("10.78.2.0/24"), &[]).unwrap();
        let (a, b) = (one.attach().unwrap(), two.attach().unwrap());
        assert_ne!(a.veth, b.veth);
        network::destroy("n1").unwrap();
        let third = two.attach().unwrap();
        assert_eq!(who_calls(&b, &third), third.ip);
        let rules = run("nft", &["list", "tables"]);
        assert!(rules.contains("podbus-n2") && !rules.contains("podbus-n1"), "{rules}");
    });
}

#[test]
fn an_address_rests_until_its_veth_is_gone() {
    in_namespace(|| {
        let network = Network::open("t7", cidr("10.79.0.0/30"), &[]).unwrap();
        let pod = network.attach().unwrap();
        network.release(pod.ip, &pod.veth);
        let refused = network.attach();
        assert!(matches!(refused, Err(NetworkError::NoAddress(_))), "the pod's namespace still lives: {refused:?}");
        let (ip, veth) = (pod.ip, pod.veth.clone());
        drop(pod); // the last descriptor: the kernel takes namespace and veth away
        let link = format!("/sys/class/net/{veth}");
        let mut again = None;
        wait_until("the address is free again", || {
            again = network.attach().ok();
            again.is_some()
        });
        assert_eq!(again.map(|pod| pod.ip), Some(ip), "{link}");
    });
}

#[test]
fn a_daemon_that_starts_again_knows_its_pods_and_what_others_left() {
    in_namespace(|| {
        let network = Network::open("t8", cidr("10.80.0.0/29"), &[]).unwrap();
        let (kept, lost) = (network.attach().unwrap(), network.attach().unwrap());
        drop(network);
        let network = Network::open("t8", cidr("10.80.0.0/29"), &[Used { ip: kept.ip, ports: vec![] }]).unwrap();
        let rest: Vec<Attached> = std::iter::from_fn(|| network.attach().ok()).collect();
        let given: Vec<Ipv4Addr> = rest.iter().map(|pod| pod.ip).collect();
        assert_eq!(given.len(), 3, "{given:?}");
        assert!(!given.contains(&kept.ip) && !given.contains(&lost.ip), "{given:?}");
        assert_eq!(who_calls(&kept, &rest[0]), rest[0].ip);
    });
}

#[test]
fn a_hundred_pods_come_and_go_without_a_trace() {
    in_namespace(|| {
        let network = Network::open("t9", cidr("10.81.0.0/24"), &[]).unwrap();
        let links = || run("ip", &["-o", "link"]).lines().count();
        let before = links();
        let started = Instant::now();
        let pods: Vec<Attached> = (0..100).map(|_| network.attach().unwrap()).collect();
        eprintln!("100 pod networks in {:?}", started.elapsed());
        assert_eq!(links(), before + 100);
        for pod in pods {
            network.release(pod.ip, &pod.veth);
        }
        wait_until("all links are gone", || links() == before);
    });
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    in_namespace(|| {
        let error = Network::open("t10", cidr("10.82.0.0/31"), &[]).err().unwrap().to_string();
        assert_eq!(
            error,
            "the pod CIDR 10.82.0.0/31 has no room for a gateway and a pod: its prefix may be at most /30"
        );
        let error = Network::open("much-too-long", cidr("10.82.0.0/24"), &[]).err().unwrap().to_string();
        assert_eq!(error, "the instance name \"much-too-long\" is not 1 to 8 of a-z and 0-9");
        assert_eq!(run("ip", &["-o", "link"]).lines().count(), 1, "nothing was made");
    });
}
