//! Containers that a runtime handler makes: `create` and `exec` run as children of the shim, which becomes the parent of
//! what they leave; `start`, `kill` and `delete` run anywhere.
//!
//! Durable in this order: record, `create`, the shim has the process, `start`, RUNNING in the record. Where a daemon dies
//! before that, the shim kills the process and forgets it, and the next daemon deletes the container by its handler and by
//! its cgroup: it may be started again.

mod standard;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use podbus_common_cri::runtime::{Mount, MountPropagation, NamespaceMode};
use podbus_sandbox_linux::message::{Message, kind};
use podbus_sandbox_linux::plan::tag;
use podbus_sandbox_linux::slot::{Place, Slot};

use self::standard::{Console, Ours, Theirs};
use super::device;
use super::exec::{Exec, Standard, exec_process};
use super::start::{self, hidden, limits, open_log, volumes};
use super::{Container, Outcome, Runtime, RuntimeError, doing, now};
use crate::cgroup::Door;
use crate::handler::bundle::{self, Bind, Bundle, Description, Namespace};
use crate::handler::command::{self, CommandError, Places};
use crate::link::Link;
use crate::plan::{Draft, PidMode};
use crate::process::{self, Invalid};
use crate::record::HandlerBody;
use crate::seccomp::Filters;
use crate::volume::Volume;

impl Runtime {
    pub(super) async fn start_by_handler(
        self: &Arc<Self>,
        container: &Arc<Container>,
        handler: &HandlerBody,
    ) -> Outcome<()> {
        let link = container.sandbox.link()?;
        let devices = device::open_all(container)?;
        let limits = limits(container, &devices);
        let door = self.cgroups.create(&container.cgroup(&container.sandbox), &limits)?;
        let rules = devices.iter().map(|device| device.rule.clone()).collect();
        let volumes = volumes(container, devices, None)?;
        let log = open_log(&container.body.log_path)?;
        let bundle = Bundle::of(&container.dir);
        bundle.create().map_err(doing("make the bundle"))?;
        let mut draft = self.command_draft()?;
        self.describe_layers(container, &mut draft.draft)?;
        start::describe_root(container, &mut draft.draft);
        draft.draft.bytes(tag::HANDLER_ROOT, bundle.root().as_os_str().as_encoded_bytes());
        draft.draft.bytes(tag::OOM_SCORE, self.oom_score_of(container));
        if handler.inherits_cgroup {
            draft.draft.door(&door);
        }
        let spec = self.spec(container, rules, binds(container, &bundle, &volumes, &mut draft.draft)?)?;
        bundle.write(&spec).map_err(doing("write the bundle"))?;
        let (pid, ours) = self.create_by_handler(container, handler, &link, draft).await?;
        self.adopt_container(container, &link, (pid, ours), &door, log).await?;
        self.settle(container, pid);
        let started_at = now();
        self.command(container, handler, &["start", &container.body.id]).await?;
        let pid = i32::try_from(pid).unwrap_or(0);
        let slot = Slot { time: started_at, pid, ..Slot::default() };
        container.record.commit(Place::State, &slot).map_err(doing("write the container's record"))
    }

    /// Makes the container: its first process, and our ends of what that reads and writes.
    async fn create_by_handler(
        self: &Arc<Self>,
        container: &Container,
        handler: &HandlerBody,
        link: &Arc<Link>,
        mut draft: CommandDraft,
    ) -> Outcome<(u32, Ours)> {
        let bundle = Bundle::of(&container.dir);
        let (bundle_dir, pid_file) = (text(&bundle.dir), text(&bundle.pid_file()));
        let console = container.config().tty.then(|| self.console()).transpose()?;
        let mut words = vec!["create", "--bundle", &bundle_dir, "--pid-file", &pid_file];
        words.extend(console.iter().flat_map(Console::flag));
        words.push(&container.body.id);
        self.describe_command(&mut draft, handler, &bundle.log(), &words)?;
        let with_input = container.config().stdin && console.is_none();
        let (mut ours, theirs) = standard::pipes(with_input).map_err(doing("make a pipe"))?;
        let code = self.run_by_shim(link, handler, "create", draft, theirs).await?;
        if code != 0 {
            return Err(command::failed(handler, "create", &bundle.log(), Some(code), &ours.said()).into());
        }
        if let Some(console) = console {
            let terminal = console.take().await.map_err(doing("take the terminal from the handler"))?;
            ours = Ours::of_terminal(terminal).map_err(doing("keep the terminal"))?;
        }
        Ok((read_pid(&bundle.pid_file())?, ours))
    }

    /// Gives the container's first process to the shim: no exit of it is lost from here on.
    async fn adopt_container(
        &self,
        container: &Container,
        link: &Link,
        (pid, ours): (u32, Ours),
        door: &Door,
        log: Option<std::fs::File>,
    ) -> Outcome<()> {
        let mut draft = Draft::default();
        draft.fd(tag::FD_RECORD, container.record.raw());
        draft.flag(tag::TERMINAL, container.config().tty);
        let log = log.map(OwnedFd::from);
        let fds = [
            (tag::FD_STDOUT, Some(&ours.output)),
            (tag::FD_STDERR, ours.error.as_ref()),
            (tag::FD_STDIN, ours.input.as_ref()),
            (tag::FD_OOM, door.oom.as_ref()),
            (tag::FD_KILL, door.kill.as_ref()),
            (tag::FD_LOG, log.as_ref()),
        ];
        for (tag, fd) in fds {
            if let Some(fd) = fd {
                draft.fd(tag, fd.as_raw_fd());
            }
        }
        let plan = draft.seal().map_err(doing("write the plan"))?;
        let a = i32::try_from(pid).unwrap_or(0);
        let message = Message { kind: kind::ADOPT, a, text: container.body.id.as_bytes(), ..Message::default() };
        link.request(message, plan.fds()).await?;
        Ok(())
    }

    /// A handler may leave the cgroup to us.
    fn settle(&self, container: &Container, pid: u32) {
        let path = container.cgroup(&container.sandbox);
        if !self.cgroups.has(&path, pid)
            && let Err(error) = self.cgroups.join(&path, pid)
        {
            tracing::debug!(container = %container.body.id, %error, "a container that ended already is in no cgroup");
        }
    }

    /// Starts `command` in a container that a handler made.
    pub(super) async fn exec_by_handler(
        self: &Arc<Self>,
        container: &Container,
        handler: &HandlerBody,
        command: &[String],
        standard: Standard,
    ) -> Outcome<(Exec, Option<OwnedFd>)> {
        let link = container.sandbox().link()?;
        let number = self.execs.fetch_add(1, Ordering::Relaxed);
        let process = bundle::process(&exec_process(container, command, &standard))?;
        let bundle = Bundle::of(&container.dir);
        let files = ExecFiles::write(&bundle, number, &process).map_err(doing("describe the process"))?;
        let (theirs, console) = match standard {
            Standard::Pipes { input, output, error } => (Theirs { input, output, error }, None),
            Standard::Terminal => (Theirs::null().map_err(doing("open /dev/null"))?, Some(self.console()?)),
        };
        let (spec, pid_file) = (text(&files.process), text(&files.pid));
        let mut words = vec!["exec", "--process", &spec, "--detach", "--pid-file", &pid_file];
        words.extend(console.iter().flat_map(Console::flag));
        words.push(&container.body.id);
        let mut draft = self.command_draft()?;
        draft.draft.bytes(tag::OOM_SCORE, self.oom_score_of(container));
        let door = self.cgroups.open_exec_door(&container.cgroup(container.sandbox()), &format!("exec-{number}"))?;
        if handler.inherits_cgroup {
            draft.draft.door(&door);
        }
        self.describe_command(&mut draft, handler, &files.log, &words)?;
        let code = self.run_by_shim(&link, handler, "exec", draft, theirs).await?;
        if code != 0 {
            return Err(command::failed(handler, "exec", &files.log, Some(code), "").into());
        }
        let terminal = match console {
            Some(console) => Some(console.take().await.map_err(doing("take the terminal from the handler"))?),
            None => None,
        };
        let pid = read_pid(&files.pid)?;
        let exec = self.adopt_exec(container, &link, &door, (number, pid)).await?;
        Ok((exec, terminal))
    }

    async fn adopt_exec(
        self: &Arc<Self>,
        container: &Container,
        link: &Arc<Link>,
        door: &Door,
        (number, pid): (u64, u32),
    ) -> Outcome<Exec> {
        let path = container.cgroup(container.sandbox());
        let name = format!("exec-{number}");
        if let Err(error) = self.cgroups.join_exec(&path, &name, pid) {
            tracing::debug!(%error, "a process that ended already is in no cgroup");
        }
        let exec = Exec {
            number,
            ended: link.expect_exec(number),
            link: Arc::clone(link),
            runtime: Arc::clone(self),
            cgroup: format!("{path}/{name}"),
            is_ended: false,
        };
        let mut draft = Draft::default();
        if let Some(kill) = &door.kill {
            draft.fd(tag::FD_KILL, kill.as_raw_fd());
        }
        let plan = draft.seal().map_err(doing("write the plan"))?;
        let a = i32::try_from(pid).unwrap_or(0);
        link.request(Message { kind: kind::ADOPT_EXEC, a, number, ..Message::default() }, plan.fds()).await?;
        Ok(exec)
    }

    /// Sends a signal by the container's handler; false where it is the native one, or where that fails.
    pub(super) async fn signal_by_handler(&self, container: &Container, signal: i32) -> bool {
        let Some(handler) = &container.sandbox.body.handler else { return false };
        let sent = self.command(container, handler, &["kill", &container.body.id, &signal.to_string()]).await;
        if let Err(error) = &sent {
            tracing::debug!(container = %container.body.id, error = error as &dyn std::error::Error, "no signal by the handler");
        }
        sent.is_ok()
    }

    /// Lets the handler forget a container, running or not. What the native handler made needs none of it.
    pub(super) async fn delete_by_handler(&self, container: &Container) {
        let Some(handler) = &container.sandbox.body.handler else { return };
        if let Err(error) = self.command(container, handler, &["delete", "--force", &container.body.id]).await {
            tracing::debug!(container = %container.body.id, error = &error as &dyn std::error::Error, "nothing deleted by the handler");
        }
    }

    async fn command(&self, container: &Container, handler: &HandlerBody, words: &[&str]) -> Outcome<()> {
        let root = self.handler_root(handler)?;
        let log = Bundle::of(&container.dir).dir.join(format!("log-{}", words.first().unwrap_or(&"")));
        Ok(command::run(handler, &Places { root: &root, log: &log }, words).await?)
    }

    /// Runs a command of a handler as a child of the shim to its end: the exit code.
    async fn run_by_shim(
        self: &Arc<Self>,
        link: &Arc<Link>,
        handler: &HandlerBody,
        name: &str,
        draft: CommandDraft,
        theirs: Theirs,
    ) -> Outcome<i32> {
        let CommandDraft { mut draft, node: _node } = draft;
        if let Some(input) = &theirs.input {
            draft.fd(tag::FD_STDIN, input.as_raw_fd());
        }
        draft.fd(tag::FD_STDOUT, theirs.output.as_raw_fd());
        draft.fd(tag::FD_STDERR, theirs.error.as_raw_fd());
        let number = self.execs.fetch_add(1, Ordering::Relaxed);
        let plan = draft.seal().map_err(doing("write the plan"))?;
        let ended = link.expect_exec(number);
        link.request(Message { kind: kind::RUN, number, ..Message::default() }, plan.fds()).await?;
        drop(theirs); // our copies of its ends: their end has to be the end of the container
        match tokio::time::timeout(command::DEADLINE, ended).await {
            Ok(Ok((code, _))) => Ok(code),
            Ok(Err(_)) => Err(RuntimeError::Link(crate::link::LinkError::Gone)),
            Err(_) => {
                link.request(Message { kind: kind::EXEC_KILL, number, ..Message::default() }, &[]).await?;
                let binary = PathBuf::from(&handler.binary);
                Err(CommandError::Deadline { binary, command: name.to_owned(), limit: command::DEADLINE }.into())
            }
        }
    }

    fn describe_command(
        &self,
        draft: &mut CommandDraft,
        handler: &HandlerBody,
        log: &Path,
        words: &[&str],
    ) -> Outcome<()> {
        let root = self.handler_root(handler)?;
        for word in command::words(handler, &Places { root: &root, log }, words) {
            draft.draft.bytes(tag::ARGUMENT, word);
        }
        Ok(())
    }

    fn command_draft(&self) -> Outcome<CommandDraft> {
        // The daemon's own namespaces are the node's.
        let node = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        let node = node.map_err(|errno| doing("open the daemon's namespaces")(errno.into()))?;
        let mut draft = Draft::default();
        draft.fd(tag::FD_NODE, node.as_raw_fd());
        draft.bytes(tag::ENVIRONMENT, command::PATH);
        draft.bytes(tag::DIRECTORY, "/");
        draft.pid_mode(PidMode::Node);
        Ok(CommandDraft { draft, node })
    }

    /// Where a handler keeps its state.
    fn handler_root(&self, handler: &HandlerBody) -> Outcome<PathBuf> {
        let root = self.run_dir.join("handlers").join(&handler.name);
        std::fs::create_dir_all(&root).map_err(doing(format!("make {}", root.display())))?;
        Ok(root)
    }

    fn console(&self) -> Outcome<Console> {
        Console::listen(&self.run_dir).map_err(doing("make a socket for the terminal"))
    }

    fn spec(&self, container: &Container, devices: Vec<String>, binds: Vec<Bind>) -> Outcome<Spec> {
        let context = process::security(container.config());
        let (masked, readonly) = hidden(&context);
        let process = container.body.process.clone().unwrap_or_default();
        let cgroup = container.cgroup(&container.sandbox);
        Ok(bundle::spec(Description {
            process: &process,
            namespaces: self.namespaces_of(container)?,
            binds,
            devices,
            cgroup: &cgroup,
            root_readonly: context.readonly_rootfs,
            privileged: context.privileged,
            masked,
            readonly,
            annotations: container.config().annotations.clone(),
            seccomp: Filters::for_handler(&context, process.capabilities)?,
        })?)
    }

    /// The pod's namespaces are those of pause; what the pod has of the node's is not named.
    fn namespaces_of(&self, container: &Container) -> Outcome<Vec<(LinuxNamespaceType, Namespace)>> {
        let (own, pods) = (container.namespaces(), container.sandbox.namespaces());
        let pause = container.sandbox.pause_pid();
        let mut list = Vec::new();
        let node = NamespaceMode::Node as i32;
        if pods.network != node {
            list.extend(
                [LinuxNamespaceType::Network, LinuxNamespaceType::Uts].map(|kind| (kind, Namespace::Of(pause))),
            );
        }
        if pods.ipc != node {
            list.push((LinuxNamespaceType::Ipc, Namespace::Of(pause)));
        }
        match NamespaceMode::try_from(own.pid) {
            Ok(NamespaceMode::Node) => {}
            Ok(NamespaceMode::Pod) => list.push((LinuxNamespaceType::Pid, Namespace::Of(pause))),
            Ok(NamespaceMode::Target) => {
                let target = self.container(&own.target_id)?.stage().started.map_or(0, |slot| slot.pid);
                list.push((LinuxNamespaceType::Pid, Namespace::Of(target)));
            }
            _ => list.push((LinuxNamespaceType::Pid, Namespace::Own)),
        }
        Ok(list)
    }
}

/// A command for the shim to run, with the descriptors that have to stay open until it is sent.
struct CommandDraft {
    draft: Draft,
    node: OwnedFd,
}

/// The files of an exec, removed when it has begun.
struct ExecFiles {
    process: PathBuf,
    pid: PathBuf,
    log: PathBuf,
}

impl ExecFiles {
    fn write(bundle: &Bundle, number: u64, process: &Process) -> io::Result<Self> {
        let file = |kind: &str| bundle.dir.join(format!("exec-{number}.{kind}"));
        let files = Self { process: file("json"), pid: file("pid"), log: file("log") };
        std::fs::write(&files.process, serde_json::to_vec(process)?)?;
        Ok(files)
    }
}

impl Drop for ExecFiles {
    fn drop(&mut self) {
        for file in [&self.process, &self.pid, &self.log] {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The mounts of a container, each at a place of the bundle where its handler sees it.
fn binds(container: &Container, bundle: &Bundle, volumes: &[Volume], draft: &mut Draft) -> Outcome<Vec<Bind>> {
    let mut binds = Vec::new();
    if !volumes.iter().any(|volume| volume.target == "/dev/shm") {
        draft.bytes(tag::HANDLER_SHM, bundle.shm().as_os_str().as_encoded_bytes());
        binds.push(Bind { source: bundle.shm(), target: "/dev/shm".to_owned(), propagation: "rprivate" });
    }
    for (number, volume) in volumes.iter().enumerate() {
        let source = bundle.make_place(number, volume.is_dir).map_err(doing("make a place for a volume"))?;
        draft.volume_at(volume, source.as_os_str().as_encoded_bytes());
        let asked = container.config().mounts.iter().find(|mount| mount.container_path == volume.target);
        let propagation = match asked.map(Mount::propagation) {
            Some(MountPropagation::PropagationBidirectional) => {
                let text =
                    format!("the mount on {:?}: only the native handler propagates mounts to the node", volume.target);
                return Err(Invalid(text).into());
            }
            Some(MountPropagation::PropagationHostToContainer) => "rslave",
            _ => "rprivate",
        };
        binds.push(Bind { source, target: volume.target.clone(), propagation });
    }
    Ok(binds)
}

fn read_pid(path: &Path) -> Outcome<u32> {
    let text = std::fs::read_to_string(path).map_err(doing("read the pid file of the handler"))?;
    let number = text.trim().parse().map_err(io::Error::other);
    number.map_err(doing(format!("read the process id {:?} of the handler", text.trim())))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
