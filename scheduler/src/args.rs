//! The command line of the scheduler.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use podbus_common_telemetry::Address;
use podbus_scheduler_core::Config;

/// `podbus scheduler`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The NATS server: nats://host:port; of a cluster all of them, with commas between
    #[arg(long, env = "PODBUS_NATS_URL", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub nats: String,
    /// A file with the token that the NATS server wants, or with the seed of the schedulers' nkey
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// How long pods bear a node that is not ready or cannot be reached, unless they say so themselves
    #[arg(long, value_name = "DURATION", default_value = "300s", value_parser = parse_duration)]
    pub not_ready_toleration: Duration,
    /// On how many servers of a NATS cluster each object is stored: 1, 3 or 5; by default as it is, or 1
    #[arg(long, value_name = "N", value_parser = parse_replicas)]
    pub replicas: Option<usize>,
    /// A file with weights and profiles: a KubeSchedulerConfiguration, YAML or JSON
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve /metrics, /livez and /readyz here: 127.0.0.1:9400 or unix:/path (docs/OBSERVABILITY.md); by default nowhere
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<Address>,
}

impl Args {
    /// Weights and profiles, as the file says.
    pub(crate) fn scheduling(&self) -> anyhow::Result<Config> {
        let Some(path) = &self.config else { return Ok(Config::default()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let value: serde_json::Value =
            serde_saphyr::from_str(&text).with_context(|| format!("{} is no YAML", path.display()))?;
        Config::read(&value).with_context(|| format!("{} is no sound configuration", path.display()))
    }
}

fn parse_replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
        _ => Err("write 1, 3 or 5: an even number bears no more deaths than the odd one below it".to_owned()),
    }
}

/// `300s`, `5m`, `1h30m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("{text:?} is no duration: write 300s, 5m or 1h30m");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| refused())?;
    duration.try_into().map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_odd_and_few() {
        let taken = ["1", "2", "3", "4", "5", "7", "x"].map(|text| parse_replicas(text).ok());
        assert_eq!(taken, [Some(1), None, Some(3), None, Some(5), None, None]);
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in
            [("300s", Some(300)), ("5m", Some(300)), ("1h30m", Some(5400)), ("5", None), ("-5s", None)]
        {
            assert_eq!(parse_duration(text).ok().map(|d| d.as_secs()), seconds, "{text}");
        }
    }
}
