//! The metrics that containers have, by the names that cAdvisor gave them: whoever scrapes a kubelet knows them.

use podbus_common_cri::runtime::{MetricDescriptor, MetricType};

/// One metric.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    help: &'static str,
    /// Its label keys after [`COMMON_KEYS`].
    pub(super) keys: &'static [&'static str],
    pub(super) kind: MetricType,
}

/// The label keys of all.
pub(super) const COMMON_KEYS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];

impl Family {
    pub(super) fn descriptor(&self) -> MetricDescriptor {
        let keys = COMMON_KEYS.iter().chain(self.keys);
        MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: keys.map(ToString::to_string).collect(),
        }
    }
}

const fn counter(name: &'static str, keys: &'static [&'static str], help: &'static str) -> Family {
    Family { name, help, keys, kind: MetricType::Counter }
}

const fn gauge(name: &'static str, keys: &'static [&'static str], help: &'static str) -> Family {
    Family { name, help, keys, kind: MetricType::Gauge }
}

const DEVICE: &[&str] = &["device"];
const INTERFACE: &[&str] = &["interface"];

/// All of them, by name.
#[rustfmt::skip] // a line each
pub(super) const FAMILIES: [Family; 56] = [
    counter("container_blkio_device_usage_total", &["device", "major", "minor", "operation"], "Bytes read from and written to each block device."),
    counter("container_cpu_cfs_periods_total", &[], "Periods of the CPU quota in which the container wanted to run."),
    counter("container_cpu_cfs_throttled_periods_total", &[], "Periods in which the CPU quota was used up."),
    counter("container_cpu_cfs_throttled_seconds_total", &[], "Time for which the CPU quota kept the container from running, in seconds."),
    counter("container_cpu_system_seconds_total", &[], "CPU time spent in the kernel, in seconds."),
    counter("container_cpu_usage_seconds_total", &[], "CPU time used, in seconds."),
    counter("container_cpu_user_seconds_total", &[], "CPU time spent in user mode, in seconds."),
    gauge("container_file_descriptors", &[], "Open file descriptors of all processes."),
    gauge("container_fs_inodes_free", DEVICE, "Free inodes of the file system of the writable layer."),
    gauge("container_fs_inodes_total", DEVICE, "Inodes of the file system of the writable layer."),
    gauge("container_fs_limit_bytes", DEVICE, "Bytes that the writable layer can grow to: the size of its file system."),
    counter("container_fs_reads_bytes_total", DEVICE, "Bytes read from the device."),
    counter("container_fs_reads_total", DEVICE, "Reads from the device."),
    gauge("container_fs_usage_bytes", DEVICE, "Bytes of the writable layer."),
    counter("container_fs_writes_bytes_total", DEVICE, "Bytes written to the device."),
    counter("container_fs_writes_total", DEVICE, "Writes to the device."),
    gauge("container_hugetlb_max_usage_bytes", &["pagesize"], "The most bytes of huge pages that were in use."),
    gauge("container_hugetlb_usage_bytes", &["pagesize"], "Bytes of huge pages in use."),
    gauge("container_last_seen", &[], "When the container was last seen, in seconds since 1970."),
    gauge("container_memory_cache", &[], "Bytes of page cache."),
    counter("container_memory_failcnt", &[], "How often the memory limit was hit."),
    counter("container_memory_failures_total", &["failure_type", "scope"], "Page faults, and those that had to read from a disk."),
    gauge("container_memory_kernel_usage", &[], "Bytes of kernel memory."),
    gauge("container_memory_mapped_file", &[], "Bytes of files mapped into memory."),
    gauge("container_memory_max_usage_bytes", &[], "The most bytes of memory that were in use."),
    gauge("container_memory_rss", &[], "Bytes of anonymous memory."),
    gauge("container_memory_swap", &[], "Bytes of swap."),
    gauge("container_memory_usage_bytes", &[], "Bytes of memory in use, page cache included."),
    gauge("container_memory_working_set_bytes", &[], "Bytes of memory in use without page cache that can be dropped at once."),
    counter("container_network_receive_bytes_total", INTERFACE, "Bytes received."),
    counter("container_network_receive_errors_total", INTERFACE, "Errors while receiving."),
    counter("container_network_receive_packets_dropped_total", INTERFACE, "Received packets that were dropped."),
    counter("container_network_receive_packets_total", INTERFACE, "Packets received."),
    counter("container_network_transmit_bytes_total", INTERFACE, "Bytes sent."),
    counter("container_network_transmit_errors_total", INTERFACE, "Errors while sending."),
    counter("container_network_transmit_packets_dropped_total", INTERFACE, "Packets to be sent that were dropped."),
    counter("container_network_transmit_packets_total", INTERFACE, "Packets sent."),
    counter("container_oom_events_total", &[], "Processes killed for want of memory."),
    counter("container_pressure_cpu_stalled_seconds_total", &[], "Time in which all tasks waited for a CPU, in seconds."),
    counter("container_pressure_cpu_waiting_seconds_total", &[], "Time in which a task waited for a CPU, in seconds."),
    counter("container_pressure_io_stalled_seconds_total", &[], "Time in which all tasks waited for I/O, in seconds."),
    counter("container_pressure_io_waiting_seconds_total", &[], "Time in which a task waited for I/O, in seconds."),
    counter("container_pressure_memory_stalled_seconds_total", &[], "Time in which all tasks waited for memory, in seconds."),
    counter("container_pressure_memory_waiting_seconds_total", &[], "Time in which a task waited for memory, in seconds."),
    gauge("container_processes", &[], "Processes."),
    gauge("container_sockets", &[], "Open sockets of all processes."),
    gauge("container_spec_cpu_period", &[], "The period of the CPU quota, in microseconds."),
    gauge("container_spec_cpu_quota", &[], "The CPU quota of a period, in microseconds."),
    gauge("container_spec_cpu_shares", &[], "The container's share of the CPU among others: 1024 is one."),
    gauge("container_spec_memory_limit_bytes", &[], "The memory limit in bytes; 0 is none."),
    gauge("container_spec_memory_reservation_limit_bytes", &[], "Bytes of memory that are protected from others; 0 is none."),
    gauge("container_spec_memory_swap_limit_bytes", &[], "The limit of memory and swap together in bytes; 0 is none."),
    gauge("container_start_time_seconds", &[], "When the container was started, in seconds since 1970."),
    gauge("container_threads", &[], "Threads of all processes."),
    gauge("container_threads_max", &[], "The most threads that there may be; 0 is no limit."),
    gauge("container_ulimits_soft", &["ulimit"], "Soft limits of the first process."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_there_once_and_counters_end_in_total() {
        assert!(FAMILIES.is_sorted_by(|a, b| a.name < b.name));
        for family in &FAMILIES {
            let is_total = family.name.ends_with("_total");
            let is_counter = family.kind == MetricType::Counter;
            assert!(
                is_total == is_counter
                    || family.name == "container_memory_failcnt"
                    || family.name.ends_with("inodes_total")
            );
        }
    }
}
