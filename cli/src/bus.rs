//! Finding the bus and reaching it: a flag, the environment, the running cluster's file, the usual port.

use podbus_common::api::Status;
use podbus_common::proto::{self, open_stream};
use podbus_common_bus::api::ApiError;
use podbus_common_bus::events::EventsError;
use podbus_common_bus::stream::{self, OpenError};
use podbus_common_bus::{Bus, BusOptions, ConnectError, RequestError, api, read_token};

use crate::args::BusArgs;
use crate::cluster::{self, ClusterFile, Unreadable};
use crate::failure::{Failure, Outcome};

/// Where a bus is when nothing says otherwise.
const DEFAULT_URL: &str = "nats://127.0.0.1:4222";
/// Names the bus where no flag does.
const URL_VARIABLE: &str = "PODBUS_NATS_URL";
/// Names the file with its token or key where no flag does.
const TOKEN_FILE_VARIABLE: &str = "PODBUS_TOKEN_FILE";
/// For a person who may not read the running cluster's file.
const NO_ACCESS: &str =
    "a cluster runs here; use `sudo podbus ...`, or join its group: `sudo usermod -aG podbus $USER`";

/// A connection to a cluster.
pub(crate) struct Session {
    /// The bus itself, for streams and events.
    pub(crate) bus: Bus,
    /// The scheduler's API.
    pub(crate) api: api::Client,
}

impl Session {
    /// Finds the bus and connects.
    ///
    /// # Errors
    /// When several clusters run and none was chosen, or when the bus cannot be reached.
    pub(crate) async fn connect(args: &BusArgs) -> Outcome<Self> {
        let (clusters, unreadable) = cluster::read_all();
        let named = args.nats.clone().or_else(|| std::env::var(URL_VARIABLE).ok().filter(|url| !url.is_empty()));
        let mut address = choose(named.as_deref(), &clusters, &unreadable)?;
        let file = args.token_file.clone().or_else(|| std::env::var_os(TOKEN_FILE_VARIABLE).map(Into::into));
        if let Some(file) = file {
            let token = read_token(&file).map_err(|error| {
                Failure::local(format!("cannot read the token in {}", file.display())).because(error)
            })?;
            address.token = Some(token);
        }
        let options = BusOptions { url: address.url, token: address.token, name: "podbus cli".into() };
        let bus = Bus::connect(&options).await.map_err(|error| unreachable(&error, &unreadable))?;
        Ok(Self { api: api::Client::new(bus.clone()), bus })
    }

    /// Opens a stream at a node.
    pub(crate) async fn open(
        &self,
        node: &str,
        subject: &str,
        request: open_stream::Request,
    ) -> Outcome<stream::ClientStream> {
        match stream::open(&self.bus, subject, request).await {
            Ok(stream) => Ok(stream),
            Err(OpenError::Refused(error)) => Err(stream_error(&error)),
            Err(denied @ OpenError::Request(RequestError::Denied(_))) => Err(from_error(&denied).hint(NO_RIGHT)),
            Err(OpenError::Request(RequestError::NoResponders { .. })) if self.is_simulated(node).await => {
                let text = format!("node {node} is simulated: it has no containers, logs or images");
                Err(stream_error(&stream::error(501, text)))
            }
            Err(OpenError::Request(RequestError::NoResponders { .. })) => {
                Err(Failure::local(format!("{node} does not answer"))
                    .hint("`podbus get nodes` shows whether it is ready"))
            }
            Err(other) => Err(from_error(&other).on(node)),
        }
    }

    /// Whether `podbus sim` runs a node: such a one is thousands in one process, and subscribes to no more than it must.
    async fn is_simulated(&self, node: &str) -> bool {
        let node = self.api.get(None, "nodes", node).await;
        node.is_ok_and(|node| node["metadata"]["labels"]["podbus.dev/simulated"] == "true")
    }
}

fn unreachable(error: &ConnectError, unreadable: &[Unreadable]) -> Failure {
    let failure = from_error(error);
    match (error, unreadable.first()) {
        (_, Some(file)) => failure.because(format!("{}: {}", file.path.display(), file.error)).hint(NO_ACCESS),
        (ConnectError::Unauthorized { .. }, None) => failure
            .hint("give its token or your key with --token-file FILE, or a token in the URL: nats://TOKEN@host:port"),
        (ConnectError::Url { .. }, None) => failure,
        (ConnectError::Unreachable { .. }, None) => {
            failure.hint("start a cluster with `podbus up`, or name its bus with --nats or PODBUS_NATS_URL")
        }
    }
}

/// For a person whose key has other rights.
const NO_RIGHT: &str = "rights are given by `podbus keys`; with a team's key, name its namespace: -n NAMESPACE";

/// An error's own words, then those of what caused it, without repeats.
fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts
}

/// An error as a failure: its own words, then its causes.
pub(crate) fn from_error(error: &dyn std::error::Error) -> Failure {
    let mut texts = causes(error).into_iter();
    let failure = Failure::local(texts.next().unwrap_or_default());
    texts.fold(failure, Failure::because)
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Refused(status) => Self::refused(&status),
            timeout @ ApiError::Timeout { .. } => from_error(&timeout).hint(
                "the scheduler or its store is stuck, as when the disk of nats-server is full; `podbus up` of a cluster \
                 that runs shows how each part does",
            ),
            denied @ ApiError::Denied(_) => from_error(&denied).hint(NO_RIGHT),
            other => from_error(&other),
        }
    }
}

impl From<stream::StreamError> for Failure {
    fn from(error: stream::StreamError) -> Self {
        from_error(&error)
    }
}

impl From<EventsError> for Failure {
    fn from(error: EventsError) -> Self {
        let failure = from_error(&error);
        if matches!(error, EventsError::Denied(_)) { failure.hint(NO_RIGHT) } else { failure }
    }
}

/// What a node says of a stream that it ended or refused.
pub(crate) fn stream_error(error: &proto::StreamError) -> Failure {
    let reason = match error.code {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Gone",
        501 => "NotImplemented",
        502 => "BadGateway",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    Failure::refused(&Status::failure(u16::try_from(error.code).unwrap_or(500), reason, &error.message))
}

/// A bus's URL without its token, and the token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Without a token.
    pub(crate) url: String,
    /// What the server wants to see.
    pub(crate) token: Option<String>,
}

/// `given` is the flag or the environment.
pub(crate) fn choose(given: Option<&str>, clusters: &[ClusterFile], unreadable: &[Unreadable]) -> Outcome<Address> {
    if let Some(url) = given {
        let mut address = split_token(url);
        if address.token.is_none() {
            // A cluster of this machine, named by its URL: its file knows the token.
            let known = clusters.iter().find(|c| c.url.trim_end_matches('/') == address.url.trim_end_matches('/'));
            address.token = known.and_then(token_of);
        }
        return Ok(address);
    }
    match (clusters, unreadable) {
        ([cluster], _) => Ok(Address { url: cluster.url.clone(), token: token_of(cluster) }),
        ([], [file, ..]) => {
            Err(Failure::local(format!("cannot read {}", file.path.display())).because(&file.error).hint(NO_ACCESS))
        }
        ([], []) => Ok(Address { url: DEFAULT_URL.into(), token: None }),
        (several, _) => {
            let failure = Failure::local(format!("{} clusters run on this machine; say which", several.len()));
            let failure = several.iter().fold(failure, |failure, cluster| {
                failure.because(format!("--nats {}   {}", cluster.url, cluster.state_dir.display()))
            });
            Err(failure.hint(format!("export PODBUS_NATS_URL={}", several[0].url)))
        }
    }
}

fn token_of(cluster: &ClusterFile) -> Option<String> {
    Some(cluster.token.clone()).filter(|token| !token.is_empty())
}

/// The URL without its token, and the token.
pub(crate) fn split_token(url: &str) -> Address {
    let (url, token) = podbus_common_bus::split_token(url);
    Address { url, token }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(url: &str, token: &str) -> ClusterFile {
        ClusterFile {
            url: url.into(),
            token: token.into(),
            state_dir: "/var/lib/podbus".into(),
            name: "a".into(),
            pid: 1,
        }
    }

    fn address(url: &str, token: Option<&str>) -> Address {
        Address { url: url.into(), token: token.map(Into::into) }
    }

    #[test]
    fn the_bus_is_found_by_flag_then_cluster_then_default() {
        let one = [cluster("nats://127.0.0.1:4555", "s3cret")];
        assert_eq!(choose(Some("nats://h:1"), &one, &[]).unwrap(), address("nats://h:1", None));
        assert_eq!(
            choose(Some("127.0.0.1:4555"), &one, &[]).unwrap(),
            address("nats://127.0.0.1:4555", Some("s3cret"))
        );
        assert_eq!(choose(Some("nats://t@h:1"), &one, &[]).unwrap(), address("nats://h:1", Some("t")));
        assert_eq!(choose(None, &one, &[]).unwrap(), address("nats://127.0.0.1:4555", Some("s3cret")));
        assert_eq!(choose(None, &[], &[]).unwrap(), address(DEFAULT_URL, None));
    }

    #[test]
    fn several_clusters_are_listed_and_none_is_guessed() {
        let two = [cluster("nats://127.0.0.1:1", ""), cluster("nats://127.0.0.1:2", "")];
        let Err(Failure::Said(report)) = choose(None, &two, &[]) else { panic!("guessed") };
        assert_eq!(report.causes.len(), 2);
        assert!(report.hint.is_some());
    }
}
