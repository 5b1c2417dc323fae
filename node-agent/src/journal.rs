//! The desired set on the node's disk: an append log of JSON lines.
//!
//! A record is in the kernel's hands before anything is done about it, so a killed agent loses nothing. One thread
//! syncs behind the writer, one sync for all that came meanwhile: no pod waits for a disk. After a power cut the last
//! line may be torn; the sync with the leader brings back what is missing.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use fs_err as fs;
use podbus_node_agent_core::agent;
use podbus_node_agent_core::desired::{DesiredSet, Record};

/// The log is written anew when it is larger than this and than four times its live part.
const COMPACT_BYTES_MIN: u64 = 1 << 20;
const COMPACT_FACTOR: u64 = 4;

/// The open log.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    live_bytes: u64,
    /// Lines that a full disk did not take: tried again with the next ones.
    unwritten: Vec<u8>,
    sync: SyncSender<Arc<File>>,
}

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the node's desired set to {}", path.display())]
pub(crate) struct JournalError {
    path: PathBuf,
    source: io::Error,
}

impl Journal {
    /// Reads the log at `path`, if there is one, and writes it anew without what is over.
    pub(crate) fn open(path: &Path) -> Result<(Self, DesiredSet), JournalError> {
        let failed = |source| JournalError { path: path.to_owned(), source };
        let set = read(path).map_err(failed)?;
        let (file, bytes) = write_snapshot(path, &set).map_err(failed)?;
        // One waiting file is enough: a sync covers all that was written before it.
        let (sync, files) = sync_channel(1);
        std::thread::Builder::new()
            .name("journal-sync".to_owned())
            .spawn(move || sync_behind(&files))
            .map_err(failed)?;
        let journal =
            Self { path: path.to_owned(), file: Arc::new(file), bytes, live_bytes: bytes, unwritten: Vec::new(), sync };
        Ok((journal, set))
    }

    /// Writes down what changed in `set` since the last call, and what the last call could not write.
    pub(crate) fn append(&mut self, set: &mut DesiredSet) -> Result<(), JournalError> {
        let failed = |source| JournalError { path: self.path.clone(), source };
        self.unwritten.append(&mut lines(&set.take_records()).map_err(failed)?);
        if self.unwritten.is_empty() {
            return Ok(());
        }
        if let Err(error) = (&*self.file).write_all(&self.unwritten) {
            // Half a line would spoil the next one; making a file shorter needs no space.
            self.file.set_len(self.bytes).map_err(failed)?;
            return Err(failed(error));
        }
        self.bytes += self.unwritten.len() as u64;
        self.unwritten.clear();
        if self.bytes > COMPACT_BYTES_MIN && self.bytes > COMPACT_FACTOR * self.live_bytes {
            let (file, bytes) = write_snapshot(&self.path, set).map_err(failed)?;
            (self.file, self.bytes, self.live_bytes) = (Arc::new(file), bytes, bytes);
        }
        match self.sync.try_send(Arc::clone(&self.file)) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(failed(io::Error::other("the thread that syncs it has ended"))),
        }
    }
}

impl agent::Journal for Journal {
    fn append(&mut self, set: &mut DesiredSet) -> Result<(), String> {
        self.append(set).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }
}

fn sync_behind(files: &Receiver<Arc<File>>) {
    while let Ok(file) = files.recv() {
        if let Err(error) = file.sync_data() {
            tracing::error!(%error, "cannot sync the node's desired set: a power cut may lose assignments");
        }
    }
}

fn lines(records: &[Record]) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

fn read(path: &Path) -> io::Result<DesiredSet> {
    let mut set = DesiredSet::default();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(set),
        Err(error) => return Err(error),
    };
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        match serde_json::from_slice(&line?) {
            Ok(record) => set.replay(record),
            Err(error) => {
                tracing::warn!(file = %path.display(), line = number + 1, %error, "a line of the desired set is torn");
            }
        }
    }
    Ok(set)
}

/// Replaces the log by the shortest one: written aside, synced, renamed.
fn write_snapshot(path: &Path, set: &DesiredSet) -> io::Result<(File, u64)> {
    let aside = path.with_extension("new");
    let lines = lines(&set.snapshot())?;
    // Pods may carry secrets in their environment.
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
    file.write_all(&lines)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    let file = File::options().append(true).open(path)?;
    Ok((file, lines.len() as u64))
}

#[cfg(test)]
mod tests {
    use podbus_common::model::Timestamp;

    use super::*;

    fn adopt(set: &mut DesiredSet, uid: &str) {
        let pod = format!(r#"{{"metadata":{{"uid":"{uid}","name":"n"}},"spec":{{"containers":[]}}}}"#);
        assert!(set.adopt(uid, &pod, 1, 1, Timestamp::default()));
    }

    /// A log with two pods.
    fn two_pods() -> (tempfile::TempDir, PathBuf, Journal, DesiredSet) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.log");
        let (mut journal, mut set) = Journal::open(&path).unwrap();
        adopt(&mut set, "a");
        adopt(&mut set, "b");
        journal.append(&mut set).unwrap();
        (dir, path, journal, set)
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart() {
        let (_dir, path, mut journal, mut set) = two_pods();
        set.end("a", Timestamp::from_unix_ms(5));
        journal.append(&mut set).unwrap();
        drop(journal);
        let (_, again) = Journal::open(&path).unwrap();
        assert_eq!(again.pods().keys().collect::<Vec<_>>(), ["b"]);
        assert!(again.ended("a").is_some());
    }

    #[test]
    fn a_torn_last_line_costs_only_itself() {
        let (_dir, path, journal, _) = two_pods();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 40]).unwrap();
        let (mut journal, mut again) = Journal::open(&path).unwrap();
        assert!(again.get("a").is_some());
        adopt(&mut again, "c");
        journal.append(&mut again).unwrap();
        drop(journal);
        assert!(Journal::open(&path).unwrap().1.get("c").is_some(), "what comes after the torn line counts");
    }

    #[test]
    fn what_a_full_disk_refused_is_written_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.log");
        let (mut journal, mut set) = Journal::open(&path).unwrap();
        let good =
            std::mem::replace(&mut journal.file, Arc::new(File::options().append(true).open("/dev/full").unwrap()));
        adopt(&mut set, "a");
        assert!(journal.append(&mut set).is_err());
        journal.file = good;
        journal.append(&mut set).unwrap();
        drop(journal);
        assert!(Journal::open(&path).unwrap().1.get("a").is_some());
    }

    #[test]
    fn the_log_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.log");
        let (mut journal, mut set) = Journal::open(&path).unwrap();
        for round in 0..20_000 {
            let uid = "a".repeat(100) + &round.to_string();
            adopt(&mut set, &uid);
            set.end(&uid, Timestamp::from_unix_ms(0));
            set.drop_ended(&uid);
            set.forget_old_ends(Timestamp::from_unix_ms(i64::MAX));
            journal.append(&mut set).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 2 * COMPACT_BYTES_MIN);
    }
}
