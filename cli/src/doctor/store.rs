//! Whether the store of the cluster that runs here was lost and rebuilt: its events say so.

use std::time::Duration;

use podbus_common::model::Event;
use tokio::time::timeout;

use super::Finding;
use crate::args::BusArgs;
use crate::bus::Session;
use crate::cluster;
use crate::commands::events::history;

/// A cluster that does not answer for so long has other troubles.
const WAIT: Duration = Duration::from_secs(3);

/// `None`: no cluster runs here, or it cannot be asked.
pub(super) async fn examine() -> Option<Finding> {
    let (clusters, _) = cluster::read_all();
    if clusters.is_empty() {
        return None;
    }
    let asked = async {
        let session = Session::connect(&BusArgs::default()).await.ok()?;
        history(&session, None, "reason=StoreRebuilt").await.ok()
    };
    timeout(WAIT, asked).await.ok().flatten().map(|events| of_events(&events))
}

/// Events are oldest first.
fn of_events(rebuilt: &[Event]) -> Finding {
    match rebuilt.last() {
        None => Finding::good("store", "no event tells that it was rebuilt"),
        Some(event) => Finding::warning(
            "store",
            format!("{}, at {}", event.message, event.last_timestamp.unwrap_or_default()),
            "`podbus events` names each pod that was put back, and those of which nobody knows whether they were \
             deleted since (docs/HA.md)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use podbus_common::model::Timestamp;

    use super::super::Verdict;
    use super::*;

    #[test]
    fn the_last_rebuilding_is_told_with_its_time() {
        let event = |message: &str, second: i64| Event {
            message: message.to_owned(),
            last_timestamp: Some(Timestamp::from_unix_ms(second * 1000)),
            ..Default::default()
        };
        let finding = of_events(&[event("first", 1), event("The store is rebuilt: 12 pods", 2)]);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert_eq!(finding.detail, "The store is rebuilt: 12 pods, at 1970-01-01T00:00:02Z");
        assert_eq!(of_events(&[]).verdict, Verdict::Good);
    }
}
