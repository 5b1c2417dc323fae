//! `podbus describe pod|node`: all that is known, and in one plain sentence why something waits.

mod node;
mod pod;
mod text;
mod why;

pub(crate) use self::node::text as node_text;
pub(crate) use self::why::Surroundings;

use podbus_common::api::ListRequest;
use podbus_common::model::{Event, Node, Pod, Timestamp};
use serde_json::Value;

use crate::args::{BusArgs, ScopeArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::resource::{Kind, Target, nothing_found, now};
use crate::rows::typed;
use crate::terminal::{Paint, Terminal};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  podbus describe pod web\n  podbus describe node/node-1")]
pub(crate) struct Args {
    /// What: `pod [NAME...]`, `node [NAME...]`, `pod/NAME...`
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    what: Vec<String>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    selector: String,
    /// Show events
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true)]
    show_events: bool,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let target = Target::parse(&args.what)?;
    let session = Session::connect(&args.bus).await?;
    let (objects, failures) = match target {
        Target::Kinds(kinds) => (all(&session, &args, &kinds).await?, Vec::new()),
        Target::Objects(objects) => named(&session, &args, &objects).await,
    };
    if objects.is_empty() && failures.is_empty() {
        terminal.note(&nothing_found(args.scope.namespace()));
        return Ok(());
    }
    let mut texts = Vec::new();
    for (kind, object) in &objects {
        texts.push(describe(&session, &args, *kind, object, terminal).await?);
    }
    terminal.print(&texts.join("\n\n"))?;
    Failure::all(failures)
}

async fn all(session: &Session, args: &Args, kinds: &[Kind]) -> Outcome<Vec<(Kind, Value)>> {
    let mut objects = Vec::new();
    for &kind in kinds {
        let namespace = args.scope.namespace().filter(|_| kind.is_namespaced());
        let request = ListRequest { label_selector: args.selector.clone(), ..Default::default() };
        let list = session.api.list(namespace, describable(kind)?, &request).await?;
        objects.extend(list.items.into_iter().map(|item| (kind, item)));
    }
    Ok(objects)
}

async fn named(session: &Session, args: &Args, names: &[(Kind, String)]) -> (Vec<(Kind, Value)>, Vec<Failure>) {
    let (mut objects, mut failures) = (Vec::new(), Vec::new());
    for (kind, name) in names {
        let namespace = kind.is_namespaced().then_some(args.scope.one.namespace.as_str());
        let found = match describable(*kind) {
            Ok(plural) => session.api.get(namespace, plural, name).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match found {
            Ok(object) => objects.push((*kind, object)),
            Err(failure) => failures.push(failure),
        }
    }
    (objects, failures)
}

fn describable(kind: Kind) -> Outcome<&'static str> {
    match kind {
        Kind::Event => Err(Failure::local("events are described by `podbus events`")),
        kind => Ok(kind.plural()),
    }
}

async fn describe(session: &Session, args: &Args, kind: Kind, object: &Value, terminal: &Terminal) -> Outcome<String> {
    match kind {
        Kind::Node => {
            let node: Node = typed(object)?;
            let pods = pods_on(session, Some(&node.metadata.name)).await?;
            let events = events_of(
                session,
                args,
                "Node",
                podbus_common::subject::NODE_EVENTS_NAMESPACE,
                &node.metadata.name,
                "",
            )
            .await?;
            Ok(node_text(&node, &pods, events.as_deref(), now(), terminal.paint))
        }
        _ => {
            let pod: Pod = typed(object)?;
            let metadata = &pod.metadata;
            let events = events_of(session, args, "Pod", &metadata.namespace, &metadata.name, &metadata.uid).await?;
            let around = surroundings(session, &pod).await?;
            Ok(pod_text(&pod, events.as_deref(), &around, now(), terminal.paint))
        }
    }
}

/// A pod's whole description.
pub(crate) fn pod_text(
    pod: &Pod,
    events: Option<&[Event]>,
    around: &Surroundings,
    now: Timestamp,
    paint: Paint,
) -> String {
    let mut text = pod::text(pod, events, now, paint);
    if let Some(sentence) = why::sentence(pod, around, now) {
        text.push_str(&sentence);
        text.push('\n');
    }
    text
}

/// The events of one object; `None`: not asked for. An empty UID: of whatever has the name.
async fn events_of(
    session: &Session,
    args: &Args,
    kind: &str,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Outcome<Option<Vec<Event>>> {
    if !args.show_events {
        return Ok(None);
    }
    let fields = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let events = crate::commands::events::history(session, Some(namespace), &fields).await?;
    let of_this_one =
        |event: &Event| uid.is_empty() || event.involved_object.uid.is_empty() || event.involved_object.uid == uid;
    Ok(Some(events.into_iter().filter(of_this_one).collect()))
}

/// What must be known to say why a pod waits: asked for only then.
async fn surroundings(session: &Session, pod: &Pod) -> Outcome<Surroundings> {
    if !why::needs_nodes(pod) {
        return Ok(Surroundings::default());
    }
    let nodes = session.api.list(None, "nodes", &ListRequest::default()).await?;
    let nodes = nodes.items.iter().map(typed).collect::<Outcome<_>>()?;
    let pods = if pod.spec.node_name.is_empty() { pods_on(session, None).await? } else { Vec::new() };
    Ok(Surroundings { nodes, pods })
}

/// The pods of a node (`None`: of all) that have not ended.
async fn pods_on(session: &Session, node: Option<&str>) -> Outcome<Vec<Pod>> {
    let field_selector = node.map(|node| format!("spec.nodeName={node}")).unwrap_or_default();
    let list = session.api.list(None, "pods", &ListRequest { field_selector, ..Default::default() }).await?;
    let pods: Vec<Pod> = list.items.iter().map(typed).collect::<Outcome<_>>()?;
    let ended = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.is_terminal());
    Ok(pods.into_iter().filter(|pod| !ended(pod)).collect())
}
