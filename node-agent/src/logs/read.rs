//! Reading a log: the last lines, from a time on, and on and on as it is written and rotated.

use std::collections::VecDeque;
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use podbus_common::model::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::watch;

use super::files;
use super::line::Line;
use super::open;
use super::tail::{Start, start_of_tail};

/// Read from a file at a time.
const READ_BYTES: usize = 64 << 10;
/// A chunk is handed on when it has this size, or when nothing more can be read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// A line that is longer is no log line: it is passed on in pieces.
const LINE_BYTES_MAX: usize = 1 << 20;
/// How soon a follower sees what was written.
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);

/// What to read.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogOptions {
    /// Go on until the container has ended.
    pub(crate) follow: bool,
    /// Only so many lines from the end; with `follow`, and all that come.
    pub(crate) tail_lines: Option<u64>,
    /// Only what was written at this time or later.
    pub(crate) since: Option<Timestamp>,
    /// Begin each line with its time.
    pub(crate) timestamps: bool,
}

/// Some output of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogChunk {
    /// Which stream it was written to.
    pub(crate) stderr: bool,
    /// What was written.
    pub(crate) data: Bytes,
}

/// A log being read. Call [`Self::next`] until it gives `None`.
#[derive(Debug)]
pub(crate) struct LogReader {
    log: PathBuf,
    options: LogOptions,
    /// True once the run has ended: what is in the files then is all.
    ended: watch::Receiver<bool>,
    file: Option<File>,
    /// The files still to read, oldest first; the last is the one that is written.
    to_come: VecDeque<PathBuf>,
    /// Bytes that are no whole line yet.
    unparsed: BytesMut,
    /// The last line was partial: what follows belongs to it.
    within_line: bool,
    /// Parsed, not handed on: stream and text.
    ready: VecDeque<(bool, BytesMut)>,
}

impl LogReader {
    /// Opens the log of one run. `ended` says when no more will be written.
    pub(crate) async fn open(log: &Path, options: LogOptions, ended: watch::Receiver<bool>) -> io::Result<Self> {
        let (path, tail_lines) = (log.to_owned(), options.tail_lines);
        let (files, start) = tokio::task::spawn_blocking(move || {
            let files = files(&path)?;
            let start = match tail_lines {
                Some(lines) => start_of_tail(&files, lines)?,
                None => Start { file: 0, offset: 0 },
            };
            io::Result::Ok((files, start))
        })
        .await??;
        let mut reader = Self {
            log: log.to_owned(),
            options,
            ended,
            file: None,
            to_come: files.into_iter().skip(start.file).collect(),
            unparsed: BytesMut::new(),
            within_line: false,
            ready: VecDeque::new(),
        };
        reader.open_next().await?;
        if let Some(file) = &mut reader.file {
            file.seek(SeekFrom::Start(start.offset)).await?;
        }
        Ok(reader)
    }

    /// The next output; `None`: this was all. Cancelled, it loses nothing that it did not return.
    pub(crate) async fn next(&mut self) -> io::Result<Option<LogChunk>> {
        loop {
            if let Some((stderr, text)) = self.ready.pop_front() {
                return Ok(Some(LogChunk { stderr, data: text.freeze() }));
            }
            // Before reading: what was written before the end is then read for certain.
            let last_look = !self.options.follow || *self.ended.borrow();
            if self.read().await? || self.go_on_to_next_file().await? {
                continue;
            }
            if last_look {
                return Ok(None);
            }
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_PERIOD) => {} // cancel-safe (tokio docs)
                // Cancel-safe (tokio docs). Without a sender nobody can say that it goes on.
                result = self.ended.changed() => if result.is_err() { self.options.follow = false },
            }
        }
    }

    /// Reads some of the current file; says whether there was any.
    async fn read(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        self.unparsed.reserve(READ_BYTES);
        if file.read_buf(&mut self.unparsed).await? == 0 {
            return Ok(false);
        }
        self.parse();
        Ok(true)
    }

    /// At the end of a file: goes on to the next, which may have come by rotation; says whether there is one.
    async fn go_on_to_next_file(&mut self) -> io::Result<bool> {
        if self.to_come.is_empty() {
            let newer = self.newer_files().await?;
            // Between the end that was seen and the renaming something may have been written.
            if !newer.is_empty() && self.read().await? {
                return Ok(true);
            }
            self.to_come = newer.into();
        }
        self.open_next().await
    }

    async fn open_next(&mut self) -> io::Result<bool> {
        while let Some(path) = self.to_come.front() {
            let path = path.clone();
            match tokio::task::spawn_blocking(move || open(&path)).await? {
                Ok(file) => {
                    self.file = Some(File::from_std(file));
                    self.to_come.pop_front();
                    return Ok(true);
                }
                // A rotated one was removed meanwhile; the written one may still come.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if self.to_come.len() == 1 {
                        return Ok(false);
                    }
                    self.to_come.pop_front();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The files that were begun after the one that is open.
    async fn newer_files(&self) -> io::Result<Vec<PathBuf>> {
        let Some(file) = &self.file else { return Ok(vec![self.log.clone()]) };
        let open = identity(&file.metadata().await?);
        match tokio::fs::metadata(&self.log).await {
            Ok(named) if identity(&named) == open => return Ok(Vec::new()),
            // Renamed, and not opened anew yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        };
        let log = self.log.clone();
        tokio::task::spawn_blocking(move || {
            let mut files = files(&log)?;
            let is_open = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| identity(&found) == open);
            let begun_before = files.iter().rposition(is_open).map_or(0, |index| index + 1);
            Ok(files.split_off(begun_before))
        })
        .await?
    }

    fn parse(&mut self) {
        let mut unparsed = std::mem::take(&mut self.unparsed);
        while let Some(feed) = unparsed.iter().position(|byte| *byte == b'\n') {
            let line = unparsed.split_to(feed + 1);
            self.take_line(&line[..feed]);
        }
        if unparsed.len() > LINE_BYTES_MAX {
            let line = unparsed.split();
            self.take_line(&line);
        }
        self.unparsed = unparsed;
    }

    fn take_line(&mut self, text: &[u8]) {
        let Some(line) = Line::parse(text) else { return self.put(false, &[text, b"\n"]) };
        let goes_on = std::mem::replace(&mut self.within_line, line.partial);
        let too_old = |since| line.timestamp().is_some_and(|time| time < since);
        if self.options.since.is_some_and(too_old) {
            return;
        }
        let end: &[u8] = if line.partial { b"" } else { b"\n" };
        match self.options.timestamps && !goes_on {
            true => self.put(line.stderr, &[line.time, b" ", line.content, end]),
            false => self.put(line.stderr, &[line.content, end]),
        }
    }

    /// Adds to the last chunk, or begins another.
    fn put(&mut self, stderr: bool, parts: &[&[u8]]) {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let fits = self.ready.back().is_some_and(|(of, text)| *of == stderr && text.len() + bytes <= CHUNK_BYTES);
        if !fits {
            self.ready.push_back((stderr, BytesMut::with_capacity(bytes)));
        }
        if let Some((_, text)) = self.ready.back_mut() {
            parts.iter().for_each(|part| text.extend_from_slice(part));
        }
    }
}

/// Device and inode.
fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
