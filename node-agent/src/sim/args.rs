//! The command line of `podbus sim`.

use std::path::PathBuf;

use podbus_common::quantity::Quantity;

use crate::args::{BusArgs, NodeArgs, quantity};
use podbus_load::chance::Distribution;

/// Run simulated nodes: real agents without containers, thousands in one process.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How to reach the bus.
    #[command(flatten)]
    pub bus: BusArgs,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub nodes: u32,
    /// What the nodes are called: PREFIX-00000, PREFIX-00001...
    #[arg(long, value_name = "PREFIX", default_value = "sim")]
    pub prefix: String,
    /// CPU that each node offers, as a quantity.
    #[arg(long, value_name = "QUANTITY", default_value = "32", value_parser = quantity)]
    pub cpu: Quantity,
    /// Memory that each node offers, as a quantity.
    #[arg(long, value_name = "QUANTITY", default_value = "128Gi", value_parser = quantity)]
    pub memory: Quantity,
    /// What sets each node apart.
    #[command(flatten)]
    pub own: NodeArgs,
    /// In how many zones the nodes are, in turns: topology.kubernetes.io/zone=zone-0, zone-1...
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub zones: u32,
    /// From the assignment of a pod until its containers run.
    #[arg(long, value_name = "DISTRIBUTION", default_value = "lognormal(20ms,0.5)")]
    pub start_latency: Distribution,
    /// From the order to stop until the containers have ended.
    #[arg(long, value_name = "DISTRIBUTION", default_value = "lognormal(10ms,0.5)")]
    pub stop_latency: Distribution,
    /// How often a container crashes in an hour of running.
    #[arg(long, value_name = "PER_HOUR", default_value_t = 0.0, value_parser = rate)]
    pub crash_rate: f64,
    /// How long containers run before they end with 0; without it they run until they are stopped.
    #[arg(long, value_name = "DISTRIBUTION")]
    pub run_time: Option<Distribution>,
    /// A YAML file that says when which nodes die, slow down, flap or are cut off.
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// Chance begins here: the same seed draws the same latencies, crashes and victims.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Connections to the bus, each with a task of its own that carries its share of the nodes.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub connections: u32,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.0..=1e9).contains(rate));
    rate.ok_or_else(|| format!("{text:?} is no rate: write how many crashes an hour"))
}
