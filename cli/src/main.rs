//! `podbus`: the services and what a person types, in one program.

mod args;
mod bus;
mod cluster;
mod columns;
mod commands;
mod doctor;
mod down;
mod event_log;
mod failure;
mod jsonpath;
mod leader;
mod manifests;
mod node_init;
mod output;
mod resource;
mod rows;
mod service;
#[cfg(test)]
mod snapshots;
mod terminal;
mod up;

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::args::{Command, Service};

/// The scheduler allocates much: with glibc's allocator it takes half as much CPU time again a pod. And who links
/// statically against musl gets its allocator, which has one lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;

fn main() -> ExitCode {
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. kubectl knows the codes 0 and 1 only.
            let _ = error.print();
            let asked_for_nothing = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            return if error.use_stderr() && !asked_for_nothing { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let terminal = Terminal::new(cli.color);
    match run(cli.command, &terminal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.report(&failure.text());
            failure.exit_code()
        }
    }
}

fn run(command: Command, terminal: &Terminal) -> Outcome {
    match command {
        Command::Completion(args) => commands::completion::run(&args, terminal),
        Command::Keys(args) => commands::keys::run(&args, terminal),
        Command::Url(args) => commands::url::run(&args, terminal),
        Command::Service(Service::Sandbox(service)) => service.run(podbus_sandbox::main),
        Command::Service(Service::Scheduler(service)) => service.run(podbus_scheduler::main),
        Command::Service(Service::NodeAgent(service)) => service.run(podbus_node_agent::main),
        Command::Service(Service::Sim(service)) => service.run(podbus_node_agent::sim::main),
        Command::Load(args) => {
            // One thread, which wakes no other, so that it takes less from what it measures beside it. What it does too
            // late counts all the same, from when it was due.
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(commands::load::run(args, terminal))
        }
        verb => {
            // One thread: a verb waits for the bus, and must start at once.
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run_verb(verb, terminal))
        }
    }
}

async fn run_verb(command: Command, terminal: &Terminal) -> Outcome {
    match command {
        Command::Apply(args) => commands::apply::run(args, terminal).await,
        Command::Run(args) => commands::run::run(args, terminal).await,
        Command::Get(args) => commands::get::run(args, terminal).await,
        Command::Describe(args) => commands::describe::run(args, terminal).await,
        Command::Explain(args) => commands::explain::run(args, terminal).await,
        Command::Plan(args) => commands::plan::run(args, terminal).await,
        Command::Logs(args) => commands::logs::run(args, terminal).await,
        Command::Exec(args) => commands::exec::run(args, terminal).await,
        Command::Attach(args) => commands::attach::run(args, terminal).await,
        Command::PortForward(args) => commands::port_forward::run(args, terminal).await,
        Command::Cp(args) => commands::cp::run(args, terminal).await,
        Command::Cordon(args) => commands::cordon::run(args, true, terminal).await,
        Command::Uncordon(args) => commands::cordon::run(args, false, terminal).await,
        Command::Drain(args) => commands::cordon::drain(args, terminal).await,
        Command::Delete(args) => commands::delete::run(args, terminal).await,
        Command::Patch(args) => commands::patch::run(args, terminal).await,
        Command::Edit(args) => commands::edit::run(args, terminal).await,
        Command::Taint(args) => commands::taint::run(args, terminal).await,
        Command::Label(args) => commands::label::label(args, terminal).await,
        Command::Annotate(args) => commands::label::annotate(args, terminal).await,
        Command::Wait(args) => commands::wait::run(args, terminal).await,
        Command::Events(args) => commands::events::run(args, terminal).await,
        Command::Top(args) => commands::top::run(args, terminal).await,
        Command::Image(args) => commands::image::run(args, terminal).await,
        Command::Doctor(args) => doctor::run(&args, terminal).await,
        Command::Up(args) => up::run(args, terminal).await,
        Command::NodeInit(args) => node_init::run(args).await,
        Command::Down(args) => down::run(args, terminal).await,
        Command::Node(args) => commands::node::run(args, terminal).await,
        Command::Version(args) => commands::version::run(args, terminal).await,
        other => Err(Failure::local(format!("{other:?} is no verb"))),
    }
}
