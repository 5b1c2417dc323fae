//! A range for the pods of this machine that nothing else here uses.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A cluster gets a /16, each of its nodes a /24 of it.
const CLUSTER_PREFIX: u8 = 16;
const NODE_PREFIX: u8 = 24;

/// The destinations of /proc/net/route, but for the default route and for links that `ours` knows.
pub(crate) fn routes(table: &str, ours: impl Fn(&str) -> bool) -> Vec<Ipv4Net> {
    table.lines().skip(1).filter_map(|line| route(line, &ours)).collect()
}

fn route(line: &str, ours: impl Fn(&str) -> bool) -> Option<Ipv4Net> {
    let mut fields = line.split_ascii_whitespace();
    let link = fields.next()?;
    // The kernel prints the big-endian address as a number of this machine's byte order.
    let mut address = |at: usize| Some(Ipv4Addr::from(u32::from_str_radix(fields.nth(at)?, 16).ok()?.to_ne_bytes()));
    let (destination, mask) = (address(0)?, address(5)?);
    let net = Ipv4Net::with_netmask(destination, mask).ok()?;
    (net.prefix_len() > 0 && !ours(link)).then_some(net)
}

/// The nameservers of a resolv.conf: what pods must reach is not to be hidden by their own range.
pub(crate) fn nameservers(resolv_conf: &str) -> Vec<Ipv4Net> {
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|rest| rest.trim().parse::<Ipv4Addr>().ok()).map(Ipv4Net::from).collect()
}

/// The first private /16 that overlaps nothing in `taken`, beginning at a place that `seed` chooses.
pub(crate) fn choose(seed: u8, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    // From 10.64 to 10.191 first: people and VPNs like the two ends of 10.0.0.0/8.
    let middle = (0..128).map(|i| (10, 64 + seed.wrapping_add(i) % 128));
    let ends = (0..64).chain(192..=255).map(|second| (10, second));
    let others = (16..32).map(|second| (172, second));
    middle
        .chain(ends)
        .chain(others)
        .filter_map(|(first, second)| Ipv4Net::new(Ipv4Addr::new(first, second, 0, 0), CLUSTER_PREFIX).ok())
        .find(|candidate| is_free(*candidate, taken))
}

/// Whether `range` overlaps nothing in `taken`.
pub(crate) fn is_free(range: Ipv4Net, taken: &[Ipv4Net]) -> bool {
    taken.iter().all(|net| !net.contains(&range.network()) && !range.contains(&net.network()))
}

/// The range of the node with this number, from 1.
pub(crate) fn of_node(cluster: Ipv4Net, number: u16) -> Option<Ipv4Net> {
    cluster.subnets(NODE_PREFIX).ok()?.nth(usize::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
pb-abcde01\t0001550A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_routes_of_the_host_are_read_without_the_default_route_and_our_own() {
        assert_eq!(routes(ROUTES, |_| false), [net("192.168.0.0/24"), net("10.85.1.0/24")]);
        assert_eq!(routes(ROUTES, |link| link.starts_with("pb-abcde")), [net("192.168.0.0/24")]);
    }

    #[test]
    fn a_range_overlaps_no_route() {
        let first = choose(7, &[]).unwrap();
        assert_eq!(first, net("10.71.0.0/16"));
        assert_eq!(choose(7, &[net("10.71.9.0/24")]).unwrap(), net("10.72.0.0/16"));
        assert_eq!(choose(7, &[net("10.0.0.0/8")]).unwrap(), net("172.16.0.0/16"));
        assert_eq!(choose(7, &[net("0.0.0.0/0")]), None);
    }

    #[test]
    fn each_node_has_a_range_of_its_own_within_the_clusters() {
        assert_eq!(of_node(net("10.71.0.0/16"), 1), Some(net("10.71.1.0/24")));
        assert_eq!(of_node(net("10.71.0.0/16"), 99), Some(net("10.71.99.0/24")));
    }

    #[test]
    fn nameservers_are_read_and_ipv6_is_passed_over() {
        assert_eq!(nameservers("# dns\nnameserver 10.0.0.2\nnameserver ::1\nsearch a\n"), [net("10.0.0.2/32")]);
    }
}
