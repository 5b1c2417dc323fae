//! `podbus load SCENARIO`: creates pods on a schedule and measures what becomes of them; `podbus load compare A B` lays
//! two reports beside each other. What is decided and counted is in `podbus-load`, here is what touches a cluster.

mod cluster;
mod display;
mod drive;
mod screen;
mod stop;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use podbus_load::scenario::{self, Phase};
use podbus_load::schedule::{self, TraceLine};
use podbus_load::{Report, Scenario, page, text};

use self::display::Display;
use self::stop::Stop;
use crate::args::BusArgs;
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  podbus load examples/load/burst.yaml\n  podbus load compare before.json after.json"
)]
pub(crate) struct Args {
    /// What pods, and when: a YAML file
    #[arg(value_name = "SCENARIO", required = true)]
    scenario: Option<PathBuf>,
    /// Where the report goes: NAME.json and NAME.html
    #[arg(short, long, value_name = "DIR", default_value = "podbus-load")]
    output_dir: PathBuf,
    /// Leave the pods where they are
    #[arg(long)]
    keep: bool,
    /// A line a second instead of a view that fills the terminal
    #[arg(long)]
    no_view: bool,
    #[command(flatten)]
    bus: BusArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lay two reports beside each other
    Compare {
        /// The JSON report of the first run
        a: PathBuf,
        /// The JSON report of the second
        b: PathBuf,
        /// Write a page with both
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    match (&args.command, &args.scenario) {
        (Some(Command::Compare { a, b, html }), _) => compare(a, b, html.as_deref(), terminal),
        (None, Some(file)) => load(&args, file, terminal).await,
        (None, None) => Err(Failure::local("name a scenario")),
    }
}

fn compare(a: &Path, b: &Path, html: Option<&Path>, terminal: &Terminal) -> Outcome {
    let (a, b) = (read_report(a)?, read_report(b)?);
    terminal.print(&text::comparison(&a, &b))?;
    if let Some(path) = html {
        write::file(path, &page::render(&[&a, &b]))?;
        terminal.note(&format!("\nwritten to {}", path.display()));
    }
    Ok(())
}

fn read_report(path: &Path) -> Outcome<Report> {
    serde_json::from_str(&read(path)?)
        .map_err(|error| Failure::local(format!("{} is no report of podbus load", path.display())).because(error))
}

fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::local(format!("cannot read {}", path.display())).because(error))
}

async fn load(args: &Args, file: &Path, terminal: &Terminal) -> Outcome {
    let source = read(file)?;
    let name = file.display().to_string();
    let scenario = scenario::parse(&name, &source).map_err(|mistakes| {
        let failure = Failure::local(format!("{name} is not a valid scenario"));
        mistakes.iter().fold(failure, Failure::because)
    })?;
    let arrivals = schedule::lay_out(&scenario, &read_traces(&scenario, file)?)
        .map_err(|why| Failure::local(format!("{name} cannot be laid out")).because(why))?;
    if arrivals.is_empty() {
        return Err(Failure::local(format!("{name} asks for no pod")));
    }
    let session = Session::connect(&args.bus).await?;
    let stop = Stop::on_signals()?;
    let display = Display::open(terminal, !args.no_view, &stop)?;
    let id = uuid::Uuid::new_v4().simple().to_string()[..6].to_owned();
    let run = drive::Run { api: session.api.clone(), scenario: &scenario, id: &id, display: &display, stop: &stop };
    let report = run.all(arrivals, args.keep).await;
    display.close();
    let report = Report { scenario: source, ..report? };
    terminal.print(&text::table(&report))?;
    write::report(&args.output_dir, &report, terminal)?;
    if report.missed.is_empty() { Ok(()) } else { Err(Failure::Code(1)) }
}

/// The traces that a scenario names, from beside its file.
fn read_traces(scenario: &Scenario, file: &Path) -> Outcome<BTreeMap<String, Vec<TraceLine>>> {
    let mut traces = BTreeMap::new();
    for phase in &scenario.arrival {
        let Phase::Trace { file: name } = phase else { continue };
        let path = file.parent().unwrap_or_else(|| Path::new(".")).join(name);
        let lines = schedule::parse_trace(&read(&path)?)
            .map_err(|why| Failure::local(format!("{} is no trace", path.display())).because(why))?;
        traces.insert(name.clone(), lines);
    }
    Ok(traces)
}
