//! What cannot be honoured is refused when the container is created, never ignored.

use podbus_common_cri::runtime::security_profile::ProfileType;
use podbus_common_cri::runtime::*;
use tonic::Code;

use crate::runtime::host::{limited, on_host, pod, secured};

#[test]
fn labels_profiles_and_devices_that_nothing_here_applies_are_refused() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let profile = |kind: ProfileType, name: &str| {
            Some(SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
        };
        let base = LinuxContainerSecurityContext::default;
        let level = SeLinuxOption { level: "s0:c1,c2".into(), ..Default::default() };
        for context in [
            LinuxContainerSecurityContext { apparmor: profile(ProfileType::Localhost, "mine"), ..base() },
            LinuxContainerSecurityContext { selinux_options: Some(level), ..base() },
            LinuxContainerSecurityContext { privileged: true, ..base() },
        ] {
            host.refused(&sandbox, secured("a", "true", context)).await;
        }
        for (at, kind) in [ProfileType::Unconfined, ProfileType::RuntimeDefault].into_iter().enumerate() {
            let context = LinuxContainerSecurityContext { apparmor: profile(kind, ""), ..base() };
            host.output_of(&sandbox, secured(&format!("b{at}"), "true", context)).await;
        }
        let bad: [fn(&mut LinuxContainerResources); 3] = [
            |it| it.cpu_quota = 5,
            |it| it.cpuset_cpus = "x".into(),
            |it| drop(it.unified.insert("cgroup.procs".into(), "1".into())),
        ];
        for change in bad {
            let mut resources = LinuxContainerResources::default();
            change(&mut resources);
            host.refused(&sandbox, limited("c", "true", resources)).await;
        }
        host
    });
}

#[test]
fn sysctls_that_are_not_the_pods_own_are_refused_and_its_own_hold() {
    on_host(|mut host| async move {
        let with = |name: &str, sysctl: (&str, &str), network: NamespaceMode| {
            let mut config = pod(name);
            let linux = config.linux.as_mut().unwrap();
            linux.sysctls.insert(sysctl.0.into(), sysctl.1.into());
            let options =
                NamespaceOption { network: network.into(), pid: NamespaceMode::Container.into(), ..Default::default() };
            linux.security_context.as_mut().unwrap().namespace_options = Some(options);
            config
        };
        let own = with("own", ("net.ipv4.ip_local_port_range", "20000\t30000"), NamespaceMode::Pod);
        let sandbox = host.run_pod_with(own).await;
        let seen = host.output(&sandbox, "a", "cat /proc/sys/net/ipv4/ip_local_port_range").await;
        assert_eq!(seen, "20000\t30000\n");
        let bad = [
            (("kernel.core_pattern", "|/bin/sh"), NamespaceMode::Pod),
            (("net/../kernel/core_pattern", "x"), NamespaceMode::Pod),
            (("vm.swappiness", "1"), NamespaceMode::Pod),
            (("net.ipv4.ip_forward", "1\nkernel.core_pattern=x"), NamespaceMode::Pod),
            (("net.ipv4.ip_forward", "1"), NamespaceMode::Node),
        ];
        for (sysctl, network) in bad {
            let config = Some(with("bad", sysctl, network));
            let request = RunPodSandboxRequest { config, runtime_handler: String::new() };
            let refused = host.cri.run_pod_sandbox(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{sysctl:?}: {refused}");
        }
        host
    });
}

#[test]
fn pause_is_who_the_sandbox_says() {
    on_host(|mut host| async move {
        let mut config = pod("web");
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.run_as_user = Some(Int64Value { value: 1234 });
        context.run_as_group = Some(Int64Value { value: 5678 });
        context.supplemental_groups = vec![91];
        let sandbox = host.run_pod_with(config).await;
        let pause = host.pause_pid(&sandbox).await;
        let status = std::fs::read_to_string(format!("/proc/{pause}/status")).unwrap();
        for line in ["Uid:\t1234\t1234", "Gid:\t5678\t5678", "Groups:\t91", "CapBnd:\t0000000000000000"] {
            assert!(status.contains(line), "{status}");
        }
        host
    });
}
