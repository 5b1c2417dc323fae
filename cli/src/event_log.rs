//! Events as a person wants them: oldest first, repeats folded into a count. Pure.

use std::collections::HashMap;

use podbus_common::model::{Event, Timestamp};

/// Folds repeats and sorts by when each was seen last; within a second, by when it was told.
///
/// The scheduler publishes an event that repeats again, with a higher count and the same first time: the highest
/// count tells all. The same thing told anew (another first time) adds up, as in Kubernetes' event recorder.
pub(crate) fn folded(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    // With each event the position of its newest telling.
    let mut order: Vec<(Event, usize)> = Vec::new();
    let mut by_content: HashMap<Content, (usize, HashMap<Option<Timestamp>, u32>)> = HashMap::new();
    for (position, event) in events.into_iter().enumerate() {
        let count = event.count.max(1);
        let (index, counts) = by_content.entry(Content::of(&event)).or_insert_with(|| (order.len(), HashMap::new()));
        let of_this_first = counts.entry(event.first_timestamp).or_default();
        *of_this_first = count.max(*of_this_first);
        let total = counts.values().sum();
        match order.get_mut(*index) {
            None => order.push((Event { count, ..event }, position)),
            Some((known, told)) => {
                if event.last_timestamp >= known.last_timestamp {
                    *told = position;
                }
                let first = known.first_timestamp.min(event.first_timestamp);
                let last = known.last_timestamp.max(event.last_timestamp);
                *known = Event { count: total, first_timestamp: first, last_timestamp: last, ..event };
            }
        }
    }
    order.sort_by_key(|(event, told)| (event.last_timestamp.or(event.first_timestamp), *told));
    order.into_iter().map(|(event, _)| event).collect()
}

/// What makes two events the same thing.
#[derive(PartialEq, Eq, Hash)]
struct Content([String; 9]);

impl Content {
    fn of(event: &Event) -> Self {
        let object = &event.involved_object;
        Self([
            object.kind.clone(),
            object.namespace.clone(),
            object.name.clone(),
            object.uid.clone(),
            object.field_path.clone(),
            event.reason.clone(),
            event.message.clone(),
            event.source.component.clone(),
            event.source.host.clone(),
        ])
    }
}

#[cfg(test)]
mod tests {
    use podbus_common::model::ObjectMeta;

    use super::*;

    fn event(reason: &str, first: i64, last: i64, count: u32) -> Event {
        Event {
            metadata: ObjectMeta { name: format!("{reason}.{first}.{last}"), ..Default::default() },
            reason: reason.into(),
            first_timestamp: Some(Timestamp::from_unix_ms(first * 1000)),
            last_timestamp: Some(Timestamp::from_unix_ms(last * 1000)),
            count,
            ..Default::default()
        }
    }

    fn summary(events: Vec<Event>) -> Vec<(String, u32)> {
        folded(events).into_iter().map(|e| (e.reason, e.count)).collect()
    }

    #[test]
    fn a_repeat_told_again_with_a_higher_count_is_one_event() {
        let told = vec![event("BackOff", 1, 1, 1), event("BackOff", 1, 9, 4), event("BackOff", 1, 5, 2)];
        assert_eq!(summary(told), [("BackOff".to_owned(), 4)]);
    }

    #[test]
    fn the_same_thing_at_another_time_adds_up() {
        let told = vec![event("Pulled", 1, 1, 1), event("Pulled", 7, 7, 1)];
        assert_eq!(summary(told), [("Pulled".to_owned(), 2)]);
    }

    #[test]
    fn events_come_in_the_order_in_which_they_were_seen_last() {
        let told = vec![event("Late", 3, 3, 1), event("BackOff", 1, 9, 4), event("Early", 2, 2, 1)];
        let order: Vec<String> = folded(told).into_iter().map(|e| e.reason).collect();
        assert_eq!(order, ["Early", "Late", "BackOff"]);
    }
}
