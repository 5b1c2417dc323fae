//! `podbus version`.

use serde_json::json;

use crate::args::BusArgs;
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::leader::{self, Leader};
use crate::output::Format;
use crate::terminal::Terminal;

const CLIENT: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only of this program; asks nobody
    #[arg(long)]
    client: bool,
    /// json or yaml
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse)]
    output: Option<Format>,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    if args.client {
        return show(&args, terminal, None, None);
    }
    match Session::connect(&args.bus).await {
        Ok(session) => {
            let scheduler = leader::find(&session.bus).await;
            show(&args, terminal, bus_version(&session), scheduler)
        }
        Err(failure) => {
            // What can be said is said, as kubectl does.
            show(&args, terminal, None, None)?;
            Err(failure)
        }
    }
}

fn bus_version(session: &Session) -> Option<String> {
    session.bus.server_version().map(|(major, minor, patch)| format!("{major}.{minor}.{patch}"))
}

fn show(args: &Args, terminal: &Terminal, bus: Option<String>, scheduler: Option<Leader>) -> Outcome {
    match &args.output {
        None => {
            let mut text = format!("Client Version: v{CLIENT}\n");
            if let Some(bus) = bus {
                let server = scheduler.as_ref().map_or_else(
                    || "no scheduler answers".to_owned(),
                    |leader| format!("v{}\nLeader: {} (epoch {})", leader.version, leader.holder, leader.epoch),
                );
                text += &format!("Server Version: {server}\nBus Version: nats-server v{bus}\n");
            }
            terminal.print(&text)
        }
        Some(format @ (Format::Json | Format::Yaml)) => {
            let mut versions = json!({"clientVersion": {"gitVersion": format!("v{CLIENT}")}});
            if let Some(Leader { version, holder, epoch }) = scheduler {
                versions["serverVersion"] = json!({"gitVersion": format!("v{version}")});
                versions["leader"] = json!({"holder": holder, "epoch": epoch});
            }
            if let Some(bus) = bus {
                versions["busVersion"] = json!({"natsServer": bus});
            }
            terminal.print(&format.render(&[versions], false)?)
        }
        Some(_) => Err(Failure::local("--output must be 'yaml' or 'json'")),
    }
}
