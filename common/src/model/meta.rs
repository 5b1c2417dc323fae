use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, shown as Kubernetes shows it: RFC 3339, UTC, whole seconds. Kept in milliseconds since the Unix epoch,
/// so that what crosses the bus loses nothing; only JSON rounds down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: i64,
}

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_unix_ms(unix_ms: i64) -> Self {
        Self { unix_ms }
    }

    /// Seconds from `earlier` to `self`, negative where the clocks disagree.
    pub const fn seconds_since(self, earlier: Self) -> i64 {
        (self.unix_ms - earlier.unix_ms).div_euclid(1000)
    }

    /// This moment, `seconds` later.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self { unix_ms: self.unix_ms.saturating_add(seconds.saturating_mul(1000)) }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.unix_ms.div_euclid(1000)) {
            Ok(t) => write!(f, "{t}"),
            Err(_) => f.write_str("<invalid>"),
        }
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>().map(|t| Self { unix_ms: t.as_millisecond() })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Metadata of every object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// The name; empty only in a request that has `generateName`.
    pub name: String,
    /// A prefix to make a name from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    /// Empty for objects without one (nodes).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Set by the scheduler; a replacement has another one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The higher revision of the object's two keys; set when read.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Counts changes of the spec and the deletion.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// When it was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Timestamp>,
    /// When it will be gone at the latest; set means: being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Timestamp>,
    /// The grace of the deletion under way, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<u32>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Metadata of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// The last revision applied in order.
    pub resource_version: String,
    /// Pass it to the next list request for the next page; empty: this was the last.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_written_in_whole_seconds_of_utc() {
        let t = Timestamp::from_unix_ms(1_764_000_000_999);
        assert_eq!(t.to_string(), "2025-11-24T16:00:00Z");
        assert_eq!("2025-11-24T16:00:00Z".parse::<Timestamp>().unwrap().unix_ms, 1_764_000_000_000);
    }
}
