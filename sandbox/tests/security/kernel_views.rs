//! What of the kernel a container sees, and what it can change: procfs, sysfs, cgroupfs, devices.

use podbus_common_cri::runtime::*;

use crate::runtime::host::{container, on_host, pod, secured};

const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

#[test]
fn masked_paths_are_empty_and_read_only_ones_take_no_write_for_execs_as_well() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let masked = MASKED.join(" ");
        let script = format!(
            "for path in {masked}; do
                 [ ! -e $path ] || [ -z \"$(ls -A $path 2>/dev/null | grep -v ^$path$)\" ] || {{ echo $path; exit 1; }}
                 [ ! -f $path ] || [ -z \"$(head -c1 $path)\" ] || {{ echo $path; exit 2; }}
             done
             for path in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/irq/default_smp_affinity; do
                 [ -e $path ] || continue
                 if echo x > $path; then echo $path; exit 3; fi
             done 2>/dev/null
             for path in /proc/bus /proc/fs /proc/irq /proc/sys /sys /sys/kernel /sys/fs/cgroup; do
                 if mkdir $path/x; then echo $path; exit 4; fi
             done 2>/dev/null
             exit 0"
        );
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        assert_eq!(host.exec(&id, &script).await, (String::new(), 0));
        host.output(&sandbox, "b", &script).await;
        host
    });
}

#[test]
fn a_list_of_paths_of_the_request_takes_the_place_of_the_default() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let context = LinuxContainerSecurityContext {
            masked_paths: vec!["/etc/passwd".into(), "/tmp".into(), "/none".into()],
            readonly_paths: vec!["/etc/group".into()],
            ..Default::default()
        };
        let script = "
            [ ! -s /etc/passwd ] && [ ! -s /tmp/x ] || exit 1
            if echo x >> /etc/group || touch /tmp/x; then exit 2; fi 2>/dev/null
            exit 0";
        host.output_of(&sandbox, secured("a", script, context)).await;
        host
    });
}

#[test]
fn cgroups_are_seen_from_their_own_root_and_nothing_in_them_is_writable() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let script = "
            grep -vE ':/$' /proc/self/cgroup | grep -vE ':name=' && exit 1
            for file in $(ls -d /sys/fs/cgroup/* /sys/fs/cgroup/*/*); do
                if [ -d $file ]; then mkdir $file/x; else true >> $file; fi && { echo $file; exit 2; }
            done 2>/dev/null
            for file in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/cgroup.procs; do
                if echo /bin/sh > $file; then exit 3; fi
            done 2>/dev/null
            mkdir /tmp/cg
            if busybox mount -t cgroup -o rdma none /tmp/cg || busybox mount -t cgroup2 none /tmp/cg; then exit 4; fi 2>/dev/null
            grep ' /sys/fs/cgroup' /proc/self/mountinfo | grep -v ' ro,nosuid,nodev,noexec' && exit 5
            exit 0";
        host.output(&sandbox, "a", script).await;
        host
    });
}

#[test]
fn what_was_made_in_advance_is_as_what_a_start_makes() {
    on_host(|mut host| async move {
        host.wait_for_spares().await;
        let sandbox = host.run_pod("web").await;
        let script = "
            busybox awk '$5 != \"/\" { $1 = $2 = $3 = $4 = \"\"; print }' /proc/self/mountinfo | busybox sort
            busybox stat -c '%N %f %u %g %t:%T' /dev /dev/* /dev/pts/* /sys/fs/cgroup /sys/fs/cgroup/*";
        let first = host.output(&sandbox, "first", script).await;
        assert!(
            first.contains("/dev/mqueue") && first.contains("/dev/pts/ptmx") && first.contains("/dev/shm"),
            "{first}"
        );
        assert_eq!(host.output(&sandbox, "second", script).await, first);
        host
    });
}

#[test]
fn a_device_opens_only_where_it_was_asked_for() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let script = "
            mknod /tmp/mem c 1 1 && mknod /tmp/disk b 253 0 && mknod /dev/kmsg c 1 11 || exit 1
            for path in /tmp/mem /tmp/disk /dev/kmsg; do
                if head -c1 $path; then echo $path; exit 2; fi
            done 2>/dev/null
            exit 0";
        host.output(&sandbox, "none", script).await;
        let device =
            Device { host_path: "/dev/zero".into(), container_path: "/dev/mine/zero".into(), permissions: "r".into() };
        let config = ContainerConfig { devices: vec![device], ..container("one", "head -c4 /dev/mine/zero | wc -c") };
        assert_eq!(host.output_of(&sandbox, config).await, "4\n");
        for (host_path, permissions) in [("/nonexistent", "r"), ("/etc", "r"), ("/dev/zero", "x")] {
            let device = Device { host_path: host_path.into(), permissions: permissions.into(), ..Default::default() };
            host.refused(&sandbox, ContainerConfig { devices: vec![device], ..container("bad", "true") }).await;
        }
        host
    });
}

#[test]
fn only_a_privileged_container_has_the_nodes_devices_and_a_writable_kernel_view() {
    on_host(|mut host| async move {
        let mut config = pod("privileged");
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        let sandbox = host.run_pod_with(config).await;
        let context = LinuxContainerSecurityContext { privileged: true, ..Default::default() };
        let script = "
            grep -E ' /sys | /sys/fs/cgroup/' /proc/self/mountinfo | grep ' ro,' && exit 1
            mknod /tmp/zero c 1 5 && head -c1 /tmp/zero > /dev/null || exit 2
            [ -n \"$(head -c1 /proc/interrupts)\" ] || exit 3
            mkdir /tmp/m && busybox mount -t tmpfs none /tmp/m || exit 4
            stat -c %F-%t:%T /dev/kmsg
            exit 0";
        let seen = host.output_of(&sandbox, secured("a", script, context)).await;
        if std::path::Path::new("/dev/kmsg").exists() {
            assert_eq!(seen, "character special file-1:b\n");
        }
        host
    });
}
