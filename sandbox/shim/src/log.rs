//! Container output, written to the log in the format of CRI: a line is one write.

use podbus_sandbox_linux::memory::Pages;
use podbus_sandbox_linux::{Errno, Fd, Result, file, time};

/// The longest piece of a line, as containerd cuts it.
const PIECE_BYTES: usize = 16384;
/// `<time> <stream> <tag> `.
const HEADER_BYTES: usize = time::RFC3339_BYTES + 10;
/// A log that nobody rotates stops here.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// The file that both streams of a container go to.
pub(crate) struct Log {
    file: Option<Fd>,
    written: u64,
    dropped: u64,
}

impl Log {
    pub(crate) fn new(file: Option<Fd>) -> Self {
        let written = file.as_ref().and_then(|file| file::size(file.raw()).ok()).unwrap_or(0);
        Self { file, written, dropped: 0 }
    }

    /// Goes on in another file.
    pub(crate) fn reopen(&mut self, file: Fd) {
        let dropped = self.dropped;
        *self = Self::new(Some(file));
        self.dropped = dropped;
    }

    /// Writes a whole line. A container never waits for a disk and never fails for it: what cannot be written is
    /// dropped and counted, and the next line that can be written is preceded by the count.
    fn line(&mut self, line: &[u8]) {
        let Some(file) = &self.file else { return };
        if self.written >= LOG_BYTES_MAX {
            self.dropped += line.len() as u64;
            return;
        }
        if self.dropped > 0 && write_gap(file, self.dropped).is_ok() {
            self.dropped = 0;
        }
        match file::write(file.raw(), line) {
            Ok(count) => self.written += count as u64,
            Err(_) => self.dropped += line.len() as u64,
        }
    }
}

fn write_gap(file: &Fd, dropped: u64) -> Result<()> {
    const TEXT: &[u8] = b" bytes of output were dropped here\n";
    let mut line = [0; HEADER_BYTES + 20 + TEXT.len()];
    header(&mut line, Stream::STDERR, b'F');
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = dropped;
    while start > 0 && (rest > 0 || start == digits.len()) {
        start -= 1;
        digits[start] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    let count = digits.len() - start;
    line[HEADER_BYTES..HEADER_BYTES + count].copy_from_slice(&digits[start..]);
    line[HEADER_BYTES + count..HEADER_BYTES + count + TEXT.len()].copy_from_slice(TEXT);
    file::write(file.raw(), &line[..HEADER_BYTES + count + TEXT.len()]).map(drop)
}

fn header(place: &mut [u8], name: &[u8; 6], tag: u8) {
    place[..time::RFC3339_BYTES].copy_from_slice(&time::rfc3339(time::unix_nanos()));
    let rest = &mut place[time::RFC3339_BYTES..HEADER_BYTES];
    rest[0] = b' ';
    rest[1..7].copy_from_slice(name);
    rest[7] = b' ';
    rest[8] = tag;
    rest[9] = b' ';
}

/// One end of a pipe or terminal that a container writes to.
///
/// The buffer begins with room for a header. The header of a line is written over the bytes before it, which are
/// those of lines that were written already: so a line is never copied.
pub(crate) struct Stream {
    pub(crate) source: Fd,
    name: &'static [u8; 6],
    buffer: Pages,
    filled: usize,
}

/// What [`Stream::drain`] came to.
#[derive(PartialEq, Eq)]
pub(crate) enum Drained {
    /// There may be more later.
    Open,
    /// Nothing is read before those who get a copy have taken theirs.
    Held,
    /// The end.
    Closed,
}

impl Stream {
    pub(crate) const STDOUT: &'static [u8; 6] = b"stdout";
    pub(crate) const STDERR: &'static [u8; 6] = b"stderr";

    pub(crate) fn new(source: Fd, name: &'static [u8; 6]) -> Result<Self> {
        file::set_nonblocking(source.raw())?;
        Ok(Self { source, name, buffer: Pages::new(HEADER_BYTES + PIECE_BYTES + 2)?, filled: 0 })
    }

    /// Reads at most `reads` times, gives `tap` a copy, which says whether to go on, and writes what is whole.
    pub(crate) fn drain(&mut self, log: &mut Log, reads: u32, mut tap: impl FnMut(&[u8]) -> bool) -> Drained {
        for _ in 0..reads {
            let start = HEADER_BYTES + self.filled;
            match file::read(self.source.raw(), &mut self.buffer[start..=HEADER_BYTES + PIECE_BYTES]) {
                Ok(count) if count > 0 => {
                    let goes_on = tap(&self.buffer[start..start + count]);
                    self.filled += count;
                    self.write_lines(log);
                    if !goes_on {
                        return Drained::Held;
                    }
                }
                Err(Errno::AGAIN) => return Drained::Open,
                Err(Errno::INTR) => {}
                // The end of a pipe is 0, that of a terminal EIO.
                Ok(_) | Err(_) => {
                    self.write_rest(log);
                    return Drained::Closed;
                }
            }
        }
        Drained::Open
    }

    fn write_lines(&mut self, log: &mut Log) {
        let end = HEADER_BYTES + self.filled;
        let mut start = HEADER_BYTES;
        while let Some(length) = self.buffer[start..end].iter().position(|byte| *byte == b'\n') {
            header(&mut self.buffer[start - HEADER_BYTES..start], self.name, b'F');
            log.line(&self.buffer[start - HEADER_BYTES..=start + length]);
            start += length + 1;
        }
        self.buffer.copy_within(start..end, HEADER_BYTES);
        self.filled = end - start;
        if self.filled > PIECE_BYTES {
            self.write_piece(log, PIECE_BYTES);
        }
    }

    /// Writes the first `length` bytes as a piece without a line end.
    fn write_piece(&mut self, log: &mut Log, length: usize) {
        let end = HEADER_BYTES + length;
        header(&mut self.buffer[..HEADER_BYTES], self.name, b'P');
        let next = core::mem::replace(&mut self.buffer[end], b'\n');
        log.line(&self.buffer[..=end]);
        self.buffer[end] = next;
        self.buffer.copy_within(end..HEADER_BYTES + self.filled, HEADER_BYTES);
        self.filled -= length;
    }

    /// Writes what is left without a line end; also at a deadline, when the end has not come.
    pub(crate) fn write_rest(&mut self, log: &mut Log) {
        if self.filled > 0 {
            self.write_piece(log, self.filled);
        }
    }
}
