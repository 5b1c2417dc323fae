//! How what lives in a pod ends, and what it says until then.

use podbus_sandbox_linux::message::{Message, kind};
use podbus_sandbox_linux::process::{self, Ended};
use podbus_sandbox_linux::slot::{Place, Slot};
use podbus_sandbox_linux::{file, time};

use super::{CONTAINERS_MAX, KEY_STREAMS, Next, Pod};
use crate::container::Container;

impl Pod {
    pub(super) fn reap(&mut self) -> Next {
        let mut discard = [0; 1024];
        while file::read(self.signals.raw(), &mut discard).is_ok_and(|count| count > 0) {}
        while let Ok(Some(ended)) = process::reap_any() {
            self.ended(ended);
        }
        Next::Wait
    }

    pub(super) fn ended(&mut self, ended: Ended) {
        if self.pause.as_ref().is_some_and(|(pid, _)| *pid == ended.pid) {
            self.pause = None;
            self.commit_exit(ended.code, ended.signal);
            self.tell(&Message { kind: kind::PAUSE_EXITED, ..Message::default() }, &[]);
            return;
        }
        for place in 0..CONTAINERS_MAX {
            if let Some(container) = &mut self.containers[place]
                && container.pid == ended.pid
                && container.ended.is_none()
            {
                container.end(ended);
                if container.drain(&self.poll, &mut self.taps, place) {
                    self.finish(place);
                }
                return;
            }
        }
        for place in &mut self.execs {
            if let Some(exec) = place
                && exec.pid == ended.pid
            {
                let number = exec.number;
                exec.kill_rest();
                *place = None;
                let message =
                    Message { kind: kind::EXEC_EXITED, number, a: ended.code, b: ended.signal, ..Message::default() };
                self.tell(&message, &[]);
                return;
            }
        }
        self.strays.keep(ended);
    }

    /// Takes what a container wrote.
    pub(super) fn drain(&mut self, stream: u64) -> Next {
        let place = usize::try_from(stream / 2).unwrap_or(usize::MAX);
        if let Some(Some(container)) = self.containers.get_mut(place)
            && container.drain(&self.poll, &mut self.taps, place)
            && container.ended.is_some()
        {
            self.finish(place);
        }
        Next::Wait
    }

    /// A client took some of what waited for it, or has left.
    pub(super) fn tapped(&mut self, key: u64) -> Next {
        if let Some((owner, stream)) = self.taps.ready(&self.poll, key) {
            self.resume(owner, stream);
        }
        Next::Wait
    }

    /// Cuts off clients that have not read for too long.
    pub(super) fn end_taps(&mut self) {
        let now = time::monotonic_nanos();
        while let Some((owner, stream)) = self.taps.expire(&self.poll, now) {
            self.resume(owner, stream);
        }
    }

    /// Reads on, if no other client holds the stream up.
    fn resume(&mut self, owner: usize, stream: usize) {
        if owner >= CONTAINERS_MAX || self.taps.are_full(owner, stream) {
            return;
        }
        let key = (owner * 2 + stream) as u64;
        if let Some(Some(container)) = self.containers.get_mut(owner) {
            container.resume(&self.poll, stream, KEY_STREAMS + key);
            self.drain(key);
        }
    }

    pub(super) fn end_drains(&mut self) {
        let now = time::monotonic_nanos();
        for place in 0..CONTAINERS_MAX {
            if self.containers[place].as_ref().is_some_and(|c| c.ended.is_some() && c.drain_until <= now) {
                self.finish(place);
            }
        }
    }

    /// The exit goes into the record, then to the daemon, and the shim forgets the container.
    fn finish(&mut self, place: usize) {
        let Some(mut container) = self.containers[place].take() else { return };
        // What a client held up is in the pipe still: it goes into the log.
        while container.streams.iter().any(Option::is_some) && self.taps.cut_full(&self.poll, place) {
            container.drain(&self.poll, &mut self.taps, place);
        }
        container.commit_exit();
        self.let_go(place, &container);
        self.tell(&Message { kind: kind::EXITED, text: &container.id, ..Message::default() }, &[]);
    }

    /// A container whose start no daemon lived to commit never was: it has no exit.
    pub(super) fn undo_starts(&mut self) {
        for place in 0..CONTAINERS_MAX {
            let Some(container) = self.containers[place].take_if(|it| it.ended.is_none() && !it.has_started()) else {
                continue;
            };
            let _ = process::kill(container.pid, libc::SIGKILL);
            self.let_go(place, &container);
        }
    }

    fn let_go(&mut self, place: usize, container: &Container) {
        for stream in container.streams.iter().flatten() {
            self.poll.remove(stream.source.raw());
        }
        self.taps.leave(&self.poll, place);
    }

    /// Kills all, and commits each exit.
    pub(super) fn shut_down(&mut self) {
        for exec in self.execs.iter().flatten() {
            exec.kill();
        }
        for container in self.containers.iter().flatten().filter(|container| container.ended.is_none()) {
            let _ = process::kill(container.pid, libc::SIGKILL);
        }
        for place in 0..CONTAINERS_MAX {
            if let Some(container) = &mut self.containers[place] {
                if container.ended.is_none()
                    && let Ok(ended) = process::wait(container.pid)
                {
                    container.end(ended);
                }
                container.drain(&self.poll, &mut self.taps, place);
                self.finish(place);
            }
        }
        // The next pod may ask for them as soon as it hears that this one is gone.
        self.host_ports.iter_mut().for_each(|place| *place = None);
        if let Some((pid, _)) = self.pause.take() {
            let _ = process::kill(pid, libc::SIGKILL);
            let _ = process::wait(pid);
            self.commit_exit(137, libc::SIGKILL);
        }
    }

    /// That of pause.
    fn commit_exit(&self, code: i32, signal: i32) {
        let slot = Slot { time: time::unix_nanos(), code, signal, ..Slot::default() };
        if let Some(record) = &self.record {
            let _ = file::write_at(record.raw(), &slot.encode(), Place::Exit.offset());
        }
    }
}
