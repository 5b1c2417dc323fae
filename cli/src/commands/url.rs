//! `podbus url`: the bus's URL with its token, for any NATS client.

use std::path::PathBuf;

use crate::bus::{self, Address};
use crate::cluster;
use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;
use crate::up::layout::Layout;

/// Flags of `podbus url`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's state directory, when several run
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Prints the URL.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let (mut clusters, mut unreadable) = cluster::read_all();
    if let Some(dir) = &args.state_dir {
        let layout = Layout::new(dir)?;
        clusters.retain(|cluster| cluster.name == layout.name);
        unreadable.retain(|file| file.path == layout.cluster_file());
    }
    if clusters.is_empty() && unreadable.is_empty() {
        return Err(Failure::local("no cluster runs here").hint("start one with `podbus up`"));
    }
    terminal.line(&with_token(&bus::choose(None, &clusters, &unreadable)?))
}

fn with_token(address: &Address) -> String {
    match (&address.token, address.url.split_once("://")) {
        (Some(token), Some((scheme, host))) => format!("{scheme}://{token}@{host}"),
        _ => address.url.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_stands_before_the_host() {
        let address =
            |token: Option<&str>| Address { url: "nats://127.0.0.1:4222".into(), token: token.map(Into::into) };
        assert_eq!(with_token(&address(Some("s3cret"))), "nats://s3cret@127.0.0.1:4222");
        assert_eq!(with_token(&address(None)), "nats://127.0.0.1:4222");
    }
}
