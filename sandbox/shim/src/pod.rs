//! A pod: one shim's state and its loop.
//!
//! The loop waits for the daemon, for ended children and for output, and does one thing at a time: there is no state
//! that two could see half-made.

use core::ffi::CStr;

use podbus_sandbox_linux::memory::Sealed;
use podbus_sandbox_linux::message::{
    ATTACH_INPUT, ATTACH_STDERR, ATTACH_STDOUT, BYTES_MAX, COOKIE_BYTES, ID_BYTES, Message, VERSION, kind,
};
use podbus_sandbox_linux::plan::{self, Plan, tag};
use podbus_sandbox_linux::poll::{Poll, Ready};
use podbus_sandbox_linux::process::{self, Ended, SingleThread};
use podbus_sandbox_linux::slot::{Place, Slot};
use podbus_sandbox_linux::socket::{self, Fds};
use podbus_sandbox_linux::{Errno, Fd, file, mount, namespace, poll, time};

use crate::child;
use crate::container::{self, Container, Exec, Joined};
use crate::failure::{At as _, Outcome, Report};
use crate::handler::Strays;
use crate::tap::{self, Taps};
use crate::userns::Namespaces;

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
    /// The mount namespace of every pause.
    empty: Fd,
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

/// Runs a pod until it is shut down. Returns the exit code; what still runs dies with the shim. `empty` is the mount
/// namespace of pause.
pub(crate) fn run(
    single: SingleThread,
    id: [u8; ID_BYTES],
    cookie: [u8; COOKIE_BYTES],
    listener: Fd,
    empty: Fd,
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
        empty,
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
        let sequence = message.sequence;
        let outcome = match message.kind {
            kind::SETUP => self.set_up(&mut fds).map(|pid| (pid, None)),
            kind::USER_NAMESPACE => match self.user_namespace(&mut fds) {
                Ok(namespaces) => {
                    let fds = [namespaces.user.raw(), namespaces.net.raw()];
                    self.tell(&Message { kind: kind::DONE, sequence, ..Message::default() }, &fds);
                    return Next::Wait;
                }
                Err(failure) => Err(Report::from(failure)),
            },
            kind::START => self.start(message.text, &mut fds).map(|pid| (pid, None)),
            kind::SIGNAL => self.signal(message.text, message.a).map_err(Report::from).map(|()| (0, None)),
            kind::EXEC => self.exec(message.number, message.text, &mut fds),
            kind::RUN => self.run_command(message.number, &mut fds).map(|pid| (pid, None)),
            kind::ADOPT => self.adopt(message.text, message.a, &mut fds).map(|()| (message.a, None)),
            kind::ADOPT_EXEC => self.adopt_exec(message.number, message.a, &mut fds).map(|()| (message.a, None)),
            kind::EXEC_KILL => {
                self.execs.iter().flatten().filter(|exec| exec.number == message.number).for_each(Exec::kill);
                Ok((0, None))
            }
            kind::ATTACH => self.attach(message.text, message.a, &mut fds).map(|fd| (0, fd)).map_err(Report::from),
            kind::CLOSE_STDIN => self.close_stdin(message.text).map_err(Report::from).map(|()| (0, None)),
            kind::SOCKET => socket::stream(message.a).at("make a socket").map_err(Report::from).map(|fd| (0, Some(fd))),
            kind::REOPEN => self.reopen(message.text, &mut fds).map_err(Report::from).map(|()| (0, None)),
            kind::SHUTDOWN => {
                self.shut_down();
                self.tell(&Message { kind: kind::DONE, sequence, ..Message::default() }, &[]);
                return Next::End;
            }
            _ => Err(Report::new(Errno::PROTO, &[b"understand the daemon"])),
        };
        match outcome {
            Ok((pid, fd)) => {
                let answer =
                    Message { kind: kind::DONE, sequence, a: pid, number: message.number, ..Message::default() };
                match fd {
                    Some(fd) => self.tell(&answer, &[fd.raw()]),
                    None => self.tell(&answer, &[]),
                }
                Next::Wait
            }
            Err(report) => {
                let answer = Message {
                    kind: kind::FAILED,
                    sequence,
                    a: report.errno.0,
                    b: report.exit_code,
                    text: report.text(),
                    ..Message::default()
                };
                self.tell(&answer, &[]);
                self.refuse_half_made(message.kind)
            }
        }
    }

    fn refuse_half_made(&self, kind: u32) -> Next {
        if kind == kind::SETUP && self.record.is_none() { Next::End } else { Next::Wait }
    }

    /// The pod's user namespace, made where it is not there yet.
    fn user_namespace(&mut self, fds: &mut Fds) -> Outcome<&Namespaces> {
        if self.namespaces.is_none() {
            let sealed = read_plan(fds)?;
            self.namespaces = Some(Namespaces::make(self.single, Plan::new(&sealed))?);
        }
        self.namespaces.as_ref().ok_or(Errno::NOENT).at("find the user namespace")
    }

    fn user(&self) -> Option<&Fd> {
        self.namespaces.as_ref().map(|namespaces| &namespaces.user)
    }

    /// Enters the pod's namespaces, starts pause, and commits READY.
    fn set_up(&mut self, fds: &mut Fds) -> Result<i32, Report> {
        if self.record.is_some() {
            return Err(Report::new(Errno::EXIST, &[b"set up the sandbox again"]));
        }
        let sealed = read_plan(fds)?;
        let plan = Plan::new(&sealed);
        let fd = |tag, fds: &mut Fds| -> Option<Fd> { fds.take(plan.first(tag)?.index().ok()?).ok() };
        let record = fd(tag::FD_RECORD, fds).ok_or(Errno::PROTO).at("read the plan")?;
        let program = fd(tag::FD_PAUSE, fds).ok_or(Errno::PROTO).at("read the plan")?;
        if let Some(net) = fd(tag::FD_NET, fds) {
            namespace::join(net.raw(), namespace::NET).at("join the network namespace")?;
        }
        let (ipc, uts) = match &self.namespaces {
            Some(namespaces) => {
                namespaces.enter().at("join namespaces")?;
                (0, 0)
            }
            None => (
                if plan.number(tag::OWN_IPC, 0) != 0 { namespace::IPC } else { 0 },
                if plan.number(tag::OWN_UTS, 0) != 0 { namespace::UTS } else { 0 },
            ),
        };
        namespace::unshare(namespace::MOUNT | ipc | uts).at("make namespaces")?;
        mount::make_all_private().at("make mounts private")?;
        if let Some(name) = plan.first(tag::HOSTNAME) {
            namespace::set_hostname(name.bytes()).at_path("set the hostname", name.bytes())?;
        }
        if let Some(size) = plan.first(tag::SHM_BYTES) {
            mount_shm(size.cstr().at("read the plan")?).at("mount /dev/shm")?;
        }
        for (at, field) in plan.all(tag::FD_HOST_PORT).enumerate() {
            let place = self.host_ports.get_mut(at).ok_or(Errno::NOSPC).at("keep the host ports")?;
            *place = Some(field.index().and_then(|index| fds.take(index)).at("keep the host ports")?);
        }
        // That of the node's root: in a user namespace of its own, pause could not enter it.
        let (joined, empty) = match self.namespaces {
            None => (Joined::Mounts, Some(&self.empty)),
            Some(_) => (Joined::None, None),
        };
        let run = |_: &Fd, _: Option<&Fd>| child::run_pause(plan, &program, empty);
        let pid = container::give_birth(self.single, plan, fds, joined, self.user(), run)?.pid;
        self.pause = Some((pid, process::open(pid).at("open pause")?));
        let slot = Slot { time: time::unix_nanos(), pid, ..Slot::default() };
        file::write_at(record.raw(), &slot.encode(), Place::State.offset()).at("commit the sandbox")?;
        self.record = Some(record);
        let _ = process::set_name(c"podbus-shim"); // for people
        Ok(pid)
    }

    fn find(&self, id: &[u8]) -> Option<usize> {
        self.containers.iter().position(|place| place.as_ref().is_some_and(|container| container.id == id))
    }

    fn start(&mut self, id: &[u8], fds: &mut Fds) -> Result<i32, Report> {
        let id = *id.first_chunk::<ID_BYTES>().ok_or(Errno::PROTO).at("read the plan")?;
        if self.find(&id).is_some() {
            return Err(Report::new(Errno::EXIST, &[b"start a container that runs"]));
        }
        let Some((_, pause)) = &self.pause else {
            return Err(Report::new(Errno::SRCH, &[b"start a container: the sandbox is dead"]));
        };
        let place = self.containers.iter().position(Option::is_none).ok_or(Errno::NOSPC).at("keep the container")?;
        let sealed = read_plan(fds)?;
        let plan = Plan::new(&sealed);
        let target = self.target(plan)?;
        let joined = match plan.number(tag::PID_MODE, 0) {
            plan::PID_POD => Joined::Pid(pause),
            plan::PID_TARGET => Joined::Pid(target.as_ref().ok_or(Errno::SRCH).at("find the target container")?),
            _ => Joined::None,
        };
        let container = Container::start(self.single, id, plan, fds, joined, self.user())?;
        let pid = container.pid;
        self.keep(place, container)?;
        Ok(pid)
    }

    fn keep(&mut self, place: usize, container: Container) -> Result<(), Report> {
        for (at, stream) in (0_u64..).zip(&container.streams) {
            if let Some(stream) = stream {
                let key = KEY_STREAMS + place as u64 * 2 + at;
                self.poll.add(stream.source.raw(), key).at("watch the output")?;
            }
        }
        self.containers[place] = Some(container);
        Ok(())
    }

    /// Runs a command of a runtime handler; its end is told as that of an exec.
    fn run_command(&mut self, number: u64, fds: &mut Fds) -> Result<i32, Report> {
        let place = self.execs.iter().position(Option::is_none).ok_or(Errno::NOSPC).at("keep the process")?;
        let sealed = read_plan(fds)?;
        let command = container::run(self.single, number, Plan::new(&sealed), fds)?;
        let pid = command.pid;
        self.execs[place] = Some(command);
        Ok(pid)
    }

    fn adopt(&mut self, id: &[u8], pid: i32, fds: &mut Fds) -> Result<(), Report> {
        let id = *id.first_chunk::<ID_BYTES>().ok_or(Errno::PROTO).at("read the plan")?;
        if self.find(&id).is_some() {
            return Err(Report::new(Errno::EXIST, &[b"adopt a container that runs"]));
        }
        let place = self.containers.iter().position(Option::is_none).ok_or(Errno::NOSPC).at("keep the container")?;
        let sealed = read_plan(fds)?;
        let ended = self.strays.claim(pid)?;
        let container = Container::adopt(id, pid, Plan::new(&sealed), fds)?;
        self.keep(place, container)?;
        if let Some(ended) = ended {
            self.ended(ended);
        }
        Ok(())
    }

    fn adopt_exec(&mut self, number: u64, pid: i32, fds: &mut Fds) -> Result<(), Report> {
        let place = self.execs.iter().position(Option::is_none).ok_or(Errno::NOSPC).at("keep the process")?;
        let sealed = read_plan(fds)?;
        let ended = self.strays.claim(pid)?;
        self.execs[place] = Some(container::adopt_exec(number, pid, Plan::new(&sealed), fds));
        if let Some(ended) = ended {
            self.ended(ended);
        }
        Ok(())
    }

    /// The first process of the container that the plan names.
    fn target(&self, plan: Plan<'_>) -> Outcome<Option<Fd>> {
        let Some(field) = plan.first(tag::TARGET) else { return Ok(None) };
        let container = self
            .find(field.bytes())
            .and_then(|place| self.containers[place].as_ref())
            .filter(|container| container.ended.is_none())
            .ok_or(Errno::SRCH)
            .at("find the container")?;
        process::open(container.pid).at("open the container").map(Some)
    }

    fn signal(&mut self, id: &[u8], signal: i32) -> Outcome<()> {
        let container = self.find(id).and_then(|place| self.containers[place].as_ref());
        match container {
            // One that is not reaped yet, so its process id is nobody else's.
            Some(container) if container.ended.is_none() => {
                process::kill(container.pid, signal).at("signal the container")
            }
            _ => Err(Errno::SRCH).at("find the container"),
        }
    }

    fn exec(&mut self, number: u64, id: &[u8], fds: &mut Fds) -> Result<(i32, Option<Fd>), Report> {
        let place = self.execs.iter().position(Option::is_none).ok_or(Errno::NOSPC).at("keep the process")?;
        let sealed = read_plan(fds)?;
        let plan = Plan::new(&sealed);
        let found = self.find(id).is_some();
        let target = self.target(plan)?.filter(|_| found).ok_or(Errno::SRCH).at("find the container")?;
        let (exec, terminal) = container::exec(self.single, number, plan, fds, &target, self.user())?;
        let pid = exec.pid;
        self.execs[place] = Some(exec);
        Ok((pid, terminal))
    }

    fn reopen(&mut self, id: &[u8], fds: &mut Fds) -> Outcome<()> {
        let file = fds.take(0).at("take the log")?;
        let place = self.find(id).ok_or(Errno::SRCH).at("find the container")?;
        if let Some(container) = &mut self.containers[place] {
            container.log.reopen(file);
        }
        Ok(())
    }

    /// Gives a client copies of a container's output from now on, and its input.
    fn attach(&mut self, id: &[u8], wanted: i32, fds: &mut Fds) -> Outcome<Option<Fd>> {
        let place = self.find(id).ok_or(Errno::SRCH).at("find the container")?;
        let container = self.containers[place].as_ref().filter(|it| it.ended.is_none());
        let container = container.ok_or(Errno::SRCH).at("find the container")?;
        let mut next = 0;
        for (flag, stream) in [(ATTACH_STDOUT, 0), (ATTACH_STDERR, 1)] {
            if wanted & flag == 0 {
                continue;
            }
            let pipe = fds.take(next).at("take the client's pipe")?;
            next += 1;
            // One that is closed already has its end at once.
            if container.streams[stream].is_some() {
                self.taps.add(&self.poll, place, stream, pipe).at("keep the client's pipe")?;
            }
        }
        match &container.input {
            Some(input) if wanted & ATTACH_INPUT != 0 => {
                file::duplicate(input.raw(), 3).at("copy standard input").map(Some)
            }
            _ => Ok(None),
        }
    }

    /// A terminal stays: its input has no end of its own.
    fn close_stdin(&mut self, id: &[u8]) -> Outcome<()> {
        let place = self.find(id).ok_or(Errno::SRCH).at("find the container")?;
        if let Some(container) = &mut self.containers[place]
            && !container.has_terminal
        {
            container.input = None;
        }
        Ok(())
    }

    fn reap(&mut self) -> Next {
        let mut discard = [0; 1024];
        while file::read(self.signals.raw(), &mut discard).is_ok_and(|count| count > 0) {}
        while let Ok(Some(ended)) = process::reap_any() {
            self.ended(ended);
        }
        Next::Wait
    }

    fn ended(&mut self, ended: Ended) {
        if self.pause.as_ref().is_some_and(|(pid, _)| *pid == ended.pid) {
            self.pause = None;
            let slot = Slot { time: time::unix_nanos(), code: ended.code, signal: ended.signal, ..Slot::default() };
            if let Some(record) = &self.record {
                let _ = file::write_at(record.raw(), &slot.encode(), Place::Exit.offset());
            }
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
    fn drain(&mut self, stream: u64) -> Next {
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
    fn tapped(&mut self, key: u64) -> Next {
        if let Some((owner, stream)) = self.taps.ready(&self.poll, key) {
            self.resume(owner, stream);
        }
        Next::Wait
    }

    /// Cuts off clients that have not read for too long.
    fn end_taps(&mut self) {
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

    fn end_drains(&mut self) {
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
        for stream in container.streams.iter().flatten() {
            self.poll.remove(stream.source.raw());
        }
        self.taps.leave(&self.poll, place);
        self.tell(&Message { kind: kind::EXITED, text: &container.id, ..Message::default() }, &[]);
    }

    /// Kills all, and commits each exit.
    fn shut_down(&mut self) {
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
            let slot = Slot { time: time::unix_nanos(), code: 137, signal: libc::SIGKILL, ..Slot::default() };
            if let Some(record) = &self.record {
                let _ = file::write_at(record.raw(), &slot.encode(), Place::Exit.offset());
            }
        }
    }
}

/// The plan is the first descriptor of a message.
fn read_plan(fds: &mut Fds) -> Outcome<Sealed> {
    let file = fds.take(0).at("read the plan")?;
    Sealed::map(&file).at("map the plan")
}

/// Compares without telling by the time where the first difference is.
fn is_same(left: &[u8], right: &[u8; COOKIE_BYTES]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |seen, (l, r)| seen | (l ^ r)) == 0
}

fn mount_shm(size: &CStr) -> podbus_sandbox_linux::Result<()> {
    let options = [(c"mode", c"1777"), (c"size", size)];
    let shm = mount::new(c"tmpfs", &options, mount::NOSUID | mount::NODEV | mount::NOEXEC)?;
    let target = file::open(file::CWD, c"/mnt/shm", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::attach(&shm, &target)
}
