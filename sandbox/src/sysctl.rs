//! Sysctls of a pod: only those that its own namespaces keep from the node.

use std::collections::HashMap;

use crate::process::Invalid;

/// The highest group that the kernel takes in `ping_group_range`.
pub(crate) const GROUP_MAX: u32 = i32::MAX.cast_unsigned();

/// What a pod with a network of its own begins with: any user may take low ports and ping, up to the pod's highest group
/// `group_max`. `path=value`, the path beneath `/proc/sys`.
pub(crate) fn defaults(group_max: u32) -> [String; 2] {
    let groups = format!("net/ipv4/ping_group_range=0 {}", group_max.min(GROUP_MAX));
    ["net/ipv4/ip_unprivileged_port_start=0".to_owned(), groups]
}

/// What a pod asks for, as [`defaults`] has it.
pub(crate) fn requested(
    requested: &HashMap<String, String>,
    own_net: bool,
    own_ipc: bool,
) -> Result<Vec<String>, Invalid> {
    let mut list: Vec<String> = Vec::new();
    let mut names: Vec<_> = requested.iter().collect();
    names.sort();
    for (name, value) in names {
        let path = path(name);
        let plain = !path.split('/').any(|part| part.is_empty() || part == "." || part == "..");
        let is_net = path.starts_with("net/");
        let is_ipc = path.starts_with("fs/mqueue/")
            || path == "kernel/sem"
            || path.starts_with("kernel/shm")
            || path.starts_with("kernel/msg");
        let is_text = value.chars().all(|c| c == '\t' || !c.is_control());
        if !plain || !is_text || !(is_net && own_net || is_ipc && own_ipc) {
            return Err(Invalid(format!("the sysctl {name:?} is not one that this pod's namespaces keep to itself")));
        }
        list.push(format!("{path}={value}"));
    }
    Ok(list)
}

/// `a.b/c` and `a/b.c` are the same: the first separator says which of the two separates.
fn path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('.') => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_the_pods_own_namespaces_are_taken() {
        let ask = |name: &str, own_net| {
            requested(&HashMap::from([(name.to_owned(), "1".to_owned())]), own_net, true)
                .map(|list| list.last().cloned())
        };
        assert_eq!(ask("net.ipv4.tcp_syncookies", true), Ok(Some("net/ipv4/tcp_syncookies=1".into())));
        assert_eq!(ask("net.ipv4.conf.eth0/1.forwarding", true), Ok(Some("net/ipv4/conf/eth0.1/forwarding=1".into())));
        assert_eq!(ask("kernel/shm_rmid_forced", false), Ok(Some("kernel/shm_rmid_forced=1".into())));
        for name in ["net.ipv4.tcp_syncookies", "kernel.core_pattern", "net/../kernel/core_pattern", "vm.swappiness"] {
            assert!(ask(name, false).is_err(), "{name}");
        }
    }
}
