//! Taps: clients that get a copy of what a container writes.
//!
//! A client's pipe takes 256 KiB. Where it is full, the piece that did not fit waits here, and nothing more is read
//! from the container: back-pressure, as if the client were the pipe's only reader. One that does not take the whole
//! piece within a second is cut off, alone.

use podbus_sandbox_linux::memory::Pages;
use podbus_sandbox_linux::poll::Poll;
use podbus_sandbox_linux::{Errno, Fd, Result, file, time};

/// The keys of taps are at least this.
pub(crate) const KEY: u64 = 1 << 48;
/// Pipes of clients: 16 clients with two streams each.
const TAPS_MAX: usize = 32;
/// How long a full pipe is waited for.
const FULL_NANOS_MAX: i64 = 1_000_000_000;
/// The owner of taps whose container has ended: they take what waits, then they end.
const NOBODY: usize = usize::MAX;

/// The taps of all containers of a pod.
pub(crate) struct Taps {
    taps: [Option<Tap>; TAPS_MAX],
    /// How many there were: part of a key, so that what is told of one that is gone is not taken for another.
    count: u32,
}

struct Tap {
    pipe: Fd,
    key: u64,
    /// The place of the container, and 0 for standard output, 1 for standard error.
    owner: usize,
    stream: usize,
    waiting: Option<Waiting>,
}

/// What did not fit into the pipe.
struct Waiting {
    bytes: Pages,
    from: usize,
    to: usize,
    until: i64,
}

impl Taps {
    pub(crate) fn new() -> Self {
        Self { taps: [const { None }; TAPS_MAX], count: 0 }
    }

    /// One more.
    pub(crate) fn add(&mut self, poll: &Poll, owner: usize, stream: usize, pipe: Fd) -> Result<()> {
        let place = self.taps.iter().position(Option::is_none).ok_or(Errno::NOSPC)?;
        file::set_nonblocking(pipe.raw())?;
        self.count = self.count.wrapping_add(1);
        let key = KEY | u64::from(self.count) << 8 | place as u64;
        poll.add_writer(pipe.raw(), key)?;
        self.taps[place] = Some(Tap { pipe, key, owner, stream, waiting: None });
        Ok(())
    }

    /// Copies `bytes` to all taps of a stream; whether all of them took all.
    pub(crate) fn write(&mut self, poll: &Poll, owner: usize, stream: usize, bytes: &[u8]) -> bool {
        let mut took_all = true;
        for place in &mut self.taps {
            let Some(tap) = place.as_mut().filter(|tap| tap.owner == owner && tap.stream == stream) else { continue };
            match tap.write(bytes) {
                Ok([]) => {}
                Ok(rest) if tap.keep(rest) && poll.want_room(tap.pipe.raw(), tap.key, true).is_ok() => took_all = false,
                // It has left, or there is no memory to wait with: its end is the end of the pipe.
                Ok(_) | Err(_) => remove(poll, place),
            }
        }
        took_all
    }

    /// Whether a tap of a stream is full.
    pub(crate) fn are_full(&self, owner: usize, stream: usize) -> bool {
        self.taps.iter().flatten().any(|tap| tap.owner == owner && tap.stream == stream && tap.waiting.is_some())
    }

    /// A pipe has room, or was closed: the stream that may be read on.
    pub(crate) fn ready(&mut self, poll: &Poll, key: u64) -> Option<(usize, usize)> {
        let place = self.taps.iter_mut().find(|place| place.as_ref().is_some_and(|tap| tap.key == key))?;
        let tap = place.as_mut()?;
        let freed = (tap.owner, tap.stream);
        match tap.flush() {
            Ok(false) => return None,
            Ok(true) if tap.owner != NOBODY && poll.want_room(tap.pipe.raw(), key, false).is_ok() => {}
            Ok(true) | Err(_) => remove(poll, place),
        }
        Some(freed)
    }

    /// The next time at which [`Taps::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.taps.iter().flatten().filter_map(|tap| Some(tap.waiting.as_ref()?.until)).min()
    }

    /// Cuts off one client that has not read for too long: the stream that may be read on.
    pub(crate) fn expire(&mut self, poll: &Poll, now: i64) -> Option<(usize, usize)> {
        let is_late = |tap: &Tap| tap.waiting.as_ref().is_some_and(|waiting| waiting.until <= now);
        let place = self.taps.iter_mut().find(|place| place.as_ref().is_some_and(is_late))?;
        let freed = place.as_ref().map(|tap| (tap.owner, tap.stream));
        remove(poll, place);
        freed
    }

    /// Cuts off the clients that hold up a container's output; whether there were any.
    pub(crate) fn cut_full(&mut self, poll: &Poll, owner: usize) -> bool {
        let mut any = false;
        for place in &mut self.taps {
            if place.as_ref().is_some_and(|tap| tap.owner == owner && tap.waiting.is_some()) {
                remove(poll, place);
                any = true;
            }
        }
        any
    }

    /// A container has ended: so do its taps, once they are empty.
    pub(crate) fn leave(&mut self, poll: &Poll, owner: usize) {
        for place in &mut self.taps {
            match place {
                Some(tap) if tap.owner == owner && tap.waiting.is_some() => tap.owner = NOBODY,
                Some(tap) if tap.owner == owner => remove(poll, place),
                _ => {}
            }
        }
    }
}

fn remove(poll: &Poll, place: &mut Option<Tap>) {
    if let Some(tap) = place.take() {
        poll.remove(tap.pipe.raw());
    }
}

impl Tap {
    /// Writes what fits; the rest.
    fn write<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match file::write(self.pipe.raw(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(rest)
    }

    fn keep(&mut self, rest: &[u8]) -> bool {
        let Ok(mut bytes) = Pages::new(rest.len()) else { return false };
        bytes[..rest.len()].copy_from_slice(rest);
        let until = time::monotonic_nanos() + FULL_NANOS_MAX;
        self.waiting = Some(Waiting { bytes, from: 0, to: rest.len(), until });
        true
    }

    /// Writes what waits; whether all of it. Where nothing waits, the client has left.
    fn flush(&mut self) -> Result<bool> {
        let mut waiting = self.waiting.take().ok_or(Errno::PIPE)?;
        let rest = self.write(&waiting.bytes[waiting.from..waiting.to])?.len();
        if rest > 0 {
            waiting.from = waiting.to - rest;
            self.waiting = Some(waiting);
        }
        Ok(rest == 0)
    }
}
