//! How a cluster does, as `up` knows it and tells it over its control socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A cluster of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// Its short name.
    pub(crate) name: String,
    /// Where its state is.
    pub(crate) state_dir: PathBuf,
    /// The bus, without a token.
    pub(crate) url: String,
    /// The process `podbus up`.
    pub(crate) pid: u32,
    /// Where it is in its life.
    pub(crate) phase: Phase,
    /// The bus, the scheduler and the nodes, in this order.
    pub(crate) parts: Vec<Part>,
    /// What the user should know.
    pub(crate) notes: Vec<String>,
}

/// Where a cluster is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Not all was Ready yet.
    Starting,
    /// All was Ready once.
    Running,
    /// It ends.
    Stopping,
}

/// The bus, the scheduler or a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// `bus`, `scheduler`, `node-1`.
    pub(crate) name: String,
    /// How it does.
    pub(crate) state: State,
    /// More of that, for a person.
    pub(crate) detail: String,
}

/// How a part does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// On its way to Ready.
    Starting,
    /// It works.
    Ready,
    /// It died and is being started again.
    Failing,
    /// `podbus node stop` stopped it.
    Stopped,
}

impl State {
    /// As a person reads it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Failing => "Failing",
            Self::Stopped => "Stopped",
        }
    }
}

impl Status {
    /// Whether every part that is to run is Ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.state, State::Ready | State::Stopped))
    }
}
