//! Processes of other containers: not seen, not signalled, not traced.

use podbus_common_cri::runtime::*;

use crate::runtime::host::{is_alive, on_host, pod, secured, with_shared_pid};

#[test]
fn a_container_neither_sees_nor_signals_the_processes_of_another() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let victim = host.run(&sandbox, "victim", "sleep 1000").await;
        let pid = host.pid(&victim).await;
        let script = format!(
            "ls /proc | grep -c '^[0-9]*$'
             if kill -9 {pid} || cat /proc/{pid}/environ; then exit 1; fi 2>/dev/null
             kill -9 -1
             exit 0"
        );
        let id = host.run(&sandbox, "attacker", &script).await;
        host.exit(&id).await;
        let seen: u32 = host.log(&id).await[0].text.parse().unwrap();
        assert!(seen <= 4, "the shell, ls and grep: {seen}");
        assert!(is_alive(pid));
        host
    });
}

#[test]
fn a_shared_pid_namespace_shows_processes_and_opens_none_of_another_user() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(with_shared_pid(pod("shared"))).await;
        let victim = host.run(&sandbox, "victim", "exec sleep 1000").await;
        let victim_pid = host.pid(&victim).await;
        let context =
            LinuxContainerSecurityContext { run_as_user: Some(Int64Value { value: 1000 }), ..Default::default() };
        let script = "
            for pid in $(ls /proc | grep '^[0-9]*$'); do
                [ $(stat -c %u /proc/$pid) = 0 ] || continue
                if readlink /proc/$pid/root || cat /proc/$pid/environ || kill -9 $pid; then exit 1; fi 2>/dev/null
            done
            exit 0";
        host.output_of(&sandbox, secured("attacker", script, context)).await;
        assert!(is_alive(victim_pid));
        host
    });
}

#[test]
fn a_target_is_a_running_container_of_the_same_pod() {
    on_host(|mut host| async move {
        let (sandbox, other) = (host.run_pod("web").await, host.run_pod("other").await);
        let target = host.run(&sandbox, "target", "exec sleep 1000").await;
        let ended = host.run(&sandbox, "ended", "true").await;
        host.exit(&ended).await;
        let with = |name: &str, target_id: &str| {
            let options = NamespaceOption {
                pid: NamespaceMode::Target.into(),
                target_id: target_id.into(),
                ..Default::default()
            };
            let context = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
            secured(name, "cat /proc/1/cmdline", context)
        };
        let seen = host.output_of(&sandbox, with("debugger", &target)).await;
        assert!(seen.starts_with("sleep"), "{seen}");
        host.refused(&other, with("foreign", &target)).await;
        host.refused(&sandbox, with("late", &ended)).await;
        host.refused(&sandbox, with("none", "")).await;
        host
    });
}
