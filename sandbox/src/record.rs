//! Records: what a sandbox or a container is, on disk before anything of it exists.
//!
//! ```text
//!   0     four slots of 64 bytes: state, exit, stop, daemon (podbus_sandbox_linux::slot)
//!   4096  length (u32), CRC-32 (u32), the body (protobuf): written once
//! ```
//!
//! A record is a new file that is never renamed over: its descriptor stays the record for whoever holds it. Slots are
//! allocated with the file, so that a full disk loses no exit.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use podbus_common_cri::runtime::{ContainerConfig, PodSandboxConfig};
use podbus_sandbox_linux::slot::{BODY_OFFSET, Place, SLOT_BYTES, Slot};
use prost::Message;

/// Larger than any request that CRI lets through.
const BODY_BYTES_MAX: u32 = 32 << 20;

/// What a sandbox is.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxBody {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) cookie: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub(crate) config: Option<PodSandboxConfig>,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    pub(crate) created_at: i64,
    /// Empty with the node's network.
    #[prost(string, tag = "5")]
    pub(crate) ip: String,
    #[prost(string, tag = "6")]
    pub(crate) veth: String,
    /// The cgroup that holds all of the pod, without a slash at either end.
    #[prost(string, tag = "7")]
    pub(crate) cgroup: String,
    #[prost(string, tag = "8")]
    pub(crate) runtime_handler: String,
    /// The IPv6 address, where pods have both.
    #[prost(string, tag = "20")]
    pub(crate) second_ip: String,
    /// What makes its containers, as the configuration had it; `None` is the native handler.
    #[prost(message, optional, tag = "21")]
    pub(crate) handler: Option<HandlerBody>,
}

/// A runtime handler: an OCI runtime by its binary.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HandlerBody {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) binary: String,
    /// Words before the command.
    #[prost(string, repeated, tag = "3")]
    pub(crate) options: Vec<String>,
    /// Whether `create` and `exec` run in the container's cgroup.
    #[prost(bool, tag = "4")]
    pub(crate) inherits_cgroup: bool,
}

/// What a container is.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerBody {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) sandbox_id: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) config: Option<ContainerConfig>,
    #[prost(int64, tag = "4")]
    pub(crate) created_at: i64,
    #[prost(string, tag = "5")]
    pub(crate) image_id: String,
    #[prost(string, tag = "6")]
    pub(crate) image_ref: String,
    /// The unpacked layers, lowest first.
    #[prost(string, repeated, tag = "7")]
    pub(crate) layers: Vec<String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) process: Option<ProcessBody>,
    /// Absolute, or empty.
    #[prost(string, tag = "9")]
    pub(crate) log_path: String,
    #[prost(int32, tag = "10")]
    pub(crate) stop_signal: i32,
    #[prost(message, repeated, tag = "40")]
    pub(crate) image_volumes: Vec<ImageVolumeBody>,
}

/// The image that a mount of the request named, as it was found.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ImageVolumeBody {
    /// Which of the request's mounts.
    #[prost(uint32, tag = "1")]
    pub(crate) mount: u32,
    #[prost(string, tag = "2")]
    pub(crate) image_id: String,
    /// The unpacked layers, lowest first.
    #[prost(string, repeated, tag = "3")]
    pub(crate) layers: Vec<String>,
}

impl ContainerBody {
    /// All layers that it needs: those of its own image and of its volumes.
    pub(crate) fn all_layers(&self) -> Vec<PathBuf> {
        let volumes = self.image_volumes.iter().flat_map(|volume| &volume.layers);
        self.layers.iter().chain(volumes).map(PathBuf::from).collect()
    }
}

/// The first process of a container, as request and image make it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ProcessBody {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) arguments: Vec<Vec<u8>>,
    /// `NAME=value`.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) environment: Vec<Vec<u8>>,
    #[prost(string, tag = "3")]
    pub(crate) directory: String,
    #[prost(uint32, tag = "4")]
    pub(crate) user: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) group: u32,
    #[prost(uint32, repeated, tag = "6")]
    pub(crate) groups: Vec<u32>,
    #[prost(uint64, tag = "7")]
    pub(crate) capabilities: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) ambient: u64,
    #[prost(bool, tag = "9")]
    pub(crate) no_new_privileges: bool,
    #[prost(bool, tag = "10")]
    pub(crate) terminal: bool,
    /// The program of its seccomp filter; empty where it has none.
    #[prost(bytes = "bytes", tag = "60")]
    pub(crate) seccomp: Bytes,
    #[prost(uint32, tag = "61")]
    pub(crate) seccomp_flags: u32,
}

/// An open record.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
}

impl Record {
    /// Makes the file of one in advance, empty: it says nothing yet.
    pub(crate) fn reserve(path: &Path) -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
    }

    /// Writes a new one.
    pub(crate) fn create(path: &Path, body: &impl Message) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() > 0 {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let body = body.encode_to_vec();
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; usize::try_from(BODY_OFFSET).unwrap_or(0)];
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        file.write_all_at(&bytes, 0)?;
        Ok(Self { file })
    }

    /// Opens one with its body; `None` where it was never written whole.
    pub(crate) fn open<B: Message + Default>(path: &Path) -> io::Result<Option<(Self, B)>> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut header = [0; 8];
        if file.read_exact_at(&mut header, BODY_OFFSET).is_err() {
            return Ok(None);
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, crc) = (word(0), word(4));
        if length > BODY_BYTES_MAX {
            return Ok(None);
        }
        let mut body = vec![0; length as usize];
        file.seek(SeekFrom::Start(BODY_OFFSET + 8))?;
        if file.read_exact(&mut body).is_err() || crc32fast::hash(&body) != crc {
            return Ok(None);
        }
        Ok(B::decode(body.as_slice()).ok().map(|body| (Self { file }, body)))
    }

    /// Reads a slot; `None` where nothing whole stands.
    pub(crate) fn slot(&self, place: Place) -> Option<Slot> {
        let mut bytes = [0; SLOT_BYTES];
        self.file.read_exact_at(&mut bytes, place.offset()).ok()?;
        Slot::decode(&bytes)
    }

    /// Writes a slot: from now on what it says has happened.
    pub(crate) fn commit(&self, place: Place, slot: &Slot) -> io::Result<()> {
        self.file.write_all_at(&slot.encode(), place.offset())
    }

    /// The descriptor, for the shim.
    pub(crate) fn raw(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use podbus_sandbox_linux::slot::crc32;

    use super::*;

    #[test]
    fn a_record_reads_as_it_was_written_and_a_cut_one_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let body = SandboxBody { id: "a".into(), ip: "10.0.0.2".into(), ..SandboxBody::default() };
        Record::reserve(&path).unwrap();
        assert!(Record::open::<SandboxBody>(&path).unwrap().is_none());
        let record = Record::create(&path, &body).unwrap();
        assert_eq!(record.slot(Place::State), None);
        let slot = Slot { time: 5, pid: 7, ..Slot::default() };
        record.commit(Place::State, &slot).unwrap();
        let (again, read) = Record::open::<SandboxBody>(&path).unwrap().unwrap();
        assert_eq!(read, body);
        assert_eq!(again.slot(Place::State), Some(slot));
        assert!(Record::create(&path, &body).is_err());
        again.file.set_len(BODY_OFFSET + 9).unwrap();
        assert!(Record::open::<SandboxBody>(&path).unwrap().is_none());
        assert_eq!(crc32(b"podbus"), crc32fast::hash(b"podbus"));
    }
}
