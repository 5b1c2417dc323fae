//! Starting a service: logs on stderr, then its own `main`.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::failure::Outcome;

/// A service's own flags, and how it logs.
#[derive(Debug, Args)]
pub(crate) struct Service<A: Args> {
    #[command(flatten)]
    service: A,
    /// The form of log lines; RUST_LOG filters them
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

impl<A: Args> Service<A> {
    /// Runs the service until it ends.
    pub(crate) fn run(self, main: impl FnOnce(A) -> anyhow::Result<()>) -> Outcome {
        let filter = EnvFilter::builder()
            .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
            .from_env_lossy();
        let logs = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => logs.with_target(false).init(),
            LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).init(),
        }
        // The one TLS provider of the tree. An error means that it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(main(self.service)?)
    }
}
