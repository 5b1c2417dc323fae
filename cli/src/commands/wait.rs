//! `podbus wait --for=...`: until objects are as they should be.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use podbus_common::api::{ListRequest, WatchEventType, WatchRequest};
use serde_json::Value;

use crate::args::{self, BusArgs, NamespaceArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::jsonpath::Path;
use crate::resource::{Kind, Target};
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  podbus wait --for=condition=Ready pod/web\n  podbus wait --for=delete pod web\n  \
    podbus wait --for=jsonpath='{.status.phase}'=Succeeded pods -l job=a --timeout=5m"
)]
pub(crate) struct Args {
    /// What: `pod NAME...`, `pod/NAME...`, or `pods` with -l or --all
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    what: Vec<String>,
    /// condition=NAME[=VALUE], jsonpath={PATH}[=VALUE], create or delete; several must all hold
    #[arg(long = "for", required = true, value_name = "WHAT", value_parser = Condition::parse)]
    conditions: Vec<Condition>,
    /// How long at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// All of the namespace
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    bus: BusArgs,
}

/// What must hold.
#[derive(Debug, Clone, PartialEq)]
enum Condition {
    /// A condition of its status has this value.
    Status { kind: String, value: String },
    /// A path has this value, or any.
    Path(Path, Option<String>),
    /// It is there.
    Created,
    /// It is not there.
    Deleted,
}

impl Condition {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "delete" || text == "create" {
            return Ok(if text == "delete" { Self::Deleted } else { Self::Created });
        }
        if let Some(rest) = text.strip_prefix("condition=") {
            let (kind, value) = rest.split_once('=').unwrap_or((rest, "true"));
            return Ok(Self::Status { kind: kind.to_owned(), value: value.to_owned() });
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            // The value begins after the `=` that follows the closing brace; `==` stands inside filters only.
            let (path, value) = match rest.rfind('}') {
                Some(end) => (&rest[..=end], rest[end + 1..].strip_prefix('=')),
                None => rest.split_once('=').map_or((rest, None), |(path, value)| (path, Some(value))),
            };
            return Ok(Self::Path(Path::parse(path)?, value.map(str::to_owned)));
        }
        Err(format!("unrecognized condition: \"{text}\"; use condition=, jsonpath=, create or delete"))
    }

    fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Deleted, object) => object.is_none(),
            (Self::Created, object) => object.is_some(),
            (_, None) => false,
            (Self::Path(path, None), Some(object)) => !path.find(object).is_empty(),
            (Self::Path(path, Some(value)), Some(object)) => path.text(object) == *value,
            (Self::Status { kind, value }, Some(object)) => {
                let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
                conditions.into_iter().flatten().any(|condition| {
                    let text = |key| condition.get(key).and_then(Value::as_str).unwrap_or_default();
                    text("type").eq_ignore_ascii_case(kind) && text("status").eq_ignore_ascii_case(value)
                })
            }
        }
    }
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let target = Target::parse(&args.what)?;
    let session = Session::connect(&args.bus).await?;
    let deadline = tokio::time::Instant::now() + args.timeout;
    let objects = match target {
        Target::Objects(objects) => objects,
        Target::Kinds(_) if args.selector.is_none() && !args.all => {
            return Err(Failure::local("resource name, label selector (-l), or --all flag must be specified"));
        }
        Target::Kinds(kinds) => selected(&session, &args, &kinds).await?,
    };
    if objects.is_empty() {
        // What is to be deleted and is not there has been deleted.
        let nothing_to_do = args.conditions.contains(&Condition::Deleted);
        return if nothing_to_do { Ok(()) } else { Err(Failure::local("no matching resources found")) };
    }
    // All at once: one that never gets there must not use up the time of the others.
    let waiting = objects.iter().map(async |(kind, name)| {
        let met = tokio::time::timeout_at(deadline, until_met(&session, &args, *kind, name)).await;
        met.unwrap_or_else(|_| {
            Err(Failure::local(format!("timed out waiting for the condition on {}/{name}", kind.plural())))
        })
    });
    let mut waiting: FuturesOrdered<_> = waiting.collect();
    let mut failures = Vec::new();
    for (kind, name) in &objects {
        match waiting.next().await {
            Some(Err(failure)) => failures.push(failure),
            _ => terminal.line(&format!("{}/{name} condition met", kind.singular()))?,
        }
    }
    Failure::all(failures)
}

async fn selected(session: &Session, args: &Args, kinds: &[Kind]) -> Outcome<Vec<(Kind, String)>> {
    let mut objects = Vec::new();
    let request = ListRequest { label_selector: args.selector.clone().unwrap_or_default(), ..Default::default() };
    for &kind in kinds {
        let list = session.api.list(namespace(args, kind)?, kind.plural(), &request).await?;
        let names = list.items.iter().filter_map(|item| item.pointer("/metadata/name")?.as_str());
        objects.extend(names.map(|name| (kind, name.to_owned())));
    }
    Ok(objects)
}

fn namespace(args: &Args, kind: Kind) -> Outcome<Option<&str>> {
    match kind {
        Kind::Event => Err(Failure::local("podbus does not wait for events").hint("try `podbus events -w`")),
        kind => Ok(kind.is_namespaced().then_some(args.namespace.namespace.as_str())),
    }
}

async fn until_met(session: &Session, args: &Args, kind: Kind, name: &str) -> Outcome {
    let awaited = args.conditions.contains(&Condition::Created);
    let met = |object: Option<&Value>| {
        let holds = args.conditions.iter().all(|condition| condition.holds(object));
        if object.is_none() && !awaited && !holds { Err(Failure::not_found(kind.plural(), name)) } else { Ok(holds) }
    };
    until(session, namespace(args, kind)?, kind, name, met).await.map(|_| ())
}

/// Waits until an object, or that it is not there, is as wanted; the object.
pub(super) async fn until(
    session: &Session,
    namespace: Option<&str>,
    kind: Kind,
    name: &str,
    met: impl Fn(Option<&Value>) -> Outcome<bool>,
) -> Outcome<Option<Value>> {
    let field_selector = format!("metadata.name={name}");
    let request = ListRequest { field_selector: field_selector.clone(), ..Default::default() };
    let mut list = session.api.list(namespace, kind.plural(), &request).await?;
    let object = list.items.pop();
    if met(object.as_ref())? {
        return Ok(object);
    }
    let resource_version = list.metadata.resource_version;
    let request = WatchRequest { field_selector, resource_version, ..Default::default() };
    let mut changes = session.api.watch(namespace, kind.plural(), request);
    while let Some(change) = changes.next().await {
        let change = change?;
        let object = match change.kind {
            WatchEventType::Added | WatchEventType::Modified => Some(change.object),
            WatchEventType::Deleted => None,
            WatchEventType::Bookmark | WatchEventType::Error => continue,
        };
        if met(object.as_ref())? {
            return Ok(object);
        }
    }
    Err(Failure::local("the watch ended before the condition was met"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_hold_as_with_kubectl() {
        let pod = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        for (text, on_pod, on_nothing) in [
            ("condition=Ready", true, false),
            ("condition=ready=true", true, false),
            ("condition=Ready=false", false, false),
            ("condition=Initialized", false, false),
            ("jsonpath={.status.phase}=Running", true, false),
            ("jsonpath=.status.phase=Running", true, false),
            ("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", true, false),
            ("jsonpath={.status.phase}=Failed", false, false),
            ("jsonpath={.status.podIP}", false, false),
            ("create", true, false),
            ("delete", false, true),
        ] {
            let condition = Condition::parse(text).unwrap();
            assert_eq!((condition.holds(Some(&pod)), condition.holds(None)), (on_pod, on_nothing), "{text}");
        }
        assert!(Condition::parse("ready").is_err());
    }
}
