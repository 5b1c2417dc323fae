//! What a new process does between its birth and the program that it becomes. Nothing here returns but with an error:
//! the status socket, which closes at the exec, carries it to the shim.

use core::ffi::CStr;

use podbus_sandbox_linux::message::{BYTES_MAX, Message, kind};
use podbus_sandbox_linux::path::{self, Leaf};
use podbus_sandbox_linux::plan::{Plan, tag};
use podbus_sandbox_linux::process::Strings;
use podbus_sandbox_linux::socket::Fds;
use podbus_sandbox_linux::{Errno, Fd, credential, file, namespace, poll, process, seccomp, socket};

use crate::console;
use crate::failure::{At as _, Failure, Outcome, Report};
use crate::rootfs::{self, Site};

/// The standard descriptors of a process that has no terminal.
pub(crate) struct Standard<'a> {
    pub(crate) input: Option<&'a Fd>,
    pub(crate) output: &'a Fd,
    pub(crate) error: &'a Fd,
}

/// Tells the shim what failed, and ends.
pub(crate) fn give_up(shim: &Fd, failure: Failure) -> ! {
    let mut packet = [0; BYTES_MAX];
    let report = Report::from(failure);
    let message = Message {
        kind: kind::FAILED,
        a: report.errno.0,
        b: report.exit_code,
        text: report.text(),
        ..Message::default()
    };
    let length = message.encode(&mut packet);
    let _ = socket::send(shim.raw(), &packet[..length], &[], true);
    process::exit(125)
}

/// Joins the cgroups, and makes the one joined the root of what the process sees of cgroups.
pub(crate) fn join_cgroups(plan: Plan<'_>, fds: &Fds) -> Outcome<()> {
    for field in plan.all(tag::FD_CGROUP) {
        let procs = field.index().and_then(|index| fds.get(index)).at("read the plan")?;
        file::write(procs.raw(), b"0").at("join a cgroup")?;
    }
    Ok(())
}

/// Puts the child `pid`, which is not reaped, where it would have been born.
pub(crate) fn put_into_cgroups(plan: Plan<'_>, fds: &Fds, pid: i32) -> Outcome<()> {
    const STEP: &str = "put pause into its cgroup";
    let mut digits = [0; 10];
    let pid = decimal(pid.unsigned_abs(), &mut digits);
    for field in plan.all(tag::FD_CGROUP) {
        let procs = field.index().and_then(|index| fds.get(index)).at("read the plan")?;
        file::write(procs.raw(), pid).at(STEP)?;
    }
    if let Some(field) = plan.first(tag::FD_CGROUP_BIRTH) {
        let dir = field.index().and_then(|index| fds.get(index)).at("read the plan")?;
        file::write_to(dir.raw(), c"cgroup.procs", pid).at(STEP)?;
    }
    Ok(())
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b"0123456789"[(number % 10) as usize];
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}

/// Writes `oom_score_adj`. To lower it takes CAP_SYS_RESOURCE: without, the daemon has warned, and it stays.
pub(crate) fn set_oom_score(plan: Plan<'_>) -> Outcome<()> {
    let Some(field) = plan.first(tag::OOM_SCORE) else { return Ok(()) };
    match file::write_to(file::CWD, c"/mnt/proc/self/oom_score_adj", field.bytes()) {
        Ok(()) | Err(Errno::ACCES | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).at("set oom_score_adj"),
    }
}

/// Becomes the first process of a container.
pub(crate) fn run_container(
    plan: Plan<'_>,
    fds: &Fds,
    standard: Option<&Standard<'_>>,
    shim: &Fd,
    site: Site<'_>,
) -> Failure {
    let prepared = (|| {
        process::new_session().at("start a session")?;
        credential::new_session_keyring();
        let user = user(plan);
        if let Some(standard) = standard {
            console::set_standard(user, standard.input, standard.output, standard.error)?;
        }
        let root = rootfs::enter(plan, fds, site)?;
        make_directory(plan, &root)?;
        if standard.is_none() {
            console::open_terminal(&root, user, true, shim)?;
        }
        rootfs::seal(plan, &root)
    })();
    match prepared {
        Ok(()) => become_program(plan, shim),
        Err(failure) => failure,
    }
}

/// Becomes one more process of a container, whose namespaces it has joined.
pub(crate) fn run_exec(plan: Plan<'_>, standard: Option<&Standard<'_>>, shim: &Fd) -> Failure {
    let prepared = (|| {
        process::new_session().at("start a session")?;
        credential::new_session_keyring();
        if standard.is_none() {
            let root = file::open(file::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at("open the root")?;
            console::open_terminal(&root, user(plan), false, shim)?;
        }
        Ok(())
    })();
    match prepared {
        Ok(()) => become_program(plan, shim),
        Err(failure) => failure,
    }
}

/// Becomes pause: an empty read-only root, no capabilities, the program from a sealed file. `empty` is the mount
/// namespace of such a root; without, it is made.
pub(crate) fn run_pause(plan: Plan<'_>, program: &Fd, empty: Option<&Fd>) -> Failure {
    let prepared = (|| {
        // In the pod's namespaces, and as its root: those of a user namespace belong to nobody of the node.
        set_sysctls(plan)?;
        match empty {
            Some(empty) => namespace::join(empty.raw(), namespace::MOUNT),
            None => rootfs::enter_empty(),
        }
        .at("enter the root of pause")?;
        credential::bound_capabilities(0).at("drop capabilities")?;
        set_ids(plan)?;
        credential::set_capabilities(0, 0).at("drop capabilities")?;
        process::die_with_parent().at("follow the shim")?;
        credential::set_no_new_privileges().at("set no_new_privs")?;
        let mut arguments = Strings::with_capacity(1).at("find memory")?;
        arguments.push(c"pause").at("find memory")?;
        let environment = Strings::with_capacity(0).at("find memory")?;
        file::cloexec_from(3).at("close descriptors")?;
        load_seccomp(plan)?;
        Ok((arguments, environment))
    })();
    match prepared {
        Ok((arguments, environment)) => {
            Failure::new(process::exec(program.raw(), c"", &arguments, &environment), "run pause", b"")
        }
        Err(failure) => failure,
    }
}

/// Sets those of the plan in the namespaces of the calling process.
pub(crate) fn set_sysctls(plan: Plan<'_>) -> Outcome<()> {
    plan.all(tag::SYSCTL).try_for_each(|field| set_sysctl(field.bytes()).at_path("set the sysctl", field.bytes()))
}

/// `path=value` beneath `/proc/sys`.
fn set_sysctl(assignment: &[u8]) -> podbus_sandbox_linux::Result<()> {
    let mut path = [0; 256];
    let split = assignment.iter().position(|byte| *byte == b'=').ok_or(Errno::INVAL)?;
    let prefix = b"/mnt/proc/sys/";
    path.get_mut(..prefix.len()).ok_or(Errno::TOOBIG)?.copy_from_slice(prefix);
    path.get_mut(prefix.len()..prefix.len() + split).ok_or(Errno::TOOBIG)?.copy_from_slice(&assignment[..split]);
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::TOOBIG)?;
    file::write_to(file::CWD, path, &assignment[split + 1..])
}

fn user(plan: Plan<'_>) -> u32 {
    plan.first(tag::USER).and_then(|field| field.small().ok()).unwrap_or(0)
}

fn make_directory(plan: Plan<'_>, root: &Fd) -> Outcome<()> {
    let Some(field) = plan.first(tag::DIRECTORY) else { return Ok(()) };
    path::open_or_make_in(root, field.bytes(), Leaf::Directory)
        .map(drop)
        .at_path("make the working directory", field.bytes())
}

/// Drops privileges and becomes the program of the plan.
fn become_program(plan: Plan<'_>, shim: &Fd) -> Failure {
    let prepared = (|| {
        process::set_umask(0o022);
        set_limits();
        let entered = enter_directory(plan);
        drop_privileges(plan)?;
        // Root may not be let into a user's directory, nor the user into one that only root could reach.
        if entered.is_err() {
            enter_directory(plan)?;
        }
        if !namespace::cwd_is_inside().at("check the working directory")? {
            return Err(Failure::new(Errno::PERM, "stay inside the root", b""));
        }
        process::die_with_parent().at("follow the shim")?;
        if poll::readable(shim.raw(), 0).at("look for the shim")? {
            process::exit(125); // it died before it could take us along
        }
        process::block_signals(false).at("unblock signals")?;
        file::cloexec_from(3).at("close descriptors")?;
        let strings = (strings(plan, tag::ARGUMENT)?, strings(plan, tag::ENVIRONMENT)?);
        load_seccomp(plan)?;
        Ok(strings)
    })();
    match prepared {
        Ok((arguments, environment)) => exec(plan, &arguments, &environment),
        Err(failure) => failure,
    }
}

/// Becomes the program of the plan with all that the shim may do: a command of a runtime handler.
pub(crate) fn become_tool(plan: Plan<'_>, shim: &Fd) -> Failure {
    let prepared = (|| {
        process::set_umask(0o022);
        set_limits();
        enter_directory(plan)?;
        if poll::readable(shim.raw(), 0).at("look for the shim")? {
            process::exit(125); // it died before it could take us along
        }
        process::block_signals(false).at("unblock signals")?;
        file::cloexec_from(3).at("close descriptors")?;
        Ok((strings(plan, tag::ARGUMENT)?, strings(plan, tag::ENVIRONMENT)?))
    })();
    match prepared {
        Ok((arguments, environment)) => exec(plan, &arguments, &environment),
        Err(failure) => failure,
    }
}

/// Files: as many as servers want, but no more by default than select() can take. Cores: `core_pattern` runs on the
/// host. What the node itself may not raise stays as it is.
fn set_limits() {
    let _ = credential::set_limit(libc::RLIMIT_NOFILE, 1024, 524_288);
    let _ = credential::set_limit(libc::RLIMIT_CORE, 0, 0);
}

fn enter_directory(plan: Plan<'_>) -> Outcome<()> {
    match plan.first(tag::DIRECTORY) {
        None => namespace::chdir(c"/").at("enter the root"),
        Some(field) => {
            let path = field.cstr().at("read the plan")?;
            namespace::chdir(path).at_path("enter the working directory", field.bytes())
        }
    }
}

/// Groups first: the user may not be allowed to.
fn set_ids(plan: Plan<'_>) -> Outcome<()> {
    const GROUPS_MAX: usize = 256;
    let mut groups = [0; GROUPS_MAX];
    let mut count = 0;
    for field in plan.all(tag::MORE_GROUP) {
        *groups.get_mut(count).ok_or(Errno::TOOBIG).at("set the groups")? = field.small().at("read the plan")?;
        count += 1;
    }
    credential::set_groups(&groups[..count]).at("set the groups")?;
    let group = plan.first(tag::GROUP).and_then(|field| field.small().ok()).unwrap_or(0);
    credential::set_group(group).at("set the group")?;
    credential::set_user(user(plan)).at("set the user")
}

fn drop_privileges(plan: Plan<'_>) -> Outcome<()> {
    let no_new_privileges = plan.number(tag::NO_NEW_PRIVILEGES, 0) != 0;
    let mut held = plan.number(tag::CAPABILITIES, 0);
    if plan.first(tag::SECCOMP).is_some() && !no_new_privileges {
        // To load a filter takes it. The exec takes it away again: it gives by the bounding set and the ambient one.
        held |= 1 << credential::SYS_ADMIN;
    }
    let ambient = plan.number(tag::AMBIENT, 0);
    credential::bound_capabilities(plan.number(tag::BOUNDING, 0)).at("drop capabilities")?;
    credential::keep_capabilities(true).at("keep capabilities")?;
    set_ids(plan)?;
    credential::keep_capabilities(false).at("keep capabilities")?;
    credential::set_capabilities(held, ambient).at("set capabilities")?;
    credential::raise_ambient(ambient).at("set ambient capabilities")?;
    if no_new_privileges {
        credential::set_no_new_privileges().at("set no_new_privs")?;
    }
    Ok(())
}

/// The very last step: from here on the profile has to allow what we do ourselves, which is the exec.
fn load_seccomp(plan: Plan<'_>) -> Outcome<()> {
    let Some(program) = plan.first(tag::SECCOMP) else { return Ok(()) };
    let flags = plan.first(tag::SECCOMP_FLAGS).and_then(|field| field.small().ok()).unwrap_or(0);
    seccomp::load(program.bytes(), flags).at("load the seccomp profile")
}

fn strings<'a>(plan: Plan<'a>, tag: u16) -> Outcome<Strings<'a>> {
    let mut list = Strings::with_capacity(plan.all(tag).count()).at("find memory")?;
    for field in plan.all(tag) {
        list.push(field.cstr().at("read the plan")?).at("find memory")?;
    }
    Ok(list)
}

const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds the program as a shell would, and becomes it.
fn exec(plan: Plan<'_>, arguments: &Strings<'_>, environment: &Strings<'_>) -> Failure {
    let Some(name) = plan.first(tag::ARGUMENT) else {
        return Failure::new(Errno::INVAL, "find a command", b"");
    };
    let failure = |errno| Failure::of_program(errno, "run", name.bytes());
    if name.bytes().contains(&b'/') {
        return match name.cstr() {
            Ok(path) => failure(process::exec(file::CWD, path, arguments, environment)),
            Err(errno) => failure(errno),
        };
    }
    let search = plan
        .all(tag::ENVIRONMENT)
        .filter_map(|field| field.bytes().strip_prefix(b"PATH="))
        .last()
        .unwrap_or(DEFAULT_PATH);
    let mut refused = Errno::NOENT;
    for directory in search.split(|byte| *byte == b':') {
        let mut path = [0; path::PATH_BYTES_MAX];
        let Some(path) = join(&mut path, directory, name.bytes()) else { continue };
        match process::exec(file::CWD, path, arguments, environment) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCES => refused = Errno::ACCES,
            errno => return failure(errno),
        }
    }
    Failure::of_program(refused, "find in $PATH:", name.bytes())
}

fn join<'a>(buffer: &'a mut [u8], directory: &[u8], name: &[u8]) -> Option<&'a CStr> {
    let length = directory.len() + 1 + name.len();
    buffer.get_mut(..directory.len())?.copy_from_slice(directory);
    *buffer.get_mut(directory.len())? = b'/';
    buffer.get_mut(directory.len() + 1..length)?.copy_from_slice(name);
    *buffer.get_mut(length)? = 0;
    CStr::from_bytes_with_nul(&buffer[..=length]).ok()
}
