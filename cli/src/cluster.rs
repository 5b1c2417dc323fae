//! The file by which a running cluster is found: `/run/podbus/<name>.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where running clusters say that they are there.
pub(crate) const RUN_DIR: &str = "/run/podbus";

/// A running cluster, as `podbus up` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterFile {
    /// Its bus, without the token.
    pub(crate) url: String,
    /// The bus's token; empty: none is needed.
    #[serde(default)]
    pub(crate) token: String,
    /// Its state directory.
    pub(crate) state_dir: PathBuf,
    /// A short name made from the state directory.
    pub(crate) name: String,
    /// The process `podbus up`.
    pub(crate) pid: u32,
}

/// A cluster's file that cannot be read, and why.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// The file.
    pub(crate) path: PathBuf,
    /// Why.
    pub(crate) error: std::io::Error,
}

/// All clusters of this machine, by name. No directory: none.
pub(crate) fn read_all() -> (Vec<ClusterFile>, Vec<Unreadable>) {
    read_dir(Path::new(RUN_DIR))
}

fn read_dir(dir: &Path) -> (Vec<ClusterFile>, Vec<Unreadable>) {
    let (mut clusters, mut unreadable) = (Vec::new(), Vec::new());
    for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let read = std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<ClusterFile>(&bytes)?));
        match read {
            Ok(cluster) => clusters.push(cluster),
            // It went away between the two calls: the cluster has just ended.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => unreadable.push(Unreadable { path, error }),
        }
    }
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    (clusters, unreadable)
}
