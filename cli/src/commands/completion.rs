//! `podbus completion bash|zsh|fish`.

use clap_complete::Shell;

use crate::args;
use crate::failure::Outcome;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: source <(podbus completion bash)")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "podbus", &mut script);
    terminal.print(&String::from_utf8_lossy(&script))
}
