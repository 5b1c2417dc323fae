//! Objects as rows of kubectl's tables. Pure: the clock is an argument.

use podbus_common::model::{Event, EventType, Node, Pod, Timestamp};
use podbus_common::print;
use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::resource::Kind;
use crate::terminal::{Paint, Tone};

/// What a table shows beside the usual.
#[derive(Debug, Clone, Default)]
pub(crate) struct Show {
    /// `-o wide`.
    pub(crate) wide: bool,
    /// NAMESPACE first (`-A`).
    pub(crate) namespace: bool,
    /// `pod/web` instead of `web`.
    pub(crate) kind: bool,
    /// LABELS last.
    pub(crate) labels: bool,
    /// A column for each of these labels.
    pub(crate) label_columns: Vec<String>,
}

const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";

/// The head of a kind's table.
pub(crate) fn head(kind: Kind, show: &Show) -> Vec<String> {
    let (columns, wide): (&[&str], &[&str]) = match kind {
        Kind::Pod => {
            (&["NAME", "READY", "STATUS", "RESTARTS", "AGE"], &["IP", "NODE", "NOMINATED NODE", "READINESS GATES"])
        }
        Kind::Node => (
            &["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
            &["INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME"],
        ),
        Kind::Event if show.wide => (
            &["LAST SEEN", "TYPE", "REASON", "OBJECT", "SUBOBJECT", "SOURCE", "MESSAGE"],
            &["FIRST SEEN", "COUNT", "NAME"],
        ),
        Kind::Event => (&["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], &[]),
    };
    let mut head: Vec<String> = Vec::new();
    head.extend((show.namespace && kind.is_namespaced()).then(|| "NAMESPACE".to_owned()));
    head.extend(columns.iter().map(|&c| c.to_owned()));
    head.extend(wide.iter().filter(|_| show.wide).map(|&c| c.to_owned()));
    // kubectl's heads are the last part of the label's key.
    head.extend(show.label_columns.iter().map(|key| key.rsplit('/').next().unwrap_or(key).to_uppercase()));
    head.extend(show.labels.then(|| "LABELS".to_owned()));
    head
}

/// An object's row, under the head of its kind.
///
/// # Errors
/// When the object has not the shape of its kind.
pub(crate) fn row(kind: Kind, object: &Value, show: &Show, now: Timestamp, paint: Paint) -> Outcome<Vec<String>> {
    let cells = match kind {
        Kind::Pod => pod(&typed(object)?, show.wide, now, paint),
        Kind::Node => node(&typed(object)?, show.wide, now, paint),
        Kind::Event => event(&typed(object)?, show.wide, now, paint),
    };
    Ok(framed(cells, kind, object, show))
}

/// An object as its type.
pub(crate) fn typed<T: serde::de::DeserializeOwned>(object: &Value) -> Outcome<T> {
    T::deserialize(object)
        .map_err(|error| Failure::local("the server sent an object of an unknown shape").because(error))
}

fn framed(cells: Vec<String>, kind: Kind, object: &Value, show: &Show) -> Vec<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut row = Vec::with_capacity(cells.len() + 3);
    if show.namespace && kind.is_namespaced() {
        row.push(text("/metadata/namespace"));
    }
    row.extend(cells);
    if show.kind && kind != Kind::Event {
        let name = usize::from(show.namespace && kind.is_namespaced());
        row[name] = format!("{}/{}", kind.singular(), row[name]);
    }
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    for key in &show.label_columns {
        row.push(labels.and_then(|l| l.get(key)).and_then(Value::as_str).unwrap_or_default().to_owned());
    }
    if show.labels {
        let pairs = labels.into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
        row.push(or_none(&pairs.collect::<Vec<_>>().join(",")));
    }
    row
}

fn pod(pod: &Pod, wide: bool, now: Timestamp, paint: Paint) -> Vec<String> {
    let status = print::pod_status(pod);
    let mut row = vec![
        pod.metadata.name.clone(),
        print::ready(pod),
        paint.word(&status),
        print::restarts(pod, now),
        age(pod.metadata.creation_timestamp, now),
    ];
    if wide {
        let ip = pod.status.as_ref().map_or("", |status| &status.pod_ip);
        row.extend([or_none(ip), or_none(&pod.spec.node_name), NONE.to_owned(), NONE.to_owned()]);
    }
    row
}

/// `Ready`, `NotReady,SchedulingDisabled`...
pub(crate) fn node_status(node: &Node) -> String {
    let ready = match node.status.conditions.iter().find(|c| c.kind == "Ready") {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if node.spec.unschedulable { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

/// The parts of the labels `node-role.kubernetes.io/<role>`.
pub(crate) fn node_roles(node: &Node) -> String {
    let roles: Vec<&str> =
        node.metadata.labels.keys().filter_map(|key| key.strip_prefix("node-role.kubernetes.io/")).collect();
    or_none(&roles.join(","))
}

fn node(node: &Node, wide: bool, now: Timestamp, paint: Paint) -> Vec<String> {
    let info = &node.status.node_info;
    let mut row = vec![
        node.metadata.name.clone(),
        paint.word(&node_status(node)),
        node_roles(node),
        age(node.metadata.creation_timestamp, now),
        info.kubelet_version.clone(),
    ];
    if wide {
        let address = |kind: &str| node.status.addresses.iter().find(|a| a.kind == kind).map_or("", |a| &a.address);
        let or_unknown = |text: &str| if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() };
        row.extend([
            or_none(address("InternalIP")),
            or_none(address("ExternalIP")),
            or_unknown(&info.os_image),
            or_unknown(&info.kernel_version),
            or_unknown(&info.container_runtime_version),
        ]);
    }
    row
}

fn event(event: &Event, wide: bool, now: Timestamp, paint: Paint) -> Vec<String> {
    let message = event.message.trim().replace('\n', " ");
    let mut row =
        vec![last_seen(event, now), event_type(event.kind_of, paint), paint.word(&event.reason), event_object(event)];
    if wide {
        row.extend([event.involved_object.field_path.clone(), event_source(event)]);
    }
    row.push(message);
    if wide {
        row.extend([age(event.first_timestamp, now), event.count.max(1).to_string(), event.metadata.name.clone()]);
    }
    row
}

/// `pod/web`: what an event is about.
pub(crate) fn event_object(event: &Event) -> String {
    format!("{}/{}", event.involved_object.kind.to_lowercase(), event.involved_object.name)
}

/// `podbus-node-agent, node-1`.
pub(crate) fn event_source(event: &Event) -> String {
    match (event.source.component.as_str(), event.source.host.as_str()) {
        (component, "") => component.to_owned(),
        (component, host) => format!("{component}, {host}"),
    }
}

fn event_type(kind: EventType, paint: Paint) -> String {
    match kind {
        EventType::Normal => "Normal".to_owned(),
        EventType::Warning => paint.tone(Tone::Waiting, "Warning"),
    }
}

/// How long ago, and how often since when: `12s (x4 over 3m)`.
pub(crate) fn last_seen(event: &Event, now: Timestamp) -> String {
    let last = event.last_timestamp.or(event.first_timestamp);
    if event.count > 1 {
        format!("{} (x{} over {})", age(last, now), event.count, age(event.first_timestamp, now))
    } else {
        age(last, now)
    }
}

/// How long ago, in kubectl's words.
pub(crate) fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    since.map_or_else(|| UNKNOWN.to_owned(), |since| print::duration(now.seconds_since(since)))
}

/// `<none>` for what is not there.
pub(crate) fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}
