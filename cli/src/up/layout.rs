//! Where a cluster's files are, and what its parts are called.
//!
//! ```text
//! <state>/version  cluster.json  token  lock  up.log  scheduler.log  scheduler-2.log  nats.log  nats/{nats.conf,jetstream/}
//! <state>/nodes/node-1/{agent/,sandbox/,agent.log,sandbox.log}
//! /run/podbus/<name>.json  /run/podbus/<name>/{up.sock,node-1.sock}
//! /run/podbus/<name>/{scheduler,scheduler-2,node-1.agent,node-1.sandbox}.metrics
//! ```
//!
//! Sockets are under /run, because a socket's path may have 107 bytes only and a state directory may be anywhere.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::cluster::RUN_DIR;

/// Nodes of one machine: two digits of an instance's name.
pub(crate) const NODES_MAX: u16 = 99;
/// Letters of a cluster's name; with a node's two digits an instance's name has 7 bytes, which may have 8.
const NAME_LETTERS: usize = 5;

/// A cluster's places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The state directory: absolute, without links.
    pub(crate) state_dir: PathBuf,
    /// A short name made from the state directory: part of each bridge, table, cgroup and socket name.
    pub(crate) name: String,
}

/// One node's places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeLayout {
    /// From 1.
    pub(crate) number: u16,
    /// `node-1`.
    pub(crate) name: String,
    /// The name of its network and cgroups on this machine.
    pub(crate) instance: String,
    /// The agent's state.
    pub(crate) agent_dir: PathBuf,
    /// The runtime's state.
    pub(crate) sandbox_dir: PathBuf,
    /// The runtime's socket.
    pub(crate) socket: PathBuf,
    /// The agent's log.
    pub(crate) agent_log: PathBuf,
    /// The runtime's log.
    pub(crate) sandbox_log: PathBuf,
}

impl Layout {
    /// The places of the cluster whose state is in `state_dir`, which need not exist yet.
    pub(crate) fn new(state_dir: &Path) -> io::Result<Self> {
        let state_dir = resolve(&std::path::absolute(state_dir)?);
        let name = name_of(&state_dir);
        Ok(Self { state_dir, name })
    }

    /// A file of the state directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.state_dir.join(name)
    }

    /// Where sockets are.
    pub(crate) fn run_dir(&self) -> PathBuf {
        Path::new(RUN_DIR).join(&self.name)
    }

    /// Where `podbus up` takes orders.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.run_dir().join("up.sock")
    }

    /// Where a service shows its metrics: `scheduler`, `node-1.agent`, `node-1.sandbox`.
    pub(crate) fn metrics_socket(&self, service: &str) -> PathBuf {
        self.run_dir().join(format!("{service}.metrics"))
    }

    /// By which the CLI finds the bus.
    pub(crate) fn cluster_file(&self) -> PathBuf {
        Path::new(RUN_DIR).join(format!("{}.json", self.name))
    }

    /// The places of the node with this number, from 1.
    pub(crate) fn node(&self, number: u16) -> NodeLayout {
        let name = format!("node-{number}");
        let dir = self.state_dir.join("nodes").join(&name);
        NodeLayout {
            number,
            instance: format!("{}{number:02}", self.name),
            agent_dir: dir.join("agent"),
            sandbox_dir: dir.join("sandbox"),
            socket: self.run_dir().join(format!("{name}.sock")),
            agent_log: dir.join("agent.log"),
            sandbox_log: dir.join("sandbox.log"),
            name,
        }
    }

    /// The nodes of which there is state, by number.
    pub(crate) fn nodes_on_disk(&self) -> Vec<u16> {
        let entries = std::fs::read_dir(self.state_dir.join("nodes")).into_iter().flatten().flatten();
        let mut numbers: Vec<u16> = entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node-")?.parse().ok())
            .filter(|number| (1..=NODES_MAX).contains(number))
            .collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Resolves links in the part of an absolute path that exists, so that one directory has one name.
fn resolve(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(found), _, _) => found,
        (Err(_), Some(parent), Some(last)) => resolve(parent).join(last),
        (Err(_), _, _) => path.to_owned(),
    }
}

fn name_of(state_dir: &Path) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
    // 32 letters and 256 values of a byte: each letter is as likely as the other.
    digest.iter().take(NAME_LETTERS).map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_directory_has_the_same_name_however_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        let layout = Layout::new(&state).unwrap();
        assert_eq!(Layout::new(&link.join("state")).unwrap(), layout);
        assert_ne!(Layout::new(&directory.path().join("other")).unwrap().name, layout.name);
    }

    #[test]
    fn an_instance_name_fits_in_eight_bytes_and_begins_no_other() {
        let layout = Layout::new(Path::new("/var/lib/podbus")).unwrap();
        let names: Vec<_> = (1..=NODES_MAX).map(|n| layout.node(n).instance).collect();
        for name in &names {
            assert!(name.len() <= 8 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{name}");
            assert_eq!(names.iter().filter(|other| other.starts_with(name.as_str())).count(), 1, "{name}");
        }
    }

    #[test]
    fn a_sockets_path_fits_wherever_the_state_is() {
        let deep = format!("/{}", ["a"; 200].join("/"));
        let layout = Layout::new(Path::new(&deep)).unwrap();
        assert!(layout.node(NODES_MAX).socket.as_os_str().len() < 108);
    }
}
