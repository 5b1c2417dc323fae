//! The command line of `podbus node-agent`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use podbus_common::model::{Taint, TaintEffect};
use podbus_common::proto::NodeDescription;
use podbus_common::quantity::Quantity;
use podbus_common::validation::is_extended_resource;
use podbus_common_bus::{BusOptions, read_token};
use podbus_common_telemetry::Address;
use podbus_node_agent_core::admission::{NodeOffer, Place};
use podbus_node_agent_core::resources::{extended_from_quantities, from_quantities};

use crate::user_ids::IdRange;

/// How an agent reaches the bus.
#[derive(Debug, Clone, clap::Args)]
pub struct BusArgs {
    /// URL of the bus.
    #[arg(long, env = "PODBUS_NATS_URL", value_name = "URL")]
    pub nats: String,
    /// File with the token of the bus, or with the seed of the node's nkey.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl BusArgs {
    /// What to connect with; `name` is shown by the bus.
    pub(crate) fn options(&self, name: String) -> anyhow::Result<BusOptions> {
        let token = match &self.token_file {
            Some(file) => {
                Some(read_token(file).with_context(|| format!("cannot read the bus's token from {}", file.display()))?)
            }
            None => None,
        };
        Ok(BusOptions { url: self.nats.clone(), token, name })
    }
}

/// What sets a node apart, real or simulated.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    /// How many pods the node takes.
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub max_pods: u32,
    /// A resource that only this node knows, such as nvidia.com/gpu=2: it is counted, and no device is given; may be
    /// repeated.
    #[arg(long = "resource", value_name = "DOMAIN/NAME=COUNT", value_parser = resource)]
    pub resources: Vec<(String, u64)>,
    /// A label of the node; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// A taint of the node; may be repeated.
    #[arg(long = "taint", value_name = "KEY[=VALUE]:EFFECT", value_parser = taint)]
    pub taints: Vec<Taint>,
}

impl NodeArgs {
    /// What the node offers, as quantities: `amounts`, and what the flags add.
    pub(crate) fn capacity<const N: usize>(&self, amounts: [(&str, String); N]) -> BTreeMap<String, String> {
        let amounts = amounts.into_iter().chain([("pods", self.max_pods.to_string())]);
        let own = self.resources.iter().map(|(name, count)| (name.as_str(), count.to_string()));
        amounts.chain(own).map(|(name, amount)| (name.to_owned(), amount)).collect()
    }

    /// The node's labels: `of_all`, and what the flags say.
    pub(crate) fn labels<const N: usize>(&self, of_all: [(&str, String); N]) -> BTreeMap<String, String> {
        let of_all = of_all.map(|(key, value)| (key.to_owned(), value)).into_iter();
        of_all.chain(self.labels.iter().cloned()).collect()
    }

    /// What pods are admitted to, by the node's description.
    pub(crate) fn offer(&self, name: &str, description: &NodeDescription) -> NodeOffer {
        NodeOffer {
            allocatable: from_quantities(&description.allocatable),
            pods: usize::try_from(self.max_pods).unwrap_or(usize::MAX),
            extended: extended_from_quantities(&description.allocatable),
            name: name.to_owned(),
            place: Some(Place { labels: description.labels.clone(), taints: self.taints.clone() }),
        }
    }
}

/// Run a node: hold the pods that the scheduler assigns to it and drive a container runtime.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How to reach the bus.
    #[command(flatten)]
    pub bus: BusArgs,
    /// The node's name.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Where the node keeps its identity, its pods and their logs and volumes.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// The unix socket of the container runtime (CRI v1).
    #[arg(long, value_name = "PATH")]
    pub runtime: PathBuf,
    /// Where the addresses of the node's pods come from.
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: String,
    /// CPU that the node offers, as a quantity; the machine's by default.
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    pub cpu: Option<Quantity>,
    /// Memory that the node offers, as a quantity; the machine's by default.
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    pub memory: Option<Quantity>,
    /// What sets it apart.
    #[command(flatten)]
    pub own: NodeArgs,
    /// The user and group ids of this machine that pods with users of their own (`hostUsers: false`) get, 65,536 each.
    /// Nodes of one machine have different ones, and nobody else uses them.
    #[arg(long, value_name = "FIRST:COUNT", default_value = "65536:16777216")]
    pub user_ids: IdRange,
    /// Serve /metrics, /livez and /readyz here: 127.0.0.1:9401 or unix:/path (docs/OBSERVABILITY.md); by default nowhere.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<Address>,
    /// The cgroup that holds the node's pods, below each cgroup hierarchy's root.
    #[arg(long, value_name = "PATH", default_value = "")]
    pub cgroup_root: String,
}

pub(crate) fn quantity(text: &str) -> Result<Quantity, String> {
    Quantity::parse(text).map_err(|error| error.to_string())
}

fn resource(text: &str) -> Result<(String, u64), String> {
    let (name, count) = text.split_once('=').ok_or("write a resource as DOMAIN/NAME=COUNT")?;
    if !is_extended_resource(name) {
        return Err(format!("{name:?} is not of the form DOMAIN/NAME, such as nvidia.com/gpu"));
    }
    let count = count.parse().map_err(|_| format!("{count:?} is no count"))?;
    Ok((name.to_owned(), count))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write a label as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn taint(text: &str) -> Result<Taint, String> {
    let (pair, effect) = text.rsplit_once(':').ok_or("write a taint as KEY=VALUE:EFFECT")?;
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let effect = match effect {
        "NoSchedule" => TaintEffect::NoSchedule,
        "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
        "NoExecute" => TaintEffect::NoExecute,
        other => return Err(format!("{other:?} is none of NoSchedule, PreferNoSchedule, NoExecute")),
    };
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect, time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_reads_with_and_without_a_value() {
        let with = taint("gpu=true:NoSchedule").unwrap();
        assert_eq!((with.key.as_str(), with.value.as_str(), with.effect), ("gpu", "true", TaintEffect::NoSchedule));
        let without = taint("example.com/gone:NoExecute").unwrap();
        assert_eq!((without.key.as_str(), without.value.as_str()), ("example.com/gone", ""));
        assert!(taint("gpu=true").is_err());
        assert!(taint("gpu=true:Sometimes").is_err());
    }

    #[test]
    fn a_resource_has_a_domain_and_a_count() {
        assert_eq!(resource("nvidia.com/gpu=2"), Ok(("nvidia.com/gpu".to_owned(), 2)));
        for wrong in ["gpu=2", "cpu=2", "kubernetes.io/gpu=1", "nvidia.com/gpu", "nvidia.com/gpu=few"] {
            assert!(resource(wrong).is_err(), "{wrong}");
        }
    }
}
