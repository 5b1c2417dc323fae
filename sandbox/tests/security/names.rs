//! Names and ids that are meant to become something else: paths, arguments, lines.

use std::collections::HashMap;

use podbus_common_cri::runtime::*;
use tonic::{Code, Status};

use crate::runtime::host::{Host, container, on_host, pod, secured};

const HOSTILE: [&str; 9] = ["../../canary", "/etc", "a/b", "..", "a\0b", "a\nb", "-rf", "a;IgnoreUnknown=1", "a b"];

fn hostile() -> Vec<String> {
    HOSTILE.map(str::to_owned).into_iter().chain(["x".repeat(300)]).collect()
}

fn assert_code<T: std::fmt::Debug>(answer: Result<T, Status>, expected: Code, name: &str) {
    let refusal = answer.expect_err(name);
    assert_eq!(refusal.code(), expected, "{name:?}: {refusal}");
}

async fn run(host: &mut Host, config: PodSandboxConfig, name: &str) {
    let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
    assert_code(host.cri.run_pod_sandbox(request).await, Code::InvalidArgument, name);
}

#[test]
fn a_hostile_name_is_refused_by_every_call_that_takes_one() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        for name in hostile() {
            let metadata = |change: fn(&mut PodSandboxMetadata, String)| {
                let mut config = pod("other");
                change(config.metadata.as_mut().unwrap(), name.clone());
                config
            };
            run(&mut host, metadata(|it, name| it.name = name), &name).await;
            run(&mut host, metadata(|it, name| it.namespace = name), &name).await;
            run(&mut host, metadata(|it, name| it.uid = name), &name).await;
            run(&mut host, PodSandboxConfig { hostname: name.clone(), ..pod("other") }, &name).await;
            host.refused(&sandbox, container(&name, "true")).await;
        }
        for log_path in ["../a.log", "/tmp/a.log", "a/../../b.log", "a\0b"] {
            host.refused(&sandbox, ContainerConfig { log_path: log_path.into(), ..container("a", "true") }).await;
        }
        for log_directory in ["logs", "/tmp/../etc", "/tmp/a\0b"] {
            run(&mut host, PodSandboxConfig { log_directory: log_directory.into(), ..pod("other") }, log_directory)
                .await;
        }
        for parent in ["../..", "/a/../../b", "a//b", "./a"] {
            let mut config = pod("other");
            config.linux.as_mut().unwrap().cgroup_parent = parent.into();
            run(&mut host, config, parent).await;
        }
        for handler in hostile() {
            let request = RunPodSandboxRequest { config: Some(pod("other")), runtime_handler: handler.clone() };
            assert_code(host.cri.run_pod_sandbox(request).await, Code::InvalidArgument, &handler);
        }
        host
    });
}

#[test]
fn a_hostile_id_is_nobodys_to_every_call_that_takes_one() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        for name in hostile().into_iter().chain([String::new(), "zz".into(), format!("{id}/"), format!("{sandbox}x")]) {
            let (of_container, of_pod) = (name.clone(), name.clone());
            let cri = &mut host.cri;
            let unknown = |answer: Result<(), Status>| assert_code(answer, Code::NotFound, &name);
            let request = ContainerStatusRequest { container_id: of_container.clone(), verbose: true };
            unknown(cri.container_status(request).await.map(drop));
            unknown(cri.start_container(StartContainerRequest { container_id: of_container.clone() }).await.map(drop));
            let cmd = vec!["true".to_owned()];
            let request = ExecSyncRequest { container_id: of_container.clone(), cmd: cmd.clone(), timeout: 1 };
            unknown(cri.exec_sync(request).await.map(drop));
            let request = ExecRequest { container_id: of_container.clone(), cmd, stdout: true, ..Default::default() };
            unknown(cri.exec(request).await.map(drop));
            let request = AttachRequest { container_id: of_container.clone(), stdout: true, ..Default::default() };
            unknown(cri.attach(request).await.map(drop));
            let request = ReopenContainerLogRequest { container_id: of_container.clone() };
            unknown(cri.reopen_container_log(request).await.map(drop));
            let request = UpdateContainerResourcesRequest { container_id: of_container.clone(), ..Default::default() };
            unknown(cri.update_container_resources(request).await.map(drop));
            unknown(cri.container_stats(ContainerStatsRequest { container_id: of_container.clone() }).await.map(drop));
            let request = PodSandboxStatusRequest { pod_sandbox_id: of_pod.clone(), verbose: true };
            unknown(cri.pod_sandbox_status(request).await.map(drop));
            unknown(cri.pod_sandbox_stats(PodSandboxStatsRequest { pod_sandbox_id: of_pod.clone() }).await.map(drop));
            let request = PortForwardRequest { pod_sandbox_id: of_pod.clone(), port: vec![80] };
            unknown(cri.port_forward(request).await.map(drop));
            let request = CreateContainerRequest {
                pod_sandbox_id: of_pod.clone(),
                config: Some(container("b", "true")),
                sandbox_config: None,
            };
            unknown(cri.create_container(request).await.map(drop));
            // These have nothing to do for what is not there.
            cri.stop_container(StopContainerRequest { container_id: of_container.clone(), timeout: 0 }).await.unwrap();
            cri.remove_container(RemoveContainerRequest { container_id: of_container }).await.unwrap();
            cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: of_pod.clone() }).await.unwrap();
            cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: of_pod }).await.unwrap();
        }
        assert_eq!(host.exec(&id, "echo alive").await.0, "alive\n");
        host
    });
}

#[test]
fn annotations_and_labels_change_nothing_of_a_container() {
    on_host(|mut host| async move {
        let words = [
            ("io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw", "true"),
            ("io.kubernetes.cri-o.UnifiedCgroup.a", "pids.max=max"),
            ("org.systemd.property.ExecStart", "/bin/sh"),
            ("run.oci.hooks.stdin", "{}"),
            ("io.kubernetes.container.apparmor.security.beta.kubernetes.io/a", "unconfined"),
            ("seccomp.security.alpha.kubernetes.io/pod", "unconfined"),
            ("cdi.k8s.io/a", "vendor.com/gpu=0"),
            ("podbus.privileged", "true"),
        ];
        let words: HashMap<_, _> = words.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let script = "grep -E '^(Cap|NoNewPrivs|Seccomp|Groups|Uid)' /proc/self/status; ls /dev; ls -ld /sys/fs/cgroup; \
            grep -c . /proc/self/mountinfo; cat /proc/self/limits; env | grep -v ^HOSTNAME";
        let plain = host.run_pod("plain").await;
        let context = LinuxContainerSecurityContext { no_new_privs: true, ..Default::default() };
        let expected = host.output_of(&plain, secured("a", script, context.clone())).await;
        let noisy = PodSandboxConfig { annotations: words.clone(), labels: words.clone(), ..pod("noisy") };
        let noisy = host.run_pod_with(noisy).await;
        let config = ContainerConfig { annotations: words.clone(), labels: words, ..secured("a", script, context) };
        assert_eq!(host.output_of(&noisy, config).await, expected);
        host
    });
}

#[test]
fn a_log_is_never_written_through_a_link_or_to_a_pipe() {
    on_host(|mut host| async move {
        let canary = host.path("canary");
        std::fs::write(&canary, "untouched").unwrap();
        let sandbox = host.run_pod("web").await;
        let logs = host.path("logs/web");
        std::os::unix::fs::symlink(&canary, logs.join("link.log")).unwrap();
        nix::unistd::mkfifo(&logs.join("pipe.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "pipe"] {
            let id = host.create(&sandbox, container(name, "echo written")).await;
            let answer = host.cri.start_container(StartContainerRequest { container_id: id }).await;
            assert!(answer.unwrap_err().message().contains("open the log"), "{name}");
        }
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched");
        host
    });
}
