use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;

use super::rotate::rotate_above;
use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

fn log_with(root: &TempDir, name: &str, lines: &[(u32, &str, &str, &str)]) -> PathBuf {
    let log = root.path().join(name);
    let text = lines.iter().fold(String::new(), |mut text, (second, stream, tag, content)| {
        let _ = writeln!(text, "2026-01-02T03:04:{second:02}.5Z {stream} {tag} {content}");
        text
    });
    fs::write(&log, text).unwrap();
    log
}

/// What a reader gives of a log that is complete, the streams one after the other as they come.
async fn text(log: &Path, options: LogOptions) -> String {
    let (_ended, ended) = watch::channel(true);
    let mut reader = LogReader::open(log, options, ended).await.unwrap();
    let mut text = String::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        text += str::from_utf8(&chunk.data).unwrap();
    }
    text
}

fn tail(lines: u64) -> LogOptions {
    LogOptions { tail_lines: Some(lines), ..LogOptions::default() }
}

#[tokio::test]
async fn output_is_given_by_stream_and_partial_lines_are_joined() {
    let root = tempfile::tempdir().unwrap();
    let lines =
        [(1, "stdout", "F", "one"), (2, "stdout", "P", "tw"), (3, "stdout", "F", "o"), (4, "stderr", "F", "bad")];
    let log = log_with(&root, "0.log", &lines);
    let (_ended, ended) = watch::channel(true);
    let mut reader = LogReader::open(&log, LogOptions::default(), ended).await.unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        chunks.push((chunk.stderr, String::from_utf8(chunk.data.to_vec()).unwrap()));
    }
    assert_eq!(chunks, [(false, "one\ntwo\n".into()), (true, "bad\n".into())]);
    let timed = text(&log, LogOptions { timestamps: true, ..LogOptions::default() }).await;
    let expected = "2026-01-02T03:04:01.5Z one\n2026-01-02T03:04:02.5Z two\n2026-01-02T03:04:04.5Z bad\n";
    assert_eq!(timed, expected);
}

#[tokio::test]
async fn the_tail_counts_whole_lines() {
    let root = tempfile::tempdir().unwrap();
    let lines = [(1, "stdout", "F", "1"), (2, "stdout", "P", "2"), (3, "stdout", "F", "2"), (4, "stdout", "F", "3")];
    let log = log_with(&root, "0.log", &lines);
    let cases = [(0, ""), (1, "3\n"), (2, "22\n3\n"), (3, "1\n22\n3\n"), (4, "1\n22\n3\n"), (9, "1\n22\n3\n")];
    for (count, expected) in cases {
        assert_eq!(text(&log, tail(count)).await, expected, "{count}");
    }
    let unfinished =
        log_with(&root, "1.log", &[(1, "stdout", "F", "1"), (2, "stdout", "F", "2"), (3, "stdout", "P", "$")]);
    assert_eq!(text(&unfinished, tail(1)).await, "$", "a prompt is the last line");
    assert_eq!(text(&unfinished, tail(2)).await, "2\n$");
}

#[tokio::test]
async fn the_tail_of_a_log_is_found_across_blocks_and_rotated_files() {
    let root = tempfile::tempdir().unwrap();
    let lines = |from: u32, to: u32| {
        (from..to).fold(String::new(), |mut text, n| {
            let _ = writeln!(text, "2026-01-02T03:04:05Z stdout F {n:0>100}");
            text
        })
    };
    let log = root.path().join("0.log");
    fs::write(root.path().join("0.log.20260101-000000000"), lines(0, 2000)).unwrap();
    fs::write(root.path().join("0.log.20260102-000000000"), lines(2000, 4000)).unwrap();
    fs::write(&log, lines(4000, 5000)).unwrap();
    for count in [1, 999, 1000, 1001, 2500, 3000, 3001, 4999, 5000, 6000] {
        let text = text(&log, tail(count)).await;
        let first = text.lines().next().map(|line| line.trim_start_matches('0').parse().unwrap_or(0));
        assert_eq!(text.lines().count() as u64, count.min(5000), "{count}");
        assert_eq!(first, Some(5000u64.saturating_sub(count)), "{count}");
    }
}

#[tokio::test]
async fn only_what_is_new_enough_is_given() {
    let root = tempfile::tempdir().unwrap();
    let log =
        log_with(&root, "0.log", &[(1, "stdout", "F", "old"), (2, "stdout", "F", "new"), (3, "stdout", "F", "newer")]);
    let since = Some("2026-01-02T03:04:02Z".parse().unwrap());
    assert_eq!(text(&log, LogOptions { since, ..LogOptions::default() }).await, "new\nnewer\n");
}

#[tokio::test]
async fn what_is_no_log_line_is_given_as_it_is_and_a_torn_end_is_not_given() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("0.log");
    fs::write(&log, "garbage\n2026-01-02T03:04:05Z stdout F whole\n2026-01-02T03:04:05Z std").unwrap();
    assert_eq!(text(&log, LogOptions::default()).await, "garbage\nwhole\n");
}

#[tokio::test]
async fn a_log_that_does_not_exist_is_empty() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(text(&root.path().join("none/0.log"), tail(5)).await, "");
}

/// Writes as a runtime does: it keeps its descriptor until it is told to reopen.
struct Writer {
    log: PathBuf,
    file: fs::File,
}

impl Writer {
    fn open(log: &Path) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        Self { log: log.to_owned(), file }
    }

    fn line(&mut self, number: u32) {
        self.file.write_all(format!("2026-01-02T03:04:05Z stdout F {number}\n").as_bytes()).unwrap();
    }

    fn reopen(&mut self) {
        *self = Self::open(&self.log);
    }
}

#[tokio::test]
async fn a_follower_sees_every_line_once_across_rotations_and_ends_with_the_container() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("0.log");
    let mut writer = Writer::open(&log);
    writer.line(0);
    let (ended_tx, ended) = watch::channel(false);
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let mut reader = LogReader::open(&log, follow, ended).await.unwrap();
    let mut seen = String::new();
    let mut number = 1;
    for round in 0..5i32 {
        // One to three rotations before the reader looks again.
        for rotation in 0..=(round % 3) {
            writer.line(number);
            let time = jiff::Timestamp::from_second(1_764_000_000 + i64::from(round * 10 + rotation)).unwrap();
            let rotated = rotate_above(&log, 0, 99, time).unwrap().expect("grown");
            writer.line(number + 1);
            writer.reopen();
            drop(rotated);
            writer.line(number + 2);
            number += 3;
        }
        let last = format!("{}\n", number - 1);
        while !seen.ends_with(&last) {
            let next = tokio::time::timeout(DEADLINE, reader.next()).await.expect("a line in time");
            seen += str::from_utf8(&next.unwrap().expect("it goes on").data).unwrap();
        }
    }
    writer.line(number);
    ended_tx.send(true).unwrap();
    while let Some(chunk) = tokio::time::timeout(DEADLINE, reader.next()).await.expect("an end in time").unwrap() {
        seen += str::from_utf8(&chunk.data).unwrap();
    }
    let numbers: Vec<u32> = seen.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..=number).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_follower_waits_for_a_log_that_is_still_to_come() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("0.log");
    let (_ended, ended) = watch::channel(false);
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let mut reader = LogReader::open(&log, follow, ended).await.unwrap();
    let waiting = tokio::spawn(async move { reader.next().await.unwrap() });
    Writer::open(&log).line(7);
    let chunk = tokio::time::timeout(DEADLINE, waiting).await.expect("in time").unwrap();
    assert_eq!(chunk.map(|c| c.data.to_vec()), Some(b"7\n".to_vec()));
}

#[test]
fn a_large_file_is_renamed_and_the_oldest_goes() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("0.log");
    let at = |second: i64| jiff::Timestamp::from_second(1_764_000_000 + second).unwrap();
    assert!(rotate_above(&log, 10, 3, at(0)).unwrap().is_none(), "no file");
    for second in 0..5 {
        fs::write(&log, "short").unwrap();
        assert!(rotate_above(&log, 10, 3, at(second)).unwrap().is_none(), "short");
        fs::write(&log, "longer than ten").unwrap();
        assert!(rotate_above(&log, 10, 3, at(second)).unwrap().is_some());
    }
    let mut found: Vec<_> = names(root.path()).unwrap().into_iter().map(|n| n.into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, ["0.log.20251124-160003000", "0.log.20251124-160004000"]);
}

#[test]
fn a_rotation_that_the_runtime_did_not_follow_is_undone() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("0.log");
    fs::write(&log, "longer than ten").unwrap();
    let now = jiff::Timestamp::from_second(1_764_000_000).unwrap();
    let rotated = rotate_above(&log, 10, 5, now).unwrap().expect("grown");
    assert!(!log.exists());
    rotated.undo().unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "longer than ten");
    let rotated = rotate_above(&log, 10, 5, now).unwrap().expect("grown");
    fs::write(&log, "reopened after all").unwrap();
    rotated.undo().unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "reopened after all");
}

#[test]
fn old_runs_lose_their_logs_and_the_newest_keep_theirs() {
    let root = tempfile::tempdir().unwrap();
    let directory = directory(root.path()).join("web");
    fs::create_dir_all(&directory).unwrap();
    for name in ["9.log", "10.log", "11.log", "9.log.20251124-160003000", "10.log.20251124-160003000", "other"] {
        fs::write(directory.join(name), "").unwrap();
    }
    assert_eq!(attempts(root.path(), "web").unwrap(), [9, 10, 11]);
    prune(root.path(), "web", 2).unwrap();
    assert_eq!(attempts(root.path(), "web").unwrap(), [10, 11]);
    assert!(directory.join("other").exists() && !directory.join("9.log.20251124-160003000").exists());
    assert_eq!(attempts(root.path(), "none").unwrap(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_log_that_is_a_link_a_pipe_or_a_device_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let secret = root.path().join("secret");
    fs::write(&secret, "of the node\n").unwrap();
    let path = |name: &str| root.path().join(name);
    std::os::unix::fs::symlink(&secret, path("link.log")).unwrap();
    fs::hard_link(&secret, path("hard.log")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("device.log")).unwrap();
    fs::create_dir(path("directory.log")).unwrap();
    nix::unistd::mkfifo(&path("pipe.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in ["link.log", "hard.log", "device.log", "directory.log", "pipe.log"] {
        for options in [LogOptions::default(), tail(3)] {
            let (_ended, ended) = watch::channel(true);
            let opened = tokio::time::timeout(DEADLINE, LogReader::open(&path(name), options, ended)).await;
            assert!(opened.expect("it does not hang").is_err(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_log_that_becomes_a_link_while_it_is_followed_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let (log, secret) = (root.path().join("0.log"), root.path().join("secret"));
    fs::write(&secret, "of the node\n").unwrap();
    Writer::open(&log).line(1);
    let (_ended, ended) = watch::channel(false);
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let mut reader = LogReader::open(&log, follow, ended).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().data, "1\n");
    fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink(&secret, &log).unwrap();
    assert!(tokio::time::timeout(DEADLINE, reader.next()).await.expect("in time").is_err());
}
