//! Containers and execs as the shim keeps them, and how each comes to life.

use podbus_sandbox_linux::message::{BYTES_MAX, ID_BYTES, Message, kind};
use podbus_sandbox_linux::plan::{self, Plan, tag};
use podbus_sandbox_linux::poll::Poll;
use podbus_sandbox_linux::process::{self, Copy, CopyOptions, Ended, SingleThread};
use podbus_sandbox_linux::slot::{FLAG_OOM, Place, SLOT_BYTES, Slot};
use podbus_sandbox_linux::socket::{self, Fds};
use podbus_sandbox_linux::{Errno, Fd, file, namespace, poll, time};

use crate::child::{self, Standard};
use crate::console;
use crate::failure::{At as _, Failure, Outcome, Report};
use crate::log::{Drained, Log, Stream};
use crate::rootfs::Site;
use crate::tap::Taps;
use crate::userns;
use crate::views::Views;

/// How long a new process may take to reach its program.
const START_MS_MAX: u32 = 20_000;
/// How long output may come after the first process has ended, where something else holds the pipe.
pub(crate) const DRAIN_NANOS_MAX: i64 = 2_000_000_000;
/// Reads at the end: more than a pipe holds.
const READS_AT_END: u32 = 128;

/// A container whose exit is not in its record yet.
pub(crate) struct Container {
    pub(crate) id: [u8; ID_BYTES],
    pub(crate) pid: i32,
    record: Fd,
    oom: Option<Fd>,
    kill: Option<Fd>,
    pub(crate) log: Log,
    pub(crate) streams: [Option<Stream>; 2],
    /// The pipe or terminal of standard input, kept open for an attach, also while no daemon runs.
    pub(crate) input: Option<Fd>,
    pub(crate) has_terminal: bool,
    pub(crate) ended: Option<Ended>,
    ended_at: i64,
    /// Until when output is waited for, on the clock that never jumps.
    pub(crate) drain_until: i64,
}

/// A process that the daemon asked for in a container. It lives no longer than the connection.
pub(crate) struct Exec {
    pub(crate) number: u64,
    pub(crate) pid: i32,
    kill: Option<Fd>,
}

impl Exec {
    /// Kills it and all that it started.
    pub(crate) fn kill(&self) {
        let _ = process::kill(self.pid, libc::SIGKILL);
        self.kill_rest();
    }

    /// Kills all that it started; it has ended itself.
    pub(crate) fn kill_rest(&self) {
        if let Some(kill) = &self.kill {
            let _ = file::write(kill.raw(), b"1");
        }
    }
}

/// The descriptor that a field of the plan names.
pub(crate) fn take(plan: Plan<'_>, fds: &mut Fds, tag: u16) -> Option<Fd> {
    let index = plan.first(tag)?.index().ok()?;
    fds.take(index).ok()
}

impl Container {
    /// Brings a container to life, and commits RUNNING to its record.
    pub(crate) fn start(
        single: SingleThread,
        id: [u8; ID_BYTES],
        plan: Plan<'_>,
        fds: &mut Fds,
        home: &Home<'_>,
    ) -> Result<Self, Report> {
        let record = take(plan, fds, tag::FD_RECORD).ok_or(Errno::PROTO).at("read the plan")?;
        let log = Log::new(take(plan, fds, tag::FD_LOG));
        let (oom, kill) = (take(plan, fds, tag::FD_OOM), take(plan, fds, tag::FD_KILL));
        let terminal = plan.number(tag::TERMINAL, 0) != 0;
        let (out_source, out) = file::pipe(0).at("make a pipe")?;
        let (err_source, err) = file::pipe(0).at("make a pipe")?;
        let (in_end, input) = file::pipe(0).at("make a pipe")?;
        let wants_input = plan.number(tag::STDIN, 0) != 0;
        let standard = Standard { input: wants_input.then_some(&in_end), output: &out, error: &err };
        let standard = (!terminal).then_some(&standard);
        console::give(plan, [Some(&in_end), Some(&out), Some(&err)]);
        let born = give_birth(single, plan, fds, home.joined, home.user, |shim, layers| {
            let site = match home.user {
                None => Site::Empty { empty: home.empty, views: home.views.as_ref() },
                Some(_) => Site::Own { layers },
            };
            child::run_container(plan, fds, standard, shim, site)
        })?;
        let stream = |source, name| Stream::new(source, name).at("read the output");
        let undo = |failure| {
            let _ = process::kill(born.pid, libc::SIGKILL);
            let _ = process::wait(born.pid);
            failure
        };
        let (streams, input) = match born.terminal {
            Some(master) => {
                let input = file::duplicate(master.raw(), 3).at("keep the terminal").map_err(undo)?;
                ([Some(stream(master, Stream::STDOUT).map_err(undo)?), None], Some(input))
            }
            None => (
                [
                    Some(stream(out_source, Stream::STDOUT).map_err(undo)?),
                    Some(stream(err_source, Stream::STDERR).map_err(undo)?),
                ],
                wants_input.then_some(input),
            ),
        };
        let slot = Slot { time: time::unix_nanos(), pid: born.pid, ..Slot::default() };
        file::write_at(record.raw(), &slot.encode(), Place::State.offset()).at("commit the start").map_err(undo)?;
        Ok(Self {
            id,
            pid: born.pid,
            record,
            oom,
            kill,
            log,
            streams,
            input,
            has_terminal: terminal,
            ended: None,
            ended_at: 0,
            drain_until: 0,
        })
    }

    /// Takes over a container that a runtime handler made: its first process is an orphan of the shim by now.
    pub(crate) fn adopt(id: [u8; ID_BYTES], pid: i32, plan: Plan<'_>, fds: &mut Fds) -> Result<Self, Report> {
        let record = take(plan, fds, tag::FD_RECORD).ok_or(Errno::PROTO).at("read the plan")?;
        let mut stream = |tag, name| match take(plan, fds, tag) {
            Some(source) => Stream::new(source, name).at("read the output").map(Some),
            None => Ok(None),
        };
        let streams = [stream(tag::FD_STDOUT, Stream::STDOUT)?, stream(tag::FD_STDERR, Stream::STDERR)?];
        Ok(Self {
            id,
            pid,
            record,
            oom: take(plan, fds, tag::FD_OOM),
            kill: take(plan, fds, tag::FD_KILL),
            log: Log::new(take(plan, fds, tag::FD_LOG)),
            streams,
            input: take(plan, fds, tag::FD_STDIN),
            has_terminal: plan.number(tag::TERMINAL, 0) != 0,
            ended: None,
            ended_at: 0,
            drain_until: 0,
        })
    }

    /// Whether it counts as started: RUNNING stands in its record, and not only a handler has made it.
    pub(crate) fn has_started(&self) -> bool {
        let mut slot = [0; SLOT_BYTES];
        let length = file::read_at(self.record.raw(), &mut slot, Place::State.offset()).unwrap_or(0);
        Slot::decode(&slot[..length]).is_some()
    }

    /// The first process has ended: nothing of the container lives on, and output is waited for a little.
    pub(crate) fn end(&mut self, ended: Ended) {
        self.ended = Some(ended);
        self.ended_at = time::unix_nanos();
        self.drain_until = time::monotonic_nanos() + DRAIN_NANOS_MAX;
        // In a shared PID namespace others of it may live on; in its own the kernel has killed them.
        if let Some(kill) = &self.kill {
            let _ = file::write(kill.raw(), b"1");
        }
    }

    /// Reads what there is, for the log and for `taps` that belong to `owner`; whether all output has come.
    pub(crate) fn drain(&mut self, poll: &Poll, taps: &mut Taps, owner: usize) -> bool {
        let reads = if self.ended.is_some() { READS_AT_END } else { 4 };
        for (at, place) in self.streams.iter_mut().enumerate() {
            let Some(stream) = place else { continue };
            if taps.are_full(owner, at) {
                continue;
            }
            let tap = |bytes: &[u8]| taps.write(poll, owner, at, bytes);
            match stream.drain(&mut self.log, reads, tap) {
                Drained::Open => {}
                Drained::Held => poll.remove(stream.source.raw()),
                Drained::Closed => *place = None,
            }
        }
        self.streams.iter().all(Option::is_none)
    }

    /// Reads again from a stream that a client held up.
    pub(crate) fn resume(&mut self, poll: &Poll, at: usize, key: u64) {
        if let Some(Some(stream)) = self.streams.get(at) {
            let _ = poll.add(stream.source.raw(), key); // fails only where it was never removed
        }
    }

    /// Writes the exit into the record. From now on it is known, whatever dies.
    pub(crate) fn commit_exit(&mut self) {
        for stream in self.streams.iter_mut().flatten() {
            stream.write_rest(&mut self.log);
        }
        let Some(ended) = self.ended else { return };
        let oom = self.oom.as_ref().is_some_and(had_oom_kill);
        let slot = Slot {
            time: self.ended_at,
            code: ended.code,
            signal: ended.signal,
            flags: if oom { FLAG_OOM } else { 0 },
            pid: self.pid,
            ..Slot::default()
        };
        let _ = file::write_at(self.record.raw(), &slot.encode(), Place::Exit.offset());
    }
}

/// Reads `oom_kill` of `memory.oom_control` or `memory.events`.
fn had_oom_kill(counter: &Fd) -> bool {
    let mut text = [0; 512];
    let Ok(length) = file::read_at(counter.raw(), &mut text, 0) else { return false };
    text[..length]
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"oom_kill "))
        .any(|count| count != b"0")
}

/// Where a container is born.
pub(crate) struct Home<'a> {
    pub(crate) joined: Joined<'a>,
    /// The pod's user namespace.
    pub(crate) user: Option<&'a Fd>,
    /// The mount namespace of pause.
    pub(crate) empty: &'a Fd,
    /// Made for it in advance.
    pub(crate) views: Option<Views>,
}

/// The namespaces that a new process joins.
#[derive(Clone, Copy)]
pub(crate) enum Joined<'a> {
    /// Those of the shim, and new ones.
    None,
    /// As `None`, but for a mount namespace: it enters one that is there.
    Mounts,
    /// The PID namespace of the process `target`, else as `Mounts`; the shim's is `own`. With a user namespace as `None`.
    Pid { target: &'a Fd, own: &'a Fd },
    /// All of the process (the first of a container).
    All(&'a Fd),
}

/// A process that has reached its program.
pub(crate) struct Born {
    pub(crate) pid: i32,
    pub(crate) terminal: Option<Fd>,
}

/// Makes a process that goes on with `run`, and waits until it is its program. With a user namespace `user` it is the
/// root of that one by then, and gets the layers of the plan, which only the node's root could put together.
pub(crate) fn give_birth(
    single: SingleThread,
    plan: Plan<'_>,
    fds: &Fds,
    joined: Joined<'_>,
    user: Option<&Fd>,
    run: impl Fn(&Fd, Option<&Fd>) -> Failure,
) -> Result<Born, Report> {
    let (ours, theirs) = socket::pair().at("make a socket")?;
    let cgroup = match plan.first(tag::FD_CGROUP_BIRTH) {
        Some(field) => Some(field.index().and_then(|index| fds.get(index)).at("read the plan")?),
        None => None,
    };
    let is_direct = user.is_none() && !matches!(joined, Joined::All(_));
    let mut namespaces = match joined {
        Joined::All(_) | Joined::Mounts => 0,
        Joined::Pid { .. } if is_direct => 0,
        Joined::Pid { .. } | Joined::None => namespace::MOUNT,
    };
    if matches!(joined, Joined::None | Joined::Mounts) && plan.number(tag::PID_MODE, 0) == plan::PID_OWN {
        namespaces |= namespace::PID;
    }
    let first = CopyOptions {
        namespaces: if is_direct { namespaces } else { 0 },
        cgroup: if is_direct { cgroup } else { None },
        sibling: false,
    };
    let copied = match joined {
        Joined::Pid { target, own } if is_direct => copy_into(single, first, target, own)?,
        _ => process::copy(single, first).at("make a process")?,
    };
    match copied {
        Copy::Child => {
            drop(ours);
            let failure = process::die_with_parent().at("follow the shim").and_then(|()| {
                child::join_cgroups(plan, fds)?;
                child::set_oom_score(plan)?;
                if is_direct {
                    return Ok((None, None));
                }
                let layers = user.map_or(Ok(None), |user| userns::mount_layers(plan, user))?;
                let (target, kinds) = match joined {
                    Joined::None | Joined::Mounts => (None, 0),
                    Joined::Pid { target, .. } => (Some(target), namespace::PID),
                    Joined::All(target) => (
                        Some(target),
                        namespace::MOUNT | namespace::PID | namespace::NET | namespace::IPC | namespace::UTS,
                    ),
                };
                if let Some(target) = target {
                    namespace::join(target.raw(), kinds).at("join the namespaces")?;
                }
                if let Some(user) = user {
                    namespace::join(user.raw(), namespace::USER).at("join the user namespace")?;
                }
                let options = CopyOptions { namespaces, cgroup, sibling: true };
                let copied = process::copy(single, options).at("make a process")?;
                if let (Copy::Child, Joined::All(target)) = (&copied, joined) {
                    // Not before: with `nsdelegate`, nobody is born across the border of a cgroup namespace.
                    namespace::join(target.raw(), namespace::CGROUP).at("join the cgroup namespace")?;
                }
                Ok((Some(copied), layers))
            });
            match failure {
                Ok((None | Some(Copy::Child), layers)) => {
                    let failure = match user.map_or(Ok(()), |_| userns::become_root()) {
                        Ok(()) => run(&theirs, layers.as_ref()),
                        Err(failure) => failure,
                    };
                    child::give_up(&theirs, failure)
                }
                Ok((Some(Copy::Parent(pid)), _)) => {
                    let mut packet = [0; BYTES_MAX];
                    let length = Message { kind: kind::START, a: pid, ..Message::default() }.encode(&mut packet);
                    let sent = socket::send(theirs.raw(), &packet[..length], &[], true);
                    process::exit(i32::from(sent.is_err()))
                }
                Err(failure) => child::give_up(&theirs, failure),
            }
        }
        Copy::Parent(pid) => {
            drop(theirs);
            await_birth(pid, is_direct, &ours)
        }
    }
}

/// Makes a process in the PID namespace of `target`. The shim stays in its `own`: what it joins counts for children.
fn copy_into(single: SingleThread, options: CopyOptions<'_>, target: &Fd, own: &Fd) -> Outcome<Copy> {
    namespace::join(target.raw(), namespace::PID).at("join the PID namespace")?;
    let copied = process::copy(single, options);
    if !matches!(copied, Ok(Copy::Child)) && namespace::join(own.raw(), namespace::PID).is_err() {
        process::exit(3); // else all that it makes from now on would be born there
    }
    copied.at("make a process")
}

/// Reads what the new process says, until its end of the socket closes at the exec.
fn await_birth(first: i32, is_direct: bool, ours: &Fd) -> Result<Born, Report> {
    let mut born = Born { pid: if is_direct { first } else { 0 }, terminal: None };
    let mut packet = [0; BYTES_MAX];
    let mut fds = Fds::none();
    let deadline = time::monotonic_nanos() + i64::from(START_MS_MAX) * 1_000_000;
    let failure = loop {
        let left = u32::try_from((deadline - time::monotonic_nanos()) / 1_000_000).unwrap_or(0);
        if !poll::readable(ours.raw(), left).unwrap_or(false) {
            break Some(Report::new(Errno::TIMEDOUT, &[b"wait for the process to start"]));
        }
        let length = match socket::receive(ours.raw(), &mut packet, &mut fds) {
            Ok(0) => break None,
            Ok(length) => length,
            Err(errno) => break Some(Report::new(errno, &[b"hear from the process"])),
        };
        match Message::decode(&packet[..length]) {
            Some(message) if message.kind == kind::START => born.pid = message.a,
            Some(message) if message.kind == kind::DONE => born.terminal = fds.take(0).ok(),
            Some(message) => {
                let mut report = Report::new(Errno(message.a), &[message.text]);
                report.exit_code = message.b;
                break Some(report);
            }
            None => break Some(Report::new(Errno::PROTO, &[b"hear from the process"])),
        }
    };
    if !is_direct {
        let _ = process::wait(first);
    }
    match failure {
        None if born.pid > 0 => Ok(born),
        None => Err(Report::new(Errno::SRCH, &[b"start the process"])),
        Some(failure) => {
            if born.pid > 0 {
                let _ = process::kill(born.pid, libc::SIGKILL);
                let _ = process::wait(born.pid);
            }
            Err(failure)
        }
    }
}

/// Starts a process in a container.
pub(crate) fn exec(
    single: SingleThread,
    number: u64,
    plan: Plan<'_>,
    fds: &mut Fds,
    target: &Fd,
    user: Option<&Fd>,
) -> Result<(Exec, Option<Fd>), Report> {
    let kill = take(plan, fds, tag::FD_KILL);
    let terminal = plan.number(tag::TERMINAL, 0) != 0;
    let fd = |tag, fds: &mut Fds| take(plan, fds, tag);
    let (input, output, error) = (fd(tag::FD_STDIN, fds), fd(tag::FD_STDOUT, fds), fd(tag::FD_STDERR, fds));
    let born = if terminal {
        give_birth(single, plan, fds, Joined::All(target), user, |shim, _| child::run_exec(plan, None, shim))?
    } else {
        let output = output.ok_or(Errno::PROTO).at("read the plan")?;
        let error = error.ok_or(Errno::PROTO).at("read the plan")?;
        let null;
        let input = match input {
            Some(input) => input,
            None => {
                null = file::open(file::CWD, c"/mnt/dev/null", libc::O_RDONLY, 0).at("open /dev/null")?;
                null
            }
        };
        console::give(plan, [Some(&input), Some(&output), Some(&error)]);
        give_birth(single, plan, fds, Joined::All(target), user, |shim, _| {
            let standard = Standard { input: Some(&input), output: &output, error: &error };
            let user = plan.number(tag::USER, 0);
            match console::set_standard(u32::try_from(user).unwrap_or(0), standard.input, &output, &error) {
                Ok(()) => child::run_exec(plan, Some(&standard), shim),
                Err(failure) => failure,
            }
        })?
    };
    Ok((Exec { number, pid: born.pid, kill }, born.terminal))
}

/// Runs a command of a runtime handler. What it leaves is to be adopted.
pub(crate) fn run(single: SingleThread, number: u64, plan: Plan<'_>, fds: &mut Fds) -> Result<Exec, Report> {
    let fd = |tag, fds: &mut Fds| take(plan, fds, tag).ok_or(Errno::PROTO).at("read the plan");
    let input = take(plan, fds, tag::FD_STDIN);
    let (output, error) = (fd(tag::FD_STDOUT, fds)?, fd(tag::FD_STDERR, fds)?);
    let standard = Standard { input: input.as_ref(), output: &output, error: &error };
    let born =
        give_birth(single, plan, fds, Joined::None, None, |shim, _| crate::handler::run(plan, fds, &standard, shim))?;
    Ok(Exec { number, pid: born.pid, kill: None })
}

/// Takes over a process that a runtime handler started in a container.
pub(crate) fn adopt_exec(number: u64, pid: i32, plan: Plan<'_>, fds: &mut Fds) -> Exec {
    Exec { number, pid, kill: take(plan, fds, tag::FD_KILL) }
}
