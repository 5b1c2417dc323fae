//! The pods of one node, stopped or removed through its runtime while no agent is there to make them again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use podbus_common_cri::runtime::runtime_service_client::RuntimeServiceClient;
use podbus_common_cri::runtime::{
    Container, ListContainersRequest, ListPodSandboxRequest, PodSandbox, RemovePodSandboxRequest, StopContainerRequest,
    StopPodSandboxRequest,
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tonic::transport::Channel;

/// Grace of a pod of which nothing is known.
const GRACE_SECONDS_DEFAULT: i64 = 10;
/// Whoever ends a cluster does not wait longer for a pod.
const GRACE_SECONDS_MAX: i64 = 30;
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// For each call beyond the grace period.
const CALL_MAX: Duration = Duration::from_secs(20);

/// What happens to pods when their cluster ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fate {
    /// They run on.
    Keep,
    /// They stop; the next `up` makes their sandboxes again.
    Stop,
    /// They stop and all of them is removed.
    Remove,
}

/// Grace periods in seconds by pod UID.
pub(crate) type Graces = BTreeMap<String, i64>;

/// Stops the pods of the runtime at `socket` and, when that is their fate, removes them. All pods at once.
pub(crate) async fn end(socket: &Path, fate: Fate, graces: &Graces) -> anyhow::Result<()> {
    if fate == Fate::Keep {
        return Ok(());
    }
    let mut client = RuntimeServiceClient::new(podbus_common_cri::connect(socket, CONNECT_MAX).await?);
    let sandboxes = within(client.list_pod_sandbox(ListPodSandboxRequest::default())).await?.items;
    let containers = within(client.list_containers(ListContainersRequest::default())).await?.containers;
    let mut pods: FuturesUnordered<_> = sandboxes
        .iter()
        .map(|sandbox| {
            let own = containers.iter().filter(|container| container.pod_sandbox_id == sandbox.id).collect();
            end_pod(client.clone(), sandbox, own, fate, grace_of(sandbox, graces))
        })
        .collect();
    let mut result = Ok(());
    while let Some(ended) = pods.next().await {
        result = result.and(ended);
    }
    result
}

fn grace_of(sandbox: &PodSandbox, graces: &Graces) -> i64 {
    let uid = sandbox.metadata.as_ref().map_or("", |metadata| metadata.uid.as_str());
    graces.get(uid).copied().unwrap_or(GRACE_SECONDS_DEFAULT).clamp(0, GRACE_SECONDS_MAX)
}

async fn end_pod(
    client: RuntimeServiceClient<Channel>,
    sandbox: &PodSandbox,
    containers: Vec<&Container>,
    fate: Fate,
    grace_seconds: i64,
) -> anyhow::Result<()> {
    let mut stops: FuturesUnordered<_> = containers
        .iter()
        .map(|container| {
            let mut client = client.clone();
            let request = StopContainerRequest { container_id: container.id.clone(), timeout: grace_seconds };
            let limit = CALL_MAX + Duration::from_secs(grace_seconds.unsigned_abs());
            async move { timeout(limit, client.stop_container(request)).await }
        })
        .collect();
    // What does not stop goes with its sandbox, a moment later and harder.
    while stops.next().await.is_some() {}
    let mut client = client.clone();
    within(client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() })).await?;
    if fate == Fate::Remove {
        within(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() })).await?;
    }
    Ok(())
}

async fn within<T>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> anyhow::Result<T> {
    match timeout(CALL_MAX, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => anyhow::bail!("the runtime does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podbus_common_cri::runtime::PodSandboxMetadata;

    #[test]
    fn a_pod_has_its_own_grace_within_bounds() {
        let graces = Graces::from([("a".into(), 3), ("b".into(), 3600)]);
        let of = |uid: &str| {
            let metadata = Some(PodSandboxMetadata { uid: uid.into(), ..Default::default() });
            grace_of(&PodSandbox { metadata, ..Default::default() }, &graces)
        };
        assert_eq!((of("a"), of("b"), of("unknown")), (3, GRACE_SECONDS_MAX, GRACE_SECONDS_DEFAULT));
    }
}
