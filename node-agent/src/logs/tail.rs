//! Where the last lines of a log begin.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::line::Line;
use super::open;

/// Read at a time, from the end.
const BLOCK_BYTES: u64 = 64 << 10;

/// A position in the files of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// Which of the files.
    pub(super) file: usize,
    pub(super) offset: u64,
}

/// Where the last `lines` whole lines begin. Partial ones belong to the whole one that follows; at the end of the log
/// they count as one.
pub(super) fn start_of_tail(files: &[PathBuf], lines: u64) -> io::Result<Start> {
    let mut count = Count { wanted: lines, seen: 0, began: false };
    for (file, path) in files.iter().enumerate().rev() {
        if let Some(offset) = scan_back(path, &mut count)? {
            return Ok(Start { file, offset });
        }
    }
    Ok(Start { file: 0, offset: 0 })
}

struct Count {
    wanted: u64,
    seen: u64,
    began: bool,
}

impl Count {
    /// Takes the next line towards the beginning; says whether it is the one before the wanted ones.
    fn is_before_tail(&mut self, line: &[u8]) -> bool {
        let last = !std::mem::replace(&mut self.began, true);
        let ends = Line::parse(line).is_none_or(|line| !line.partial);
        if ends && self.seen == self.wanted {
            return true;
        }
        self.seen += u64::from(ends || (last && self.wanted > 0));
        false
    }
}

/// Goes back through one file line by line. What follows the last line feed is still being written: no line yet.
fn scan_back(path: &Path, count: &mut Count) -> io::Result<Option<u64>> {
    let mut file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let mut start = file.metadata()?.len();
    let mut fed = false;
    let mut buffer = Vec::new(); // from `start` to the line feed of the line that is being put together
    while start > 0 {
        let block_start = start.saturating_sub(BLOCK_BYTES);
        let mut block = vec![0; usize::try_from(start - block_start).unwrap_or(0)];
        file.seek(SeekFrom::Start(block_start))?;
        file.read_exact(&mut block)?;
        block.append(&mut buffer);
        (buffer, start) = (block, block_start);
        while let Some(feed) = buffer.iter().rposition(|byte| *byte == b'\n') {
            if fed && count.is_before_tail(&buffer[feed + 1..]) {
                return Ok(Some(start + buffer.len() as u64 + 1));
            }
            fed = true;
            buffer.truncate(feed);
        }
    }
    let found = fed && count.is_before_tail(&buffer);
    Ok(found.then(|| buffer.len() as u64 + 1))
}
