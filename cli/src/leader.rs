//! Which scheduler leads: the one that serves the API says so as its metadata (NATS micro services, ADR-32).

use std::time::Duration;

use podbus_common_bus::Bus;
use serde_json::Value;
use tokio::time::timeout;

/// A service that runs answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The scheduler that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Its version.
    pub(crate) version: String,
    /// `<host>_<process ID>`, as in the lease.
    pub(crate) holder: String,
    /// Of its term; as text, for a person.
    pub(crate) epoch: String,
}

impl Leader {
    /// Its process ID on its host.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.holder.rsplit_once('_')?.1.parse().ok()
    }
}

/// Asks who leads; `None`: nobody answers.
pub(crate) async fn find(bus: &Bus) -> Option<Leader> {
    let info = bus.client().request("$SRV.INFO.podbus-scheduler", Vec::new().into());
    let reply = timeout(ANSWER_MAX, info).await.ok()?.ok()?;
    read(&serde_json::from_slice(&reply.payload).ok()?)
}

fn read(info: &Value) -> Option<Leader> {
    let of = |value: &Value| value.as_str().map(str::to_owned);
    let metadata = |name: &str| of(&info["metadata"][name]).unwrap_or_default();
    Some(Leader { version: of(&info["version"])?, holder: metadata("holder"), epoch: metadata("epoch") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_leaders_process_is_the_end_of_its_holders_name() {
        let info = json!({"version": "0.1.0", "metadata": {"holder": "my_host_412", "epoch": "17"}});
        let leader = read(&info).unwrap();
        assert_eq!((leader.pid(), leader.epoch.as_str()), (Some(412), "17"));
        // One of an earlier version.
        assert_eq!(read(&json!({"version": "0.0.9"})).unwrap().pid(), None);
        assert_eq!(read(&json!({})), None);
    }
}
