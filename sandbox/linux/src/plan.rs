//! A plan: what the shim has to do, as a list of fields in a sealed file, read without a heap.
//!
//! A field is a tag (`u16`), two bytes of padding, a length (`u32`), the bytes, a NUL, and padding to 8 bytes, all
//! little-endian. Fields are only ever added; a reader skips the tags that it does not know. Where a field names a
//! descriptor it holds its index among those that came with the message.

use core::ffi::CStr;

use crate::{Errno, Result};

/// What a field is. Numbers are never used again.
pub mod tag {
    #![allow(missing_docs, reason = "each says it in its name; the grouping says the rest")]

    // the root: layers from the uppermost to the lowest, paths relative to the state directory
    pub const LOWER: u16 = 1;
    pub const UPPER: u16 = 2;
    pub const WORK: u16 = 3;
    /// Number: 1 where the root is read-only.
    pub const ROOT_READONLY: u16 = 4;
    /// Descriptor index (`u32`), [`super::MOUNT_FILE`] or 0 (`u32`), target path: a mount that is attached there.
    pub const MOUNT: u16 = 5;
    /// The names of the cgroup v1 hierarchies to show in `/sys/fs/cgroup`; none: v2.
    pub const CGROUP_VIEW: u16 = 6;
    pub const MASKED_PATH: u16 = 7;
    pub const READONLY_PATH: u16 = 8;
    /// Number: 1 where procfs and sysfs are writable.
    pub const PRIVILEGED: u16 = 9;
    /// Number: 1 where `/dev/shm` is that of the pod (the plan has a MOUNT otherwise).
    pub const POD_SHM: u16 = 10;
    /// Mode, major, minor, user, group (`u32` each), path beneath `/dev`: a device file to make.
    pub const DEVICE: u16 = 11;
    /// A directory whose files count as those of the pod's user namespace while the layers are mounted.
    pub const MAPPED: u16 = 12;

    // the process
    pub const ARGUMENT: u16 = 20;
    pub const ENVIRONMENT: u16 = 21;
    pub const DIRECTORY: u16 = 22;
    pub const USER: u16 = 23;
    pub const GROUP: u16 = 24;
    pub const MORE_GROUP: u16 = 25;
    pub const CAPABILITIES: u16 = 26;
    pub const BOUNDING: u16 = 27;
    pub const AMBIENT: u16 = 28;
    pub const NO_NEW_PRIVILEGES: u16 = 29;
    pub const TERMINAL: u16 = 30;
    /// Number: 1 where standard input stays open for an attach.
    pub const STDIN: u16 = 31;
    pub const OOM_SCORE: u16 = 32;
    /// Number: one of `PID_*`.
    pub const PID_MODE: u16 = 33;
    /// Id of the container whose namespaces are joined (`TARGET`, and exec).
    pub const TARGET: u16 = 34;
    /// A program for [`crate::seccomp::load`], and its flags.
    pub const SECCOMP: u16 = 35;
    pub const SECCOMP_FLAGS: u16 = 36;

    // the pod
    pub const HOSTNAME: u16 = 40;
    /// `path=value` beneath `/proc/sys`.
    pub const SYSCTL: u16 = 41;
    /// Number of bytes of the pod's `/dev/shm`.
    pub const SHM_BYTES: u16 = 42;
    /// Number: 1 where the pod has its own IPC and UTS namespaces.
    pub const OWN_IPC: u16 = 43;
    pub const OWN_UTS: u16 = 44;
    /// The ids of the pod's user namespace, as the kernel reads them from `uid_map` and `gid_map`.
    pub const UID_MAP: u16 = 45;
    pub const GID_MAP: u16 = 46;
    /// With a user namespace: what the user of the process is on the node.
    pub const OWNER: u16 = 47;

    // descriptors
    pub const FD_RECORD: u16 = 60;
    pub const FD_LOG: u16 = 61;
    /// A `cgroup.procs` to join by writing to it.
    pub const FD_CGROUP: u16 = 62;
    /// The directory of a cgroup v2 to be born in.
    pub const FD_CGROUP_BIRTH: u16 = 63;
    /// `memory.oom_control` or `memory.events`.
    pub const FD_OOM: u16 = 64;
    /// `cgroup.kill`.
    pub const FD_KILL: u16 = 65;
    pub const FD_NET: u16 = 66;
    pub const FD_PAUSE: u16 = 67;
    /// The layers of a container's root, put together and attached nowhere: in place of LOWER, UPPER and WORK.
    pub const FD_ROOT: u16 = 71;
    pub const FD_STDIN: u16 = 68;
    pub const FD_STDOUT: u16 = 69;
    pub const FD_STDERR: u16 = 70;

    // a command of a runtime handler: what is attached where it can see it, paths on the node
    /// Where the root of the container goes, whose layers LOWER, UPPER and WORK are.
    pub const HANDLER_ROOT: u16 = 110;
    /// Where the pod's `/dev/shm` goes.
    pub const HANDLER_SHM: u16 = 111;
    /// A process (its descriptor) whose namespaces are the node's.
    pub const FD_NODE: u16 = 112;

    // the network
    /// A socket that is bound to a host port, kept for as long as the pod lives.
    pub const FD_HOST_PORT: u16 = 100;
}

/// The second number of a MOUNT whose source is not a directory.
pub const MOUNT_FILE: u32 = 1;

/// A PID namespace of its own.
pub const PID_OWN: u64 = 0;
/// The pod's, in which pause is process 1.
pub const PID_POD: u64 = 1;
/// The node's.
pub const PID_NODE: u64 = 2;
/// That of another container.
pub const PID_TARGET: u64 = 3;

const HEADER_BYTES: usize = 8;

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// What it is.
    pub tag: u16,
    /// What it holds, with the NUL at the end.
    with_nul: &'a [u8],
}

impl<'a> Field<'a> {
    /// What it holds.
    pub fn bytes(&self) -> &'a [u8] {
        &self.with_nul[..self.with_nul.len() - 1]
    }

    /// As text for a system call.
    pub fn cstr(&self) -> Result<&'a CStr> {
        CStr::from_bytes_with_nul(self.with_nul).map_err(|_| Errno::PROTO)
    }

    /// What follows the first `skipped` bytes, as text for a system call.
    pub fn cstr_after(&self, skipped: usize) -> Result<&'a CStr> {
        let rest = self.with_nul.get(skipped..).ok_or(Errno::PROTO)?;
        CStr::from_bytes_with_nul(rest).map_err(|_| Errno::PROTO)
    }

    /// As a number of 8 bytes.
    pub fn number(&self) -> Result<u64> {
        let bytes = self.bytes().first_chunk::<8>().ok_or(Errno::PROTO)?;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// As a number that fits into 32 bits.
    pub fn small(&self) -> Result<u32> {
        u32::try_from(self.number()?).map_err(|_| Errno::PROTO)
    }

    /// As the index of a descriptor.
    pub fn index(&self) -> Result<usize> {
        usize::try_from(self.number()?).map_err(|_| Errno::PROTO)
    }

    /// A DEVICE: mode, major, minor, user, group, and the path.
    pub fn device(&self) -> Result<([u32; 5], &'a [u8])> {
        let (head, path) = self.bytes().split_first_chunk::<20>().ok_or(Errno::PROTO)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        Ok(([word(0), word(4), word(8), word(12), word(16)], path))
    }

    /// A MOUNT: descriptor, flags, target.
    pub fn mount(&self) -> Result<(usize, u32, &'a [u8])> {
        let bytes = self.bytes();
        let (index, rest) = bytes.split_first_chunk::<4>().ok_or(Errno::PROTO)?;
        let (flags, target) = rest.split_first_chunk::<4>().ok_or(Errno::PROTO)?;
        Ok((u32::from_le_bytes(*index) as usize, u32::from_le_bytes(*flags), target))
    }
}

/// The fields of a plan, in order.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    rest: &'a [u8],
}

impl<'a> Plan<'a> {
    /// Reads `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The fields with one tag.
    pub fn all(self, tag: u16) -> impl Iterator<Item = Field<'a>> {
        self.filter(move |field| field.tag == tag)
    }

    /// The first field with a tag.
    pub fn first(self, tag: u16) -> Option<Field<'a>> {
        self.all(tag).next()
    }

    /// The number of the first field with a tag; `default` where there is none.
    pub fn number(self, tag: u16, default: u64) -> u64 {
        self.first(tag).and_then(|field| field.number().ok()).unwrap_or(default)
    }
}

impl<'a> Iterator for Plan<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let header = self.rest.first_chunk::<HEADER_BYTES>()?;
        let tag = u16::from_le_bytes([header[0], header[1]]);
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let with_nul = self.rest.get(HEADER_BYTES..HEADER_BYTES + length + 1)?;
        if tag == 0 || with_nul.last() != Some(&0) {
            return None;
        }
        self.rest = self.rest.get((HEADER_BYTES + length + 1).next_multiple_of(8)..).unwrap_or(&[]);
        Some(Field { tag, with_nul })
    }
}

/// Writes a plan.
#[cfg(feature = "std")]
#[derive(Debug, Default)]
pub struct Writer {
    bytes: std::vec::Vec<u8>,
}

#[cfg(feature = "std")]
impl Writer {
    /// Adds bytes or text. A NUL inside ends text early: callers refuse such input.
    pub fn bytes(&mut self, tag: u16, value: &[u8]) {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&tag.to_le_bytes());
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// Adds a number.
    pub fn number(&mut self, tag: u16, value: u64) {
        self.bytes(tag, &value.to_le_bytes());
    }

    /// Adds a MOUNT.
    pub fn mount(&mut self, index: u32, flags: u32, target: &[u8]) {
        let mut value = std::vec::Vec::with_capacity(8 + target.len());
        value.extend_from_slice(&index.to_le_bytes());
        value.extend_from_slice(&flags.to_le_bytes());
        value.extend_from_slice(target);
        self.bytes(tag::MOUNT, &value);
    }

    /// The plan.
    pub fn finish(self) -> std::vec::Vec<u8> {
        self.bytes
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_as_it_was_written() {
        let mut writer = Writer::default();
        writer.bytes(tag::ARGUMENT, b"sh");
        writer.number(tag::USER, 1000);
        writer.mount(7, MOUNT_FILE, b"/etc/hosts");
        let device: std::vec::Vec<u8> = [1, 2, 3, 4, 5_u32].iter().flat_map(|it| it.to_le_bytes()).collect();
        writer.bytes(tag::DEVICE, &[&device[..], b"snd/seq"].concat());
        writer.bytes(tag::ARGUMENT, b"");
        let bytes = writer.finish();
        let plan = Plan::new(&bytes);
        let arguments: std::vec::Vec<_> = plan.all(tag::ARGUMENT).map(|field| field.bytes()).collect();
        assert_eq!(arguments, [&b"sh"[..], b""]);
        assert_eq!(plan.number(tag::USER, 0), 1000);
        assert_eq!(plan.first(tag::MOUNT).unwrap().mount().unwrap(), (7, MOUNT_FILE, &b"/etc/hosts"[..]));
        let device = plan.first(tag::DEVICE).unwrap().device().unwrap();
        assert_eq!(device, ([1, 2, 3, 4, 5], &b"snd/seq"[..]));
        assert_eq!(Plan::new(&bytes[..bytes.len() - 9]).count(), 4);
    }

    #[test]
    fn a_field_of_any_length_is_read_whole_and_never_cut() {
        for length in [0, 1, 7, 8, 255, 256, 65_535, 65_536, 65_537, 16 << 20, (16 << 20) + 1] {
            let value = std::vec![b'x'; length];
            let mut writer = Writer::default();
            writer.bytes(tag::ENVIRONMENT, &value);
            writer.bytes(tag::ARGUMENT, b"after");
            let bytes = writer.finish();
            let plan = Plan::new(&bytes);
            assert!(plan.first(tag::ENVIRONMENT).unwrap().bytes() == value, "{length}");
            assert_eq!(plan.first(tag::ARGUMENT).unwrap().bytes(), b"after");
            assert_eq!(Plan::new(&bytes[..bytes.len() - 16]).all(tag::ARGUMENT).count(), 0, "a cut one is not read");
        }
    }
}
