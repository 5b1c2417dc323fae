//! What the bus says about the cluster: whether the scheduler answers, and which nodes are Ready.

use std::collections::BTreeSet;
use std::time::Duration;

use podbus_common::api::ListRequest;
use podbus_common::subject;
use podbus_common_bus::{Bus, api};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::pods::Graces;
use crate::leader;

/// Between two looks while something is not Ready yet, and afterwards.
const EAGER: Duration = Duration::from_millis(40);
const CALM: Duration = Duration::from_secs(1);
/// For each question.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The cluster as seen from the bus.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct View {
    /// Whether the connection to the bus stands.
    pub(crate) connected: bool,
    /// Whether the scheduler answered last time.
    pub(crate) scheduler: bool,
    /// The process ID of the scheduler that leads, where it said so.
    pub(crate) leader: Option<u32>,
    /// The nodes that are Ready, and whose agent listens.
    pub(crate) ready: BTreeSet<String>,
}

/// Looks at the cluster until the receiver is dropped. It hurries until `expected` nodes are Ready.
pub(crate) async fn watch_cluster(bus: Bus, expected: usize, view: watch::Sender<View>) {
    let client = api::Client::new(bus.clone());
    while !view.is_closed() {
        let known = view.borrow().ready.clone();
        let now = look(&client, &bus, &known).await;
        let pause = if now.scheduler && now.ready.len() >= expected { CALM } else { EAGER };
        view.send_if_modified(|view| {
            let changed = *view != now;
            *view = now;
            changed
        });
        sleep(pause).await;
    }
}

async fn look(client: &api::Client, bus: &Bus, known: &BTreeSet<String>) -> View {
    let connected = bus.is_connected();
    let Ok(Ok(list)) = timeout(ANSWER_MAX, client.list(None, "nodes", &ListRequest::default())).await else {
        return View { connected, ..View::default() };
    };
    let mut ready = BTreeSet::new();
    for name in list.items.iter().filter_map(ready_node) {
        // A node's key says Ready until its heartbeats are missed, also if its agent ended with the cluster.
        if known.contains(name) || agent_listens(bus, name).await {
            ready.insert(name.to_owned());
        }
    }
    let leader = leader::find(bus).await.and_then(|leader| leader.pid());
    View { connected, scheduler: true, leader, ready }
}

/// The name of a node that is Ready.
fn ready_node(node: &Value) -> Option<&str> {
    let conditions = node["status"]["conditions"].as_array()?;
    let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready.then(|| node["metadata"]["name"].as_str()).flatten()
}

/// Whether somebody subscribes to the node's images: the server says so at once when nobody does.
async fn agent_listens(bus: &Bus, node: &str) -> bool {
    let request = bus.client().request(subject::images(node), Vec::new().into());
    match timeout(Duration::from_millis(200), request).await {
        Ok(Err(error)) => error.kind() != async_nats::RequestErrorKind::NoResponders,
        // Any answer will do, and one that is late too.
        Ok(Ok(_)) | Err(_) => true,
    }
}

/// The grace periods of all pods, as far as the scheduler can still tell.
pub(crate) async fn graces(bus: &Bus) -> Graces {
    let client = api::Client::new(bus.clone());
    let Ok(Ok(list)) = timeout(ANSWER_MAX, client.list(None, "pods", &ListRequest::default())).await else {
        return Graces::new();
    };
    let grace = |pod: &Value| {
        let uid = pod["metadata"]["uid"].as_str()?.to_owned();
        Some((uid, pod["spec"]["terminationGracePeriodSeconds"].as_i64()?))
    };
    list.items.iter().filter_map(grace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_node_whose_condition_is_true_is_ready() {
        let node = |status: &str| json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        assert_eq!(ready_node(&node("True")), Some("a"));
        assert_eq!(ready_node(&node("Unknown")), None);
        assert_eq!(ready_node(&json!({})), None);
    }
}
