//! Who a process is: users, groups, capabilities.

use podbus_common_cri::runtime::*;

use crate::runtime::host::{container, on_host, secured};

fn number(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

#[test]
fn no_capability_is_inheritable_or_ambient_unless_it_is_asked_for() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let script = "grep -E 'Cap(Inh|Amb)' /proc/self/status";
        let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
        assert_eq!(host.output(&sandbox, "root", script).await, none);
        let context = LinuxContainerSecurityContext { run_as_user: number(1000), ..Default::default() };
        let user = secured("user", &format!("{script}; sleep 1000"), context);
        let id = host.run_with(&sandbox, user).await;
        assert_eq!(host.exec(&id, script).await.0, none);
        let capabilities =
            Capability { add_ambient_capabilities: vec!["NET_BIND_SERVICE".into()], ..Default::default() };
        let context = LinuxContainerSecurityContext {
            run_as_user: number(1000),
            capabilities: Some(capabilities),
            ..Default::default()
        };
        let seen =
            host.output_of(&sandbox, secured("ambient", "grep -E 'Cap(Amb|Eff)' /proc/self/status", context)).await;
        assert_eq!(seen.matches("0000000000000400").count(), 2, "{seen}");
        host
    });
}

#[test]
fn an_id_that_would_wrap_or_is_none_is_refused() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        for value in [-1, 1 << 31, (1 << 32) - 1, 1 << 32, 99_999_999_999] {
            for context in [
                LinuxContainerSecurityContext { run_as_user: number(value), ..Default::default() },
                LinuxContainerSecurityContext {
                    run_as_user: number(1),
                    run_as_group: number(value),
                    ..Default::default()
                },
                LinuxContainerSecurityContext { supplemental_groups: vec![value], ..Default::default() },
            ] {
                host.refused(&sandbox, secured("a", "true", context)).await;
            }
        }
        for name in ["4294967296", "2147483648", "root:0", "-1", "0x0", "nobody-here"] {
            let context = LinuxContainerSecurityContext { run_as_username: name.into(), ..Default::default() };
            host.refused(&sandbox, secured("a", "true", context)).await;
        }
        let context = LinuxContainerSecurityContext { run_as_group: number(1), ..Default::default() };
        host.refused(&sandbox, secured("a", "true", context)).await;
        host
    });
}

#[test]
fn groups_are_those_of_the_policy() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        for (name, policy, expected) in [("merge", 0, "102 103 4000"), ("strict", 1, "102 4000")] {
            let context = LinuxContainerSecurityContext {
                run_as_username: "web".into(),
                supplemental_groups: vec![4000],
                supplemental_groups_policy: policy,
                ..Default::default()
            };
            let seen = host.output_of(&sandbox, secured(name, "grep Groups /proc/self/status", context)).await;
            assert_eq!(seen.trim(), format!("Groups:\t{expected}"));
        }
        let context = LinuxContainerSecurityContext { supplemental_groups_policy: 7, ..Default::default() };
        host.refused(&sandbox, secured("other", "true", context)).await;
        host
    });
}

#[test]
fn a_value_of_the_environment_changes_no_account() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let value = b"/root\nevil:x:0:0::/:/bin/sh\r\n".to_vec();
        let envs = vec![KeyValue { key: "HOME".into(), value }];
        let script = "cat /etc/passwd /etc/group | wc -l; id -u";
        let config = ContainerConfig { envs, ..container("a", script) };
        assert_eq!(host.output_of(&sandbox, config).await, "5\n0\n");
        let envs = vec![KeyValue { key: "A".into(), value: b"a\0b".to_vec() }];
        host.refused(&sandbox, ContainerConfig { envs, ..container("b", "true") }).await;
        host
    });
}

#[test]
fn limits_umask_and_keys_are_not_those_of_the_runtime() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let script = "umask; ulimit -c; wc -l < /proc/keys; ulimit -Sn; ulimit -Hn";
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let own: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
        // What is held below that itself, and may not go beyond, gives what it has.
        let files = [["1024", "524288"].join("\n"), own.join("\n")];
        let expected = files.map(|files| format!("0022\n0\n0\n{files}\n"));
        let seen = host.output(&sandbox, "a", script).await;
        assert!(expected.contains(&seen), "{seen}");
        let id = host.run(&sandbox, "b", "sleep 1000").await;
        assert_eq!(host.exec(&id, script).await.0, seen, "execs have the same");
        host
    });
}
