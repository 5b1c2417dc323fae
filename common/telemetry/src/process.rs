//! What the kernel knows of this process, by the names that every exporter has.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Read from /proc with each scrape.
#[derive(Debug)]
pub(crate) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let Some(stat) = Stat::parse(&stat) else { return Ok(()) };
        let cpu = ConstCounter::new(seconds(stat.cpu_ticks));
        let help = "CPU time in user mode and in the kernel, in seconds.";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;
        let mut gauge = |name: &str, help: &str, value: u64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        gauge("process_resident_memory_bytes", "Resident memory in bytes.", stat.resident_pages * page)?;
        gauge("process_virtual_memory_bytes", "Virtual memory in bytes.", stat.virtual_bytes)?;
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        gauge("process_open_fds", "Open file descriptors.", descriptors as u64)?;
        let booted = std::fs::read_to_string("/proc/stat").ok().and_then(|stat| boot_time(&stat)).unwrap_or(0);
        let started = ConstGauge::new(seconds(stat.start_ticks) + seconds(booted * ticks_per_second()));
        let help = "When the process was started, in seconds since 1970.";
        started.encode(encoder.encode_descriptor("process_start_time_seconds", help, None, started.metric_type())?)
    }
}

fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

#[expect(clippy::cast_precision_loss, reason = "a time that f64 cannot hold to the tick is 2,000,000 years away")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / ticks_per_second() as f64
}

/// What is read of `/proc/self/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may hold spaces and parentheses: fields count from behind its last one, the state being the third.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// `btime` of /proc/stat.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_an_odd_name_is_read_too() {
        let text = "7 (a) (b c) S 1 7 7 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 3 0 555 9000000 250 18446744073709551615";
        let stat = Stat { cpu_ticks: 42, start_ticks: 555, virtual_bytes: 9_000_000, resident_pages: 250 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000));
    }
}
