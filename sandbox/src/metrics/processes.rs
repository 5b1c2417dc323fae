//! What the processes of a container hold open: only `/proc` tells.

use rustix::process::Pid;

/// Sums over processes. Those that end meanwhile count for what was read of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Processes {
    pub(super) count: u64,
    pub(super) threads: u64,
    pub(super) descriptors: u64,
    pub(super) sockets: u64,
}

impl Processes {
    /// Reads `/proc` for each process.
    pub(super) fn read(pids: &[Pid]) -> Self {
        let mut sums = Self { count: pids.len() as u64, ..Self::default() };
        for pid in pids {
            let dir = format!("/proc/{}", pid.as_raw_nonzero());
            sums.threads += entries(&format!("{dir}/task")).count() as u64;
            for entry in entries(&format!("{dir}/fd")) {
                sums.descriptors += 1;
                let target = std::fs::read_link(entry.path()).unwrap_or_default();
                sums.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            }
        }
        sums
    }
}

fn entries(dir: &str) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(dir).into_iter().flatten().flatten()
}

/// How many files a process may have open; `None` where it has gone, or there is no limit.
pub(super) fn open_files_max(pid: i32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_its_own_sockets() {
        let _socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let read = Processes::read(&[rustix::process::getpid()]);
        assert_eq!(read.count, 1);
        assert!(read.threads >= 1 && read.sockets >= 1 && read.descriptors > read.sockets, "{read:?}");
        assert!(open_files_max(rustix::process::getpid().as_raw_nonzero().get()).is_some());
    }
}
