//! A pod: one shim's state and its loop.
//!
//! The loop waits for the daemon, for ended children and for output, and does one thing at a time: there is no state
//! that two could see half-made.

mod end;
mod request;

use podbus_sandbox_linux::message::{BYTES_MAX, COOKIE_BYTES, ID_BYTES, Message, VERSION, kind};
use podbus_sandbox_linux::poll::{Poll, Ready};
use podbus_sandbox_linux::process::{self, SingleThread};
use podbus_sandbox_linux::socket::{self, Fds};
use podbus_sandbox_linux::{Fd, poll, time};

use self::request::Answer;
use crate::container::{Container, Exec};
use crate::failure::Report;
use crate::handler::Strays;
use crate::spawner::Heritage;
use crate::tap::{self, Taps};
use crate::userns::Namespaces;
use crate::views::Views;

/// Containers of one pod whose exits are not in their records yet.
const CONTAINERS_MAX: usize = 64;
/// Processes that were asked for in containers.
const EXECS_MAX: usize = 64;
/// Sockets of host ports: one for each family.
const HOST_PORTS_MAX: usize = 128;
/// How long a connection may take to say who it is.
const HELLO_MS_MAX: u32 = 2_000;

const KEY_SIGNALS: u64 = 0;
const KEY_LISTENER: u64 = 1;
const KEY_LINK: u64 = 2;
const KEY_STREAMS: u64 = 16;

struct Pod {
    single: SingleThread,
    id: [u8; ID_BYTES],
    cookie: [u8; COOKIE_BYTES],
    poll: Poll,
    signals: Fd,
    listener: Fd,
    /// The daemon.
    link: Option<Fd>,
    /// Set once the sandbox is committed; without, the end of the connection is the end of the pod.
    record: Option<Fd>,
    pause: Option<(i32, Fd)>,
    heritage: Heritage,
    /// For the first container that has none but the usual ones.
    views: Option<Views>,
    /// The namespaces are made, but for that of the network.
    is_prepared: bool,
    /// Of a pod with a user namespace of its own.
    namespaces: Option<Namespaces>,
    /// Bound sockets: as long as they are open the ports are nobody else's.
    host_ports: [Option<Fd>; HOST_PORTS_MAX],
    containers: [Option<Container>; CONTAINERS_MAX],
    execs: [Option<Exec>; EXECS_MAX],
    taps: Taps,
    /// Orphans that ended before the daemon said whose they are.
    strays: Strays,
}

/// Runs a pod until it is shut down. Returns the exit code; what still runs dies with the shim.
pub(crate) fn run(
    single: SingleThread,
    id: [u8; ID_BYTES],
    cookie: [u8; COOKIE_BYTES],
    listener: Fd,
    heritage: Heritage,
) -> i32 {
    let Ok(poll) = Poll::new() else { return 3 };
    let Ok(signals) = process::signal_fd(&[libc::SIGCHLD]) else { return 3 };
    if poll.add(signals.raw(), KEY_SIGNALS).and_then(|()| poll.add(listener.raw(), KEY_LISTENER)).is_err() {
        return 3;
    }
    let mut pod = Pod {
        single,
        id,
        cookie,
        poll,
        signals,
        listener,
        link: None,
        record: None,
        pause: None,
        heritage,
        views: None,
        is_prepared: false,
        namespaces: None,
        host_ports: [const { None }; HOST_PORTS_MAX],
        containers: [const { None }; CONTAINERS_MAX],
        execs: [const { None }; EXECS_MAX],
        taps: Taps::new(),
        strays: Strays::none(),
    };
    pod.serve()
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Wait,
    End,
}

impl Pod {
    fn serve(&mut self) -> i32 {
        let mut ready = [Ready::default(); 16];
        loop {
            let Ok(count) = self.poll.wait(&mut ready, self.wait_ms()) else { return 3 };
            for event in &ready[..count] {
                let next = match event.key {
                    KEY_SIGNALS => self.reap(),
                    KEY_LISTENER => self.accept(),
                    KEY_LINK => self.hear(),
                    key if key >= tap::KEY => self.tapped(key),
                    key => self.drain(key - KEY_STREAMS),
                };
                if next == Next::End {
                    self.shut_down();
                    return 0;
                }
            }
            self.end_drains();
            self.end_taps();
        }
    }

    /// Until the next deadline of a container whose output is waited for, or of a client that does not read.
    fn wait_ms(&self) -> i32 {
        let drains = self.containers.iter().flatten().filter(|c| c.ended.is_some()).map(|c| c.drain_until);
        match drains.chain(self.taps.deadline()).min() {
            None => -1,
            Some(until) => {
                let nanos = (until - time::monotonic_nanos()).max(0);
                i32::try_from(nanos / 1_000_000 + 1).unwrap_or(i32::MAX)
            }
        }
    }

    /// A connection that knows the cookie takes the place of the one before: there is one daemon.
    fn accept(&mut self) -> Next {
        let Ok(link) = socket::accept(self.listener.raw()) else { return Next::Wait };
        let mut packet = [0; BYTES_MAX];
        let mut fds = Fds::none();
        if !poll::readable(link.raw(), HELLO_MS_MAX).unwrap_or(false) {
            return Next::Wait;
        }
        let Ok(length) = socket::receive(link.raw(), &mut packet, &mut fds) else { return self.refuse_unmade() };
        let Some(hello) = Message::decode(&packet[..length]) else { return self.refuse_unmade() };
        let (id, cookie) = hello.text.split_at_checked(ID_BYTES).unwrap_or_default();
        if hello.kind != kind::HELLO || id != self.id || !is_same(cookie, &self.cookie) {
            return self.refuse_unmade();
        }
        self.drop_link();
        if self.poll.add(link.raw(), KEY_LINK).is_err() {
            return Next::Wait;
        }
        self.link = Some(link);
        let answer = Message {
            kind: kind::DONE,
            sequence: hello.sequence,
            number: VERSION,
            a: i32::from(self.pause.is_some()),
            ..Message::default()
        };
        self.tell(&answer, &[]);
        Next::Wait
    }

    /// A shim that was never set up, and whose maker is gone, has no reason to be.
    fn refuse_unmade(&self) -> Next {
        if self.record.is_none() && self.link.is_none() { Next::End } else { Next::Wait }
    }

    fn drop_link(&mut self) {
        if let Some(link) = self.link.take() {
            self.poll.remove(link.raw());
        }
        // An exec lives no longer than the connection that it was asked for on.
        for exec in self.execs.iter().flatten() {
            exec.kill();
        }
        self.undo_starts();
    }

    fn tell(&self, message: &Message<'_>, fds: &[i32]) {
        let Some(link) = &self.link else { return };
        let mut packet = [0; BYTES_MAX];
        let length = message.encode(&mut packet);
        // Answers are few, and what is not asked for stands in the records: a daemon that does not read loses it.
        let _ = socket::send(link.raw(), &packet[..length], fds, message.sequence != 0);
    }

    fn hear(&mut self) -> Next {
        let Some(link) = &self.link else { return Next::Wait };
        let mut packet = [0; BYTES_MAX];
        let mut fds = Fds::none();
        let length = socket::receive(link.raw(), &mut packet, &mut fds).unwrap_or(0);
        let Some(message) = Message::decode(&packet[..length]) else {
            self.drop_link();
            return self.refuse_unmade();
        };
        let done = Message { kind: kind::DONE, sequence: message.sequence, ..Message::default() };
        match message.kind {
            kind::SHUTDOWN => {
                self.shut_down();
                self.tell(&done, &[]);
                return Next::End;
            }
            kind::USER_NAMESPACE => match self.user_namespace(&mut fds) {
                Ok(namespaces) => {
                    let fds = [namespaces.user.raw(), namespaces.net.raw()];
                    self.tell(&done, &fds);
                }
                Err(failure) => self.tell_failed(message.sequence, &failure.into()),
            },
            _ => match self.carry_out(&message, &mut fds) {
                Ok(Answer { pid, fd }) => {
                    let done = Message { a: pid, number: message.number, ..done };
                    self.tell(&done, fd.as_ref().map(Fd::raw).as_slice());
                }
                Err(report) => self.tell_failed(message.sequence, &report),
            },
        }
        // A pod that is half made is none.
        if message.kind == kind::SETUP && self.record.is_none() { Next::End } else { Next::Wait }
    }

    fn tell_failed(&self, sequence: u32, report: &Report) {
        let (a, b) = (report.errno.0, report.exit_code);
        self.tell(&Message { kind: kind::FAILED, sequence, a, b, text: report.text(), ..Message::default() }, &[]);
    }
}

/// Compares without telling by the time where the first difference is.
fn is_same(left: &[u8], right: &[u8; COOKIE_BYTES]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |seen, (l, r)| seen | (l ^ r)) == 0
}
