//! What may stand between pods and the world: nftables itself, and firewalls that drop what is forwarded.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Finding;
use crate::up::cidr;
use crate::up::host::host_ranges;

pub(super) fn examine(root: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if root {
        findings.push(nftables(run("nft", &["list", "tables"]).is_some()));
        findings.push(forwarding(run("iptables", &["-S"]).unwrap_or_default().as_str()));
    }
    findings.extend(managed(
        Path::new("/run/firewalld").exists(),
        &std::fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default(),
    ));
    findings.push(pod_cidr());
    findings
}

/// What the program printed; `None` when there is none or it failed.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn nftables(answers: bool) -> Finding {
    if answers {
        return Finding::good("nftables", "answers");
    }
    Finding::warning(
        "nftables",
        "cannot be asked: pods may not reach beyond this machine",
        "sudo apt-get install nftables; in the kernel: CONFIG_NF_TABLES, CONFIG_NFT_MASQ",
    )
}

/// `rules` is what `iptables -S` prints.
fn forwarding(rules: &str) -> Finding {
    let drops = rules.lines().any(|line| line.trim() == "-P FORWARD DROP");
    let docker = rules.lines().any(|line| line.trim() == "-N DOCKER-USER");
    match (drops, docker) {
        (false, _) => Finding::good("forwarding", "is not dropped by default"),
        (true, true) => {
            Finding::good("forwarding", "docker drops it by default; podbus opens its bridges in DOCKER-USER")
        }
        (true, false) => Finding::warning(
            "forwarding",
            "the chain FORWARD drops by default: pods cannot reach beyond this machine",
            "sudo iptables -I FORWARD -i 'pb-+' -j ACCEPT; sudo iptables -I FORWARD -o 'pb-+' -j ACCEPT",
        ),
    }
}

fn managed(firewalld: bool, ufw_conf: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if firewalld {
        findings.push(Finding::warning(
            "firewalld",
            "runs: it rejects what it does not know, the pods' bridges too",
            "sudo firewall-cmd --zone=trusted --add-source=<pod CIDR>",
        ));
    }
    if ufw_conf.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes")) {
        findings.push(Finding::warning(
            "ufw",
            "is enabled: it drops what is forwarded unless told otherwise",
            "sudo ufw route allow from <pod CIDR>",
        ));
    }
    findings
}

fn pod_cidr() -> Finding {
    match cidr::choose(0, &host_ranges(|link| link.starts_with("pb-"))) {
        Some(range) => Finding::good("pod CIDR", format!("there is room, {range} for one")),
        None => Finding::bad(
            "pod CIDR",
            "the host's routes leave no private /16 for pods",
            "`ip route` lists them; a VPN that takes 10.0.0.0/8 and 172.16.0.0/12 must give up one",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_dropping_forward_chain_is_told_unless_docker_made_it() {
        let verdict = |rules| forwarding(rules).verdict;
        assert_eq!(verdict("-P INPUT DROP\n-P FORWARD ACCEPT\n"), Verdict::Good);
        assert_eq!(verdict("-P FORWARD DROP\n"), Verdict::Warning);
        assert_eq!(verdict("-P FORWARD DROP\n-N DOCKER-USER\n"), Verdict::Good);
    }

    #[test]
    fn firewalls_that_manage_the_host_are_told() {
        assert!(managed(false, "ENABLED=no\n").is_empty());
        assert_eq!(managed(true, "# ufw\nENABLED=yes\n").len(), 2);
    }
}
