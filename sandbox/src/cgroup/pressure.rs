//! Pressure stall information of a cgroup: how long its tasks waited for a resource. The files of the v2 tree, which a
//! hybrid host has as well.

use super::Cgroups;

/// Stalls of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pressure {
    /// At least one task waited.
    pub(crate) some: Stall,
    /// All of them waited.
    pub(crate) full: Stall,
}

/// How long, and how much of the last seconds, in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Stall {
    pub(crate) nanos: u64,
    pub(crate) avg10: f64,
    pub(crate) avg60: f64,
    pub(crate) avg300: f64,
}

impl Cgroups {
    /// Of `cpu`, `memory` or `io`; `None` where the kernel does not count it.
    pub(crate) fn pressure(&self, path: &str, resource: &str) -> Option<Pressure> {
        let file = self.layout().v2(path)?.join(format!("{resource}.pressure"));
        Some(parse(&std::fs::read_to_string(file).ok()?))
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, microseconds; then `full`, which older kernels lack for the CPU.
fn parse(text: &str) -> Pressure {
    let of = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default();
        let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let average = |key: &str| value(key).and_then(|text| text.parse().ok()).unwrap_or_default();
        let total: u64 = value("total").and_then(|text| text.parse().ok()).unwrap_or_default();
        Stall {
            nanos: total.saturating_mul(1000),
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
        }
    };
    Pressure { some: of("some "), full: of("full ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_read_in_nanoseconds() {
        let read = parse(
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        );
        assert_eq!(read.some, Stall { nanos: 1_234_000, avg10: 1.5, avg60: 0.25, avg300: 0.0 });
        assert_eq!(read.full.nanos, 7000);
        assert_eq!(parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=1").full, Stall::default());
    }
}
