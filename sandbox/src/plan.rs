//! Plans: what a shim is told to do, with the descriptors that it needs.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use podbus_sandbox_linux::plan::{self, MOUNT_FILE, Writer, tag};

use crate::cgroup::{Cgroups, Door};
use crate::program;
use crate::record::ProcessBody;
use crate::userns::Mapping;
use crate::volume::Volume;

/// A plan while it is written: the first descriptor is the plan itself.
#[derive(Default)]
pub(crate) struct Draft {
    writer: Writer,
    fds: Vec<i32>,
}

/// A plan that can be sent, for as long as the descriptors that it borrowed are open.
pub(crate) struct Sealed {
    _file: OwnedFd,
    fds: Vec<i32>,
}

impl Sealed {
    /// The descriptors, in the order that the plan's indexes mean.
    pub(crate) fn fds(&self) -> &[i32] {
        &self.fds
    }
}

impl Draft {
    pub(crate) fn bytes(&mut self, tag: u16, value: impl AsRef<[u8]>) {
        self.writer.bytes(tag, value.as_ref());
    }

    pub(crate) fn number(&mut self, tag: u16, value: u64) {
        self.writer.number(tag, value);
    }

    pub(crate) fn flag(&mut self, tag: u16, value: bool) {
        self.writer.number(tag, u64::from(value));
    }

    /// Adds a descriptor; `raw` stays the caller's.
    pub(crate) fn fd(&mut self, tag: u16, raw: i32) {
        let index = self.keep(raw);
        self.writer.number(tag, u64::from(index));
    }

    fn keep(&mut self, raw: i32) -> u32 {
        self.fds.push(raw);
        u32::try_from(self.fds.len()).unwrap_or(u32::MAX) // 0 is the plan
    }

    pub(crate) fn door(&mut self, door: &Door) {
        for (tag, raw) in door.fields() {
            self.fd(tag, raw);
        }
    }

    pub(crate) fn volume(&mut self, volume: &Volume) {
        self.volume_at(volume, volume.target.as_bytes());
    }

    /// Adds a volume that goes elsewhere than it says.
    pub(crate) fn volume_at(&mut self, volume: &Volume, target: &[u8]) {
        let index = self.keep(volume.raw());
        let flags = if volume.is_dir { 0 } else { MOUNT_FILE };
        self.writer.mount(index, flags, target);
    }

    /// A device file to make in `/dev`.
    pub(crate) fn node(&mut self, node: &Node) {
        let numbers = [node.mode, node.major, node.minor, node.user, node.group];
        let mut value: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        value.extend(node.path.as_os_str().as_bytes());
        self.bytes(tag::DEVICE, value);
    }

    /// Who the process is, and what it runs.
    pub(crate) fn process(&mut self, process: &ProcessBody) {
        for argument in &process.arguments {
            self.bytes(tag::ARGUMENT, argument);
        }
        for variable in &process.environment {
            self.bytes(tag::ENVIRONMENT, variable);
        }
        self.bytes(tag::DIRECTORY, &process.directory);
        self.number(tag::USER, process.user.into());
        self.number(tag::GROUP, process.group.into());
        for group in &process.groups {
            self.number(tag::MORE_GROUP, (*group).into());
        }
        self.number(tag::CAPABILITIES, process.capabilities);
        self.number(tag::BOUNDING, process.capabilities);
        self.number(tag::AMBIENT, process.ambient);
        self.flag(tag::NO_NEW_PRIVILEGES, process.no_new_privileges);
        self.flag(tag::TERMINAL, process.terminal);
        self.seccomp(&process.seccomp, process.seccomp_flags);
    }

    /// The process's user as the node knows it, where the pod's users are not the node's.
    pub(crate) fn owner(&mut self, mapping: Option<Mapping>, user: u32) {
        if let Some(mapping) = mapping {
            self.number(tag::OWNER, mapping.on_node(user).into());
        }
    }

    /// The filter of its system calls; an empty one is none.
    pub(crate) fn seccomp(&mut self, program: &[u8], flags: u32) {
        if !program.is_empty() {
            self.bytes(tag::SECCOMP, program);
            self.number(tag::SECCOMP_FLAGS, flags.into());
        }
    }

    /// What `/sys/fs/cgroup` shows.
    pub(crate) fn cgroup_view(&mut self, cgroups: &Cgroups) {
        for hierarchy in cgroups.layout().v1() {
            self.bytes(tag::CGROUP_VIEW, hierarchy.name());
        }
    }

    pub(crate) fn pid_mode(&mut self, mode: PidMode<'_>) {
        let number = match mode {
            PidMode::Own => plan::PID_OWN,
            PidMode::Pod => plan::PID_POD,
            PidMode::Node => plan::PID_NODE,
            PidMode::Target(id) => {
                self.bytes(tag::TARGET, id);
                plan::PID_TARGET
            }
        };
        self.number(tag::PID_MODE, number);
    }

    pub(crate) fn seal(self) -> io::Result<Sealed> {
        let file = program::sealed("podbus-plan", &self.writer.finish())?;
        let mut fds = vec![file.as_raw_fd()];
        fds.extend(self.fds);
        Ok(Sealed { _file: file, fds })
    }
}

/// A device file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Relative to `/dev`.
    pub(crate) path: PathBuf,
    /// Kind and permissions.
    pub(crate) mode: u32,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// The PID namespace of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PidMode<'a> {
    Own,
    Pod,
    Node,
    /// That of the container with this id.
    Target(&'a str),
}
