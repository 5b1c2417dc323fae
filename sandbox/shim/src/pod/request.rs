//! What the daemon asks of a pod.

use core::ffi::CStr;

use podbus_sandbox_linux::memory::Sealed;
use podbus_sandbox_linux::message::{ATTACH_INPUT, ATTACH_STDERR, ATTACH_STDOUT, ID_BYTES, Message, kind};
use podbus_sandbox_linux::plan::{self, Plan, tag};
use podbus_sandbox_linux::slot::{Place, Slot};
use podbus_sandbox_linux::socket::{self, Fds};
use podbus_sandbox_linux::{Errno, Fd, file, mount, namespace, process, time};

use super::{KEY_STREAMS, Pod};
use crate::child;
use crate::container::{self, Container, Exec, Home, Joined};
use crate::failure::{At as _, Outcome, Report};
use crate::userns::Namespaces;
use crate::views::Views;

/// What came of a request.
#[derive(Default)]
pub(super) struct Answer {
    /// Of the process that it is about, if it is about one.
    pub(super) pid: i32,
    /// What the daemon is given.
    pub(super) fd: Option<Fd>,
}

impl From<()> for Answer {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<i32> for Answer {
    fn from(pid: i32) -> Self {
        Self { pid, fd: None }
    }
}

impl From<Option<Fd>> for Answer {
    fn from(fd: Option<Fd>) -> Self {
        Self { pid: 0, fd }
    }
}

impl Pod {
    pub(super) fn carry_out(&mut self, message: &Message<'_>, fds: &mut Fds) -> Result<Answer, Report> {
        let (id, number, pid) = (message.text, message.number, message.a);
        match message.kind {
            kind::PREPARE => self.prepare_ahead(fds).map(Answer::from),
            kind::SETUP => self.set_up(fds).map(Answer::from),
            kind::START => self.start(id, fds).map(Answer::from),
            kind::SIGNAL => self.signal(id, message.a).map(Answer::from),
            kind::EXEC => self.exec(number, id, fds),
            kind::RUN => self.run_command(number, fds).map(Answer::from),
            kind::ADOPT => self.adopt(id, pid, fds).map(|()| pid.into()),
            kind::ADOPT_EXEC => self.adopt_exec(number, pid, fds).map(|()| pid.into()),
            kind::EXEC_KILL => {
                self.execs.iter().flatten().filter(|exec| exec.number == number).for_each(Exec::kill);
                Ok(Answer::default())
            }
            kind::ATTACH => self.attach(id, message.a, fds).map(Answer::from),
            kind::CLOSE_STDIN => self.close_stdin(id).map(Answer::from),
            kind::SOCKET => Ok(Some(socket::stream(message.a).at("make a socket")?).into()),
            kind::REOPEN => self.reopen(id, fds).map(Answer::from),
            _ => Err(Report::new(Errno::PROTO, &[b"understand the daemon"])),
        }
    }

    /// The pod's user namespace, made where it is not there yet.
    pub(super) fn user_namespace(&mut self, fds: &mut Fds) -> Outcome<&Namespaces> {
        if self.namespaces.is_none() {
            let sealed = read_plan(fds)?;
            self.namespaces = Some(Namespaces::make(self.single, Plan::new(&sealed))?);
        }
        self.namespaces.as_ref().ok_or(Errno::NOENT).at("find the user namespace")
    }

    fn user(&self) -> Option<&Fd> {
        self.namespaces.as_ref().map(|namespaces| &namespaces.user)
    }

    /// Makes what pods have in common, for one that nobody has asked for yet: pause as well, where the plan has it, and
    /// what a container sees of the kernel, where the plan says how.
    fn prepare_ahead(&mut self, fds: &mut Fds) -> Result<(), Report> {
        let sealed = read_plan(fds)?;
        let plan = Plan::new(&sealed);
        self.prepare(plan, fds)?;
        if plan.first(tag::FD_PAUSE).is_some() {
            self.start_pause(plan, fds)?;
        }
        if Views::suit(plan) {
            // What fails here fails again at the start of a container, which tells why.
            self.views = Views::make(self.single, plan).ok();
        }
        Ok(())
    }

    /// Enters the pod's network, makes its other namespaces, and `/dev/shm`, unless these are made.
    fn prepare(&mut self, plan: Plan<'_>, fds: &mut Fds) -> Result<(), Report> {
        // One that was made in advance may get its network only now: plugins make it for the pod.
        if let Some(net) = container::take(plan, fds, tag::FD_NET) {
            namespace::join(net.raw(), namespace::NET).at("join the network namespace")?;
        }
        if self.is_prepared {
            return Ok(());
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
        if let Some(size) = plan.first(tag::SHM_BYTES) {
            mount_shm(size.cstr().at("read the plan")?).at("mount /dev/shm")?;
        }
        self.is_prepared = true;
        Ok(())
    }

    /// Starts pause in the pod's namespaces.
    fn start_pause(&mut self, plan: Plan<'_>, fds: &mut Fds) -> Result<i32, Report> {
        let program = container::take(plan, fds, tag::FD_PAUSE).ok_or(Errno::PROTO).at("read the plan")?;
        // That of the node's root: in a user namespace of its own, pause could not enter it.
        let (joined, empty) = match self.namespaces {
            None => (Joined::Mounts, Some(&self.heritage.empty)),
            Some(_) => (Joined::None, None),
        };
        let run = |_: &Fd, _: Option<&Fd>| child::run_pause(plan, &program, empty);
        let pid = container::give_birth(self.single, plan, fds, joined, self.user(), run)?.pid;
        self.pause = Some((pid, process::open(pid).at("open pause")?));
        Ok(pid)
    }

    /// Enters the pod's namespaces, starts pause where it does not live yet, and commits READY.
    fn set_up(&mut self, fds: &mut Fds) -> Result<i32, Report> {
        if self.record.is_some() {
            return Err(Report::new(Errno::EXIST, &[b"set up the sandbox again"]));
        }
        let sealed = read_plan(fds)?;
        let plan = Plan::new(&sealed);
        let record = container::take(plan, fds, tag::FD_RECORD).ok_or(Errno::PROTO).at("read the plan")?;
        self.prepare(plan, fds)?;
        if let Some(name) = plan.first(tag::HOSTNAME) {
            namespace::set_hostname(name.bytes()).at_path("set the hostname", name.bytes())?;
        }
        for (at, field) in plan.all(tag::FD_HOST_PORT).enumerate() {
            let place = self.host_ports.get_mut(at).ok_or(Errno::NOSPC).at("keep the host ports")?;
            *place = Some(field.index().and_then(|index| fds.take(index)).at("keep the host ports")?);
        }
        let pid = match &self.pause {
            // Not reaped, so the process id is nobody else's.
            Some((pid, _)) => {
                child::put_into_cgroups(plan, fds, *pid)?;
                child::set_sysctls(plan)?;
                *pid
            }
            None => self.start_pause(plan, fds)?,
        };
        let slot = Slot { time: time::unix_nanos(), pid, ..Slot::default() };
        file::write_at(record.raw(), &slot.encode(), Place::State.offset()).at("commit the sandbox")?;
        self.record = Some(record);
        let _ = process::set_name(c"podbus-shim"); // for people
        Ok(pid)
    }

    fn container(&mut self, id: &[u8]) -> Outcome<&mut Container> {
        let found = self.containers.iter_mut().flatten().find(|container| container.id == id);
        found.ok_or(Errno::SRCH).at("find the container")
    }

    /// One that is not reaped yet, so its process id is nobody else's.
    fn running(&self, id: &[u8]) -> Outcome<&Container> {
        let mut containers = self.containers.iter().flatten();
        let found = containers.find(|container| container.id == id && container.ended.is_none());
        found.ok_or(Errno::SRCH).at("find the container")
    }

    fn start(&mut self, id: &[u8], fds: &mut Fds) -> Result<i32, Report> {
        let id = *id.first_chunk::<ID_BYTES>().ok_or(Errno::PROTO).at("read the plan")?;
        if self.container(&id).is_ok() {
            return Err(Report::new(Errno::EXIST, &[b"start a container that runs"]));
        }
        let Some((_, pause)) = &self.pause else {
            return Err(Report::new(Errno::SRCH, &[b"start a container: the sandbox is dead"]));
        };
        let place = free(&self.containers).at("keep the container")?;
        let sealed = read_plan(fds)?;
        let plan = Plan::new(&sealed);
        let target = self.target(plan)?;
        let views = if Views::suit(plan) { self.views.take() } else { None };
        let own = &self.heritage.pids;
        let joined = match plan.number(tag::PID_MODE, 0) {
            plan::PID_POD => Joined::Pid { target: pause, own },
            plan::PID_TARGET => {
                Joined::Pid { target: target.as_ref().ok_or(Errno::SRCH).at("find the target container")?, own }
            }
            _ if self.namespaces.is_some() => Joined::None,
            _ => Joined::Mounts,
        };
        let home = Home { joined, user: self.user(), empty: &self.heritage.empty, views };
        let container = Container::start(self.single, id, plan, fds, &home)?;
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
        let place = free(&self.execs).at("keep the process")?;
        let sealed = read_plan(fds)?;
        let command = container::run(self.single, number, Plan::new(&sealed), fds)?;
        let pid = command.pid;
        self.execs[place] = Some(command);
        Ok(pid)
    }

    fn adopt(&mut self, id: &[u8], pid: i32, fds: &mut Fds) -> Result<(), Report> {
        let id = *id.first_chunk::<ID_BYTES>().ok_or(Errno::PROTO).at("read the plan")?;
        if self.container(&id).is_ok() {
            return Err(Report::new(Errno::EXIST, &[b"adopt a container that runs"]));
        }
        let place = free(&self.containers).at("keep the container")?;
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
        let place = free(&self.execs).at("keep the process")?;
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
        let container = self.running(field.bytes())?;
        process::open(container.pid).at("open the container").map(Some)
    }

    fn signal(&self, id: &[u8], signal: i32) -> Result<(), Report> {
        let container = self.running(id)?;
        Ok(process::kill(container.pid, signal).at("signal the container")?)
    }

    fn exec(&mut self, number: u64, id: &[u8], fds: &mut Fds) -> Result<Answer, Report> {
        let place = free(&self.execs).at("keep the process")?;
        let sealed = read_plan(fds)?;
        let plan = Plan::new(&sealed);
        let found = self.container(id).is_ok();
        let target = self.target(plan)?.filter(|_| found).ok_or(Errno::SRCH).at("find the container")?;
        let (exec, fd) = container::exec(self.single, number, plan, fds, &target, self.user())?;
        let pid = exec.pid;
        self.execs[place] = Some(exec);
        Ok(Answer { pid, fd })
    }

    fn reopen(&mut self, id: &[u8], fds: &mut Fds) -> Result<(), Report> {
        let file = fds.take(0).at("take the log")?;
        self.container(id)?.log.reopen(file);
        Ok(())
    }

    /// Gives a client copies of a container's output from now on, and its input.
    fn attach(&mut self, id: &[u8], wanted: i32, fds: &mut Fds) -> Result<Option<Fd>, Report> {
        let mut places =
            (0..).zip(&self.containers).filter_map(|(place, container)| Some((place, container.as_ref()?)));
        let running = places.find(|(_, container)| container.id == id && container.ended.is_none());
        let (place, container) = running.ok_or(Errno::SRCH).at("find the container")?;
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
                Ok(Some(file::duplicate(input.raw(), 3).at("copy standard input")?))
            }
            _ => Ok(None),
        }
    }

    /// A terminal stays: its input has no end of its own.
    fn close_stdin(&mut self, id: &[u8]) -> Result<(), Report> {
        let container = self.container(id)?;
        if !container.has_terminal {
            container.input = None;
        }
        Ok(())
    }
}

/// A place where nobody is.
fn free<T>(places: &[Option<T>]) -> podbus_sandbox_linux::Result<usize> {
    places.iter().position(Option::is_none).ok_or(Errno::NOSPC)
}

/// The plan is the first descriptor of a message.
fn read_plan(fds: &mut Fds) -> Outcome<Sealed> {
    let file = fds.take(0).at("read the plan")?;
    Sealed::open(&file).at("open the plan")
}

fn mount_shm(size: &CStr) -> podbus_sandbox_linux::Result<()> {
    let options = [(c"mode", c"1777"), (c"size", size)];
    let shm = mount::new(c"tmpfs", &options, mount::NOSUID | mount::NODEV | mount::NOEXEC)?;
    let target = file::open(file::CWD, c"/mnt/shm", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::attach(&shm, &target)
}
