//! What a person may type. Each verb's own flags stand beside its code, in `commands`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands;
use crate::terminal::ColorWhen;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "podbus",
    bin_name = "podbus",
    version,
    about = "Kubernetes pods, run by a message bus",
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 120
)]
pub(crate) struct Cli<C: Subcommand = Command> {
    /// When to use colours
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub(crate) color: ColorWhen,
    #[command(subcommand)]
    pub(crate) command: C,
}

/// Services and verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine
    Up(crate::up::Args),
    /// Stop the cluster and remove all of it
    Down(crate::down::Args),
    /// Stop and start nodes of this machine
    Node(commands::node::Args),
    /// Let nodes take no new pods; those that they have stay
    Cordon(commands::cordon::Args),
    /// Let nodes take new pods again
    Uncordon(commands::cordon::Args),
    /// Let nodes take no new pods, and delete those that they have
    Drain(commands::cordon::DrainArgs),
    /// Set taints of nodes, which keep pods away, or take them off
    Taint(commands::taint::Args),
    /// Print the bus's URL with its token
    Url(commands::url::Args),
    /// Make keys for a bus on which each user has rights of its own
    Keys(commands::keys::Args),
    /// Check whether this machine can run a cluster, and say what to do
    Doctor(crate::doctor::Args),
    /// Create or change what a file says
    Apply(commands::apply::Args),
    /// Create a pod of one container, and talk to it
    Run(commands::run::Args),
    /// List pods, nodes or events
    Get(commands::get::Args),
    /// Show all about a pod or a node, with its events
    Describe(commands::describe::Args),
    /// Show what the scheduler thinks of each node for a pod
    Explain(commands::explain::Args),
    /// Show where the pods of a file would go, without creating them
    Plan(commands::plan::Args),
    /// Print what a container wrote
    Logs(commands::logs::Args),
    /// Run a command inside a container
    Exec(commands::exec::Args),
    /// Join the process that a container was started with
    Attach(commands::attach::Args),
    /// Let ports of this machine lead into a pod
    PortForward(commands::port_forward::Args),
    /// Copy files and directories into containers and out of them
    Cp(commands::cp::Args),
    /// Delete pods
    Delete(commands::delete::Args),
    /// Set labels of pods and nodes, or take them away
    Label(commands::label::LabelArgs),
    /// Set annotations of pods and nodes, or take them away
    Annotate(commands::label::AnnotateArgs),
    /// Change fields of pods and nodes
    Patch(commands::patch::Args),
    /// Change a pod or a node in an editor
    Edit(commands::edit::Args),
    /// Wait until pods are as they should be
    Wait(commands::wait::Args),
    /// Show what happened, oldest first
    Events(commands::events::Args),
    /// Show the CPU and memory in use
    Top(commands::top::Args),
    /// Load, pull, list and remove images on nodes
    Image(commands::image::Args),
    /// Print the versions of this program and of the bus
    Version(commands::version::Args),
    /// Print a script that completes commands in a shell
    Completion(commands::completion::Args),
    /// Create pods on a schedule and measure what becomes of them
    Load(commands::load::Args),
    #[command(flatten)]
    Service(Service),
    /// Be PID 1 of a node that is a container
    NodeInit(crate::node_init::Args),
}

/// What runs for long.
#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Run the container runtime: a CRI v1 server
    Sandbox(crate::service::Service<podbus_sandbox::Args>),
    /// Run the scheduler: take manifests in, place pods, tell what they are
    Scheduler(crate::service::Service<podbus_scheduler::Args>),
    /// Run a node: hold the pods that the scheduler assigns to it
    NodeAgent(crate::service::Service<podbus_node_agent::Args>),
    /// Run simulated nodes: agents without containers, thousands in one process
    Sim(crate::service::Service<podbus_node_agent::sim::Args>),
}

/// How to reach the bus.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BusArgs {
    /// The bus; by default PODBUS_NATS_URL, then that of the running cluster, then nats://127.0.0.1:4222
    // Not by clap's `env`: a variable that is set would stand in every usage line as if it were required.
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
    /// A file with the bus's token, or with the seed of an nkey; by default PODBUS_TOKEN_FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// Which namespace, for a verb about one.
#[derive(Debug, Clone, Args)]
pub(crate) struct NamespaceArgs {
    /// The namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default", hide_default_value = true)]
    pub(crate) namespace: String,
}

/// Which namespaces, for a verb about many objects.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScopeArgs {
    #[command(flatten)]
    pub(crate) one: NamespaceArgs,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
}

impl ScopeArgs {
    /// `None`: all of them.
    pub(crate) fn namespace(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(&self.one.namespace)
    }
}

/// Which objects, for a verb about many.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SelectorArgs {
    /// Labels: `app=web`, `tier!=db`, `env in (a,b)`, `key`, `!key`, joined by commas
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Fields: `status.phase=Running`, `spec.nodeName!=node-1`, joined by commas
    #[arg(long, value_name = "FIELDS", default_value = "", hide_default_value = true)]
    pub(crate) field_selector: String,
}

/// Reads what was typed. A service comes to know of no other command: what clap holds of all of them, and the code that
/// makes it, would stay in its memory.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let first = std::env::args_os().nth(1);
    if first.as_ref().and_then(|first| first.to_str()).is_some_and(Service::has_subcommand) {
        let Cli { color, command } = Cli::<Service>::try_parse()?;
        return Ok(Cli { color, command: Command::Service(command) });
    }
    Cli::from_arg_matches(&command().try_get_matches()?)
}

/// The command as clap sees it, with the list of verbs in groups.
pub(crate) fn command() -> clap::Command {
    let command = Cli::<Command>::command();
    let list = grouped(&command);
    command.help_template(format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{list}Options:\n{{options}}\n\n\
         `podbus <command> --help` tells all about one command.\n"
    ))
}

/// Verbs in the order in which a newcomer needs them.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Cluster", &["up", "down", "node", "cordon", "uncordon", "drain", "taint", "url", "keys", "doctor"]),
    (
        "Pods",
        &[
            "apply",
            "run",
            "plan",
            "get",
            "describe",
            "explain",
            "logs",
            "exec",
            "attach",
            "port-forward",
            "cp",
            "delete",
            "label",
            "annotate",
            "patch",
            "edit",
            "wait",
            "events",
            "top",
        ],
    ),
    ("Images", &["image"]),
    ("Load tests", &["load", "sim"]),
    ("Other", &["version", "completion"]),
];

fn grouped(command: &clap::Command) -> String {
    let group = |title: &str, names: &mut dyn Iterator<Item = &clap::Command>| {
        let rows: String = names
            .filter(|c| !c.is_hide_set())
            .map(|c| format!("  {}\t{}\n", c.get_name(), c.get_about().map(ToString::to_string).unwrap_or_default()))
            .collect();
        if rows.is_empty() { String::new() } else { format!("{title}:\n{}\n", crate::columns::LIST.align(&rows)) }
    };
    let mut text = String::new();
    for (title, names) in GROUPS {
        text += &group(title, &mut names.iter().filter_map(|name| command.find_subcommand(name)));
    }
    let known = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    text + &group("Services (started by `podbus up`)", &mut command.get_subcommands().filter(|c| !known(c.get_name())))
}

/// `90`, `90s`, `5m`, `1h30m`, `500ms`: Go's durations; a bare number means seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let bad = || format!("`{text}` is not a duration: write it as 30s, 5m or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let tail = &rest[digits..];
        let unit = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let seconds = match &tail[..unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = &tail[unit..];
    }
    if total.is_zero() { Err(bad()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_verb_has_a_place_in_the_help() {
        let help = command().render_help().to_string();
        for verb in command().get_subcommands().filter(|c| !c.is_hide_set()) {
            assert!(help.contains(&format!("  {} ", verb.get_name())), "{} is missing in\n{help}", verb.get_name());
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ms) in [("90", 90_000), ("5m", 300_000), ("1h30m", 5_400_000), ("500ms", 500), ("1.5s", 1500)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5x", "1h3", "-5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
