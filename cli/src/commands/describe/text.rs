//! What the descriptions of pods and nodes share: lines of `Key:<tab>value` for [`crate::columns::DESCRIBE`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use podbus_common::model::{Event, EventType, Timestamp};

use crate::columns::DESCRIBE;
use crate::rows;
use crate::terminal::{Paint, Tone};

/// Lines with tabs between cells, indented by levels of two spaces.
#[derive(Debug, Default)]
pub(super) struct Lines(String);

impl Lines {
    /// `Key:  value`.
    pub(super) fn pair(&mut self, level: usize, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{:width$}{key}:\t{value}", "", width = level * 2);
    }

    /// `Key:  value` when there is one.
    pub(super) fn pair_if(&mut self, level: usize, key: &str, value: &str) {
        if !value.is_empty() {
            self.pair(level, key, value);
        }
    }

    /// A line as it is.
    pub(super) fn line(&mut self, level: usize, text: &str) {
        let _ = writeln!(self.0, "{:width$}{text}", "", width = level * 2);
    }

    /// `Key:` with its values one below the other, `<none>` without any.
    pub(super) fn list(&mut self, level: usize, key: &str, values: impl IntoIterator<Item = String>) {
        let mut values = values.into_iter();
        self.pair(level, key, values.next().unwrap_or_else(|| "<none>".into()));
        for value in values {
            let _ = writeln!(self.0, "{:width$}\t{value}", "", width = level * 2);
        }
    }

    /// `Key:` with `name<separator>value` one below the other.
    pub(super) fn map(&mut self, level: usize, key: &str, map: &BTreeMap<String, String>, separator: &str) {
        self.list(level, key, map.iter().map(|(name, value)| format!("{name}{separator}{value}")));
    }

    /// Aligned; an empty value leaves no spaces behind.
    pub(super) fn finish(self) -> String {
        DESCRIBE.align(&self.0).lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
    }
}

/// RFC 1123, as kubectl writes it.
pub(super) fn moment(at: Option<Timestamp>) -> String {
    let formatted = at.and_then(|at| {
        let at = jiff::Timestamp::from_millisecond(at.unix_ms).ok()?;
        Some(at.strftime("%a, %d %b %Y %H:%M:%S %z").to_string())
    });
    formatted.unwrap_or_else(|| "<unknown>".into())
}

/// The last section: what happened.
pub(super) fn events(events: Option<&[Event]>, now: Timestamp, paint: Paint) -> String {
    let Some(events) = events else { return String::new() };
    if events.is_empty() {
        return "Events:  <none>\n".into();
    }
    let mut text = String::from("  Type\tReason\tAge\tFrom\tMessage\n  ----\t------\t---\t----\t-------\n");
    for event in events {
        let kind = match event.kind_of {
            EventType::Normal => "Normal".to_owned(),
            EventType::Warning => paint.tone(Tone::Waiting, "Warning"),
        };
        let message = event.message.trim().replace('\n', " ");
        let (reason, age, from) = (paint.word(&event.reason), rows::last_seen(event, now), rows::event_source(event));
        let _ = writeln!(text, "  {kind}\t{reason}\t{age}\t{from}\t{message}");
    }
    format!("Events:\n{}", DESCRIBE.align(&text))
}
