//! What came and went through the interfaces of a pod, as its own end counts it.

/// One interface's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Counters,
    pub(crate) sent: Counters,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// The interfaces of a process' network namespace but `lo`; the one that leads out comes first.
pub(crate) fn interfaces(pid: i32) -> Vec<Interface> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut found: Vec<_> = text.lines().filter_map(parse).filter(|it| it.name != "lo").collect();
    found.sort_by_key(|it| it.name != "eth0"); // stable: the others as the kernel has them
    found
}

/// `eth0: bytes packets errs drop fifo frame compressed multicast`, and the same for what was sent.
fn parse(line: &str) -> Option<Interface> {
    let (name, counts) = line.split_once(':')?;
    let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
    let direction = |at: usize| {
        let counts = counts.get(at..at + 4)?;
        Some(Counters { bytes: counts[0], packets: counts[1], errors: counts[2], dropped: counts[3] })
    };
    Some(Interface { name: name.trim().to_owned(), received: direction(0)?, sent: direction(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_both_directions_are_told_apart() {
        let line = "  eth0: 1 2 3 4 5 6 7 8 11 12 13 14 15 16 17 18";
        let read = parse(line).unwrap();
        assert_eq!(read.name, "eth0");
        assert_eq!(read.received, Counters { bytes: 1, packets: 2, errors: 3, dropped: 4 });
        assert_eq!(read.sent, Counters { bytes: 11, packets: 12, errors: 13, dropped: 14 });
        assert_eq!(parse(" face |bytes    packets errs drop"), None);
    }
}
