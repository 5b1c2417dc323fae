//! System calls: the default profile, a file's, none.

use podbus_common_cri::runtime::security_profile::ProfileType;
use podbus_common_cri::runtime::*;

use crate::runtime::host::{container, on_host, pod, secured};

/// Fails where a user namespace can be made.
const UNSHARE: &str = "grep Seccomp: /proc/self/status; busybox unshare -U true 2>&1 || echo refused";

fn profile(kind: ProfileType, path: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: path.to_owned() })
}

fn with_seccomp(seccomp: Option<SecurityProfile>) -> LinuxContainerSecurityContext {
    LinuxContainerSecurityContext { seccomp, ..Default::default() }
}

fn with_capability(name: &str) -> LinuxContainerSecurityContext {
    let capabilities = Capability { add_capabilities: vec![name.into()], ..Default::default() };
    LinuxContainerSecurityContext { capabilities: Some(capabilities), ..Default::default() }
}

#[test]
fn the_default_filter_holds_for_every_process_of_a_container_that_asks_for_it() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let silent = host.output(&sandbox, "silent", UNSHARE).await;
        assert_eq!(silent, "Seccomp:\t0\n", "as CRI has it: the agent asks for the default profile");
        let context = with_seccomp(profile(ProfileType::RuntimeDefault, ""));
        let context = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 1000 }),
            no_new_privs: true,
            ..context
        };
        let asked = host.output_of(&sandbox, secured("asked", UNSHARE, context)).await;
        assert!(asked.contains("Seccomp:\t2") && asked.contains("Operation not permitted\nrefused"), "{asked}");
        let unconfined = with_seccomp(profile(ProfileType::Unconfined, ""));
        let free = host.output_of(&sandbox, secured("free", UNSHARE, unconfined)).await;
        assert_eq!(free, "Seccomp:\t0\n");
        let context = with_seccomp(profile(ProfileType::RuntimeDefault, ""));
        let id = host.run_with(&sandbox, secured("exec", "sleep 1000", context)).await;
        let (exec, _) = host.exec(&id, UNSHARE).await;
        assert!(exec.contains("Seccomp:\t2") && exec.contains("refused"), "{exec}");
        host
    });
}

#[test]
fn a_filter_leaves_no_capability_behind_that_it_needed_to_be_loaded() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        for user in [0, 1000] {
            let context = LinuxContainerSecurityContext {
                run_as_user: Some(Int64Value { value: user }),
                ..with_seccomp(profile(ProfileType::RuntimeDefault, ""))
            };
            let script = "grep -E 'Cap(Prm|Eff|Bnd|Amb)' /proc/self/status";
            let seen = host.output_of(&sandbox, secured(&format!("u{user}"), script, context)).await;
            let held = if user == 0 { "00000000a80425fb" } else { "0000000000000000" };
            assert_eq!(seen.matches(held).count(), 3, "{seen}"); // all but the ambient set, all but the bounding one
            assert!(seen.contains("CapBnd:\t00000000a80425fb"), "{seen}");
        }
        host
    });
}

#[test]
fn the_default_filter_follows_the_capabilities() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let context = LinuxContainerSecurityContext {
            seccomp: profile(ProfileType::RuntimeDefault, ""),
            ..with_capability("SYS_ADMIN")
        };
        let seen = host.output_of(&sandbox, secured("a", "hostname changed && busybox unshare -U true", context)).await;
        assert_eq!(seen, "");
        host
    });
}

#[test]
fn a_profile_of_the_node_is_the_one_that_was_there_at_the_creation() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let path = host.path("profile.json");
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
        std::fs::write(&path, text).unwrap();
        let context = || LinuxContainerSecurityContext {
            seccomp: profile(ProfileType::Localhost, path.to_str().unwrap()),
            ..with_capability("SYS_ADMIN")
        };
        let script = "hostname changed 2>&1; sleep 1000";
        let id = host.create(&sandbox, secured("a", script, context())).await;
        std::fs::remove_file(&path).unwrap();
        host.start_container(&id).await;
        host.wait_for_log(&id).await;
        assert_eq!(host.log(&id).await[0].text, "hostname: sethostname: Permission denied");
        let (exec, _) = host.exec(&id, "hostname changed 2>&1").await;
        assert_eq!(exec, "hostname: sethostname: Permission denied\n");
        let missing = host.refused(&sandbox, secured("b", "true", context())).await;
        assert!(missing.contains("profile.json"), "{missing}");
        host
    });
}

#[test]
fn a_privileged_container_has_no_filter_and_profiles_that_mean_nothing_are_refused() {
    on_host(|mut host| async move {
        let mut config = pod("privileged");
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        let sandbox = host.run_pod_with(config).await;
        let context = LinuxContainerSecurityContext {
            privileged: true,
            ..with_seccomp(profile(ProfileType::RuntimeDefault, ""))
        };
        assert_eq!(host.output_of(&sandbox, secured("a", UNSHARE, context)).await, "Seccomp:\t0\n");
        for (kind, path) in
            [(ProfileType::Localhost, ""), (ProfileType::Localhost, "x.json"), (ProfileType::Localhost, "/etc/../x")]
        {
            host.refused(&sandbox, secured("b", "true", with_seccomp(profile(kind, path)))).await;
        }
        host
    });
}

#[test]
fn a_pause_process_takes_the_filter_that_its_pod_asks_for() {
    on_host(|mut host| async move {
        let mut config = pod("web");
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.seccomp = profile(ProfileType::RuntimeDefault, "");
        let sandbox = host.run_pod_with(config).await;
        let pause = host.pause_pid(&sandbox).await;
        let status = std::fs::read_to_string(format!("/proc/{pause}/status")).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
        host.output_of(&sandbox, container("a", "true")).await;
        host
    });
}
