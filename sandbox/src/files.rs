//! The files that a runtime writes for a pod: `resolv.conf`, `hosts`, `hostname`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;

use podbus_common_cri::runtime::DnsConfig;

use crate::process::Invalid;

/// Where systemd-resolved keeps the servers that its stub on loopback forwards to.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// Writes all three into `dir`, `hostname` last.
pub(crate) fn write(dir: &Path, dns: Option<&DnsConfig>, hostname: &str, ip: &str) -> io::Result<()> {
    let resolv = match dns {
        Some(dns) => resolv_conf(dns),
        None => host_resolv_conf(
            &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            std::fs::read_to_string(UPSTREAM).ok().as_deref(),
        ),
    };
    write_empty(&dir.join("resolv.conf"), &resolv)?;
    write_empty(&dir.join("hosts"), &hosts(hostname, ip))?;
    write_empty(&dir.join("hostname"), &format!("{hostname}\n"))
}

/// Whether [`write()`] has come to its end.
pub(crate) fn are_written(dir: &Path) -> bool {
    dir.join("hostname").metadata().is_ok_and(|it| it.len() > 0)
}

/// Writes a file that is empty or not there. It is not truncated: ext4 starts to write one that was to the disk at once.
fn write_empty(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)?.write_all(text.as_bytes())
}

/// Makes all three, empty: to write them later is cheaper than to make them.
pub(crate) fn reserve(dir: &Path) -> io::Result<()> {
    ["resolv.conf", "hosts", "hostname"].iter().try_for_each(|name| std::fs::write(dir.join(name), ""))
}

/// Each word of a request stays a word: what has a space or a line's end in it would be read as something else.
pub(crate) fn check(dns: &DnsConfig) -> Result<(), Invalid> {
    let words = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
    match words.into_iter().find(|word| word.is_empty() || word.contains(char::is_whitespace)) {
        Some(word) => Err(Invalid(format!("the DNS config has {word:?}, which is not one word"))),
        None => Ok(()),
    }
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

/// The node's own file. A server on loopback is the node's, not the pod's: then the file of its upstream counts, and
/// without one such lines are left out.
fn host_resolv_conf(own: &str, upstream: Option<&str>) -> String {
    if !own.lines().any(is_loopback_server) {
        return own.to_owned();
    }
    let text = upstream.unwrap_or(own);
    text.lines().filter(|line| !is_loopback_server(line)).map(|line| format!("{line}\n")).collect()
}

fn is_loopback_server(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("nameserver")
        && words
            .next()
            .and_then(|address| address.split('%').next()?.parse::<IpAddr>().ok())
            .is_some_and(|address| address.is_loopback())
}

/// As the kubelet writes it; a pod on the node's network has no address of its own.
fn hosts(hostname: &str, ip: &str) -> String {
    let mut text = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"
    .to_owned();
    let address = if ip.is_empty() { "127.0.1.1" } else { ip };
    text += &format!("{address}\t{hostname}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_loopback_is_replaced_by_the_upstream() {
        let own = "nameserver 127.0.0.53\noptions edns0\nsearch lan\n";
        assert_eq!(
            host_resolv_conf(own, Some("nameserver 10.0.0.1\nsearch lan\n")),
            "nameserver 10.0.0.1\nsearch lan\n"
        );
        assert_eq!(host_resolv_conf(own, None), "options edns0\nsearch lan\n");
        assert_eq!(host_resolv_conf("nameserver 9.9.9.9\n", Some("x")), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn a_dns_config_is_written_as_it_is() {
        let dns =
            DnsConfig { servers: vec!["1.1.1.1".into()], searches: vec!["a".into(), "b".into()], options: vec![] };
        assert_eq!(resolv_conf(&dns), "search a b\nnameserver 1.1.1.1\n");
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
