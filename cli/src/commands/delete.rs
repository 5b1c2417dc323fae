//! `podbus delete`: pods by name, file, label or all; waits until they are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use podbus_common::api::{DeleteRequest, ListRequest, WatchEventType, WatchRequest};
use podbus_common::model::Pod;
use serde_json::Value;

use crate::args::{self, BusArgs, NamespaceArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::manifests::{self, FileArgs};
use crate::resource::{Kind, Target, nothing_found};
use crate::rows::typed;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  podbus delete pod web\n  podbus delete -f pod.yaml\n  podbus delete po -l app=web\n  \
    podbus delete pods --all"
)]
pub(crate) struct Args {
    /// What: `pod NAME...`, `pod/NAME...`, or `pods` with -l or --all
    #[arg(value_name = "TYPE[/NAME]")]
    what: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// In all namespaces, with -l or --all
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// By labels: `app=web`, `tier!=db`, `key`
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "all")]
    selector: Option<String>,
    /// By fields: `status.phase=Failed`
    #[arg(long, value_name = "FIELDS")]
    field_selector: Option<String>,
    /// All of the namespace
    #[arg(long)]
    all: bool,
    /// Do not wait for the node: forget the pod at once
    #[arg(long)]
    force: bool,
    /// Seconds from SIGTERM to SIGKILL; by default what the pod says
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    grace_period: Option<i64>,
    /// The same as --grace-period=1
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
    /// Wait until the pods are gone
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true)]
    wait: bool,
    /// How long to wait; 0: for ever
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = args::duration, hide_default_value = true)]
    timeout: Duration,
    /// No error for a name that is not there
    #[arg(long)]
    ignore_not_found: bool,
    /// `name`: print only `pod/NAME`
    #[arg(short, long, value_name = "FORMAT", value_parser = ["name"])]
    output: Option<String>,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let asked = Asked::new(&args)?;
    let grace = Grace::new(&args)?;
    if args.force {
        terminal.note(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. \
             The resource may continue to run on the cluster indefinitely.",
        );
    }
    let session = Session::connect(&args.bus).await?;
    let (pods, mut failures) = asked.find(&session, &args).await?;
    if pods.is_empty() && failures.is_empty() {
        terminal.note(&nothing_found(None));
    }
    let mut going = Vec::new();
    for pod in pods {
        match delete(&session, &pod, grace).await {
            Ok(()) => {
                terminal.line(&deleted_line(&args, &pod))?;
                going.push(pod);
            }
            Err(failure) if args.ignore_not_found && failure.is_not_found() => {}
            Err(failure) => failures.push(failure),
        }
    }
    if args.wait && !args.force {
        wait_until_gone(&session, going, args.timeout).await?;
    }
    Failure::all(failures)
}

/// A pod that shall go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Doomed {
    pub(super) namespace: String,
    pub(super) name: String,
    uid: String,
}

/// What the command line names.
enum Asked {
    /// `(namespace, name)`.
    Names(Vec<(String, String)>),
    /// By selectors, in a namespace or in all.
    Selected(Option<String>, ListRequest),
}

impl Asked {
    fn new(args: &Args) -> Outcome<Self> {
        let namespace = args.namespace.namespace.clone();
        let selected = args.all || args.selector.is_some() || args.field_selector.is_some();
        if !args.files.filename.is_empty() {
            if selected || !args.what.is_empty() {
                return Err(Failure::local("-f cannot be combined with names, labels or --all"));
            }
            return Ok(Self::Names(
                manifests::read(&args.files)?.into_iter().map(|m| named(&m.pod, &namespace)).collect(),
            ));
        }
        let kinds = match Target::parse(&args.what)? {
            Target::Objects(_) if selected => {
                return Err(Failure::local("name cannot be provided when a selector or --all is specified"));
            }
            Target::Objects(objects) => {
                let names = objects.into_iter().map(|(kind, name)| only_pods(kind).map(|()| (namespace.clone(), name)));
                return names.collect::<Outcome<_>>().map(Self::Names);
            }
            Target::Kinds(kinds) => kinds,
        };
        kinds.into_iter().try_for_each(only_pods)?;
        if !selected {
            return Err(Failure::local("resource(s) were provided, but no name was specified")
                .hint("name pods, or give -l LABELS or --all"));
        }
        let request = ListRequest {
            label_selector: args.selector.clone().unwrap_or_default(),
            field_selector: args.field_selector.clone().unwrap_or_default(),
            ..Default::default()
        };
        Ok(Self::Selected((!args.all_namespaces).then_some(namespace), request))
    }

    /// The pods as they are now, and what could not be found.
    async fn find(self, session: &Session, args: &Args) -> Outcome<(Vec<Doomed>, Vec<Failure>)> {
        let (mut pods, mut failures) = (Vec::new(), Vec::new());
        match self {
            Self::Selected(namespace, request) => {
                let list = session.api.list(namespace.as_deref(), "pods", &request).await?;
                for item in &list.items {
                    pods.push(doomed(item)?);
                }
            }
            Self::Names(names) => {
                for (namespace, name) in names {
                    match session.api.get(Some(&namespace), "pods", &name).await.map_err(Failure::from) {
                        Ok(object) => pods.push(doomed(&object)?),
                        Err(failure) if args.ignore_not_found && failure.is_not_found() => {}
                        Err(failure) => failures.push(failure),
                    }
                }
            }
        }
        Ok((pods, failures))
    }
}

fn named(pod: &Pod, default: &str) -> (String, String) {
    let namespace = Some(&pod.metadata.namespace).filter(|n| !n.is_empty()).map_or(default, String::as_str);
    (namespace.to_owned(), pod.metadata.name.clone())
}

pub(super) fn doomed(object: &Value) -> Outcome<Doomed> {
    let metadata = typed::<Pod>(object)?.metadata;
    Ok(Doomed { namespace: metadata.namespace, name: metadata.name, uid: metadata.uid })
}

fn only_pods(kind: Kind) -> Outcome {
    match kind {
        Kind::Pod => Ok(()),
        Kind::Node => Err(Failure::local("nodes cannot be deleted").hint("`podbus node stop NAME` takes one away")),
        Kind::Event => Err(Failure::local("events cannot be deleted; the bus forgets them after a day")),
    }
}

/// How gently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grace {
    pub(super) seconds: Option<u32>,
    pub(super) force: bool,
}

impl Grace {
    /// kubectl's rules for `--force`, `--grace-period` and `--now`.
    fn new(args: &Args) -> Outcome<Self> {
        let seconds = match (args.grace_period.filter(|&s| s >= 0), args.now, args.force) {
            (Some(1..), _, true) => {
                return Err(Failure::local("--force and --grace-period greater than 0 cannot be specified together"));
            }
            (_, true, _) => Some(1),
            (None, _, true) => Some(0),
            // Without --force nobody loses what it did not mean to.
            (Some(0), _, false) => Some(1),
            (given, _, _) => given,
        };
        let seconds =
            seconds.map(u32::try_from).transpose().map_err(|_| Failure::local("--grace-period is too long"))?;
        Ok(Self { seconds, force: args.force })
    }
}

/// Asks once, with the UID: a repeated request must not hit a namesake that was created meanwhile.
pub(super) async fn delete(session: &Session, pod: &Doomed, grace: Grace) -> Outcome {
    let request = DeleteRequest {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        grace_period_seconds: grace.seconds,
        force: grace.force,
    };
    session.api.delete(&pod.namespace, "pods", &request).await?;
    Ok(())
}

fn deleted_line(args: &Args, pod: &Doomed) -> String {
    if args.output.is_some() {
        return format!("pod/{}", pod.name);
    }
    let how = if args.force { "force deleted" } else { "deleted" };
    format!("pod \"{}\" {how} from {} namespace", pod.name, pod.namespace)
}

pub(super) async fn wait_until_gone(session: &Session, pods: Vec<Doomed>, timeout: Duration) -> Outcome {
    let mut by_namespace: BTreeMap<String, Vec<Doomed>> = BTreeMap::new();
    for pod in pods {
        by_namespace.entry(pod.namespace.clone()).or_default().push(pod);
    }
    for (namespace, pods) in by_namespace {
        let first = pods[0].name.clone();
        let gone = until_gone(session, &namespace, pods);
        if timeout.is_zero() {
            gone.await?;
        } else {
            let late = || Failure::local(format!("timed out waiting for the condition on pods/{first}"));
            tokio::time::timeout(timeout, gone).await.map_err(|_| late())??;
        }
    }
    Ok(())
}

async fn until_gone(session: &Session, namespace: &str, mut pods: Vec<Doomed>) -> Outcome {
    // One pod: only its own changes; several: those of the namespace, once.
    let field_selector = if pods.len() == 1 { format!("metadata.name={}", pods[0].name) } else { String::new() };
    let request = ListRequest { field_selector: field_selector.clone(), ..Default::default() };
    let list = session.api.list(Some(namespace), "pods", &request).await?;
    let there = list.items.iter().map(doomed).collect::<Outcome<Vec<_>>>()?;
    pods.retain(|pod| there.contains(pod));
    let resource_version = list.metadata.resource_version;
    let request = WatchRequest { field_selector, resource_version, ..Default::default() };
    let mut changes = session.api.watch(Some(namespace), "pods", request);
    while !pods.is_empty() {
        let Some(change) = changes.next().await.transpose()? else {
            return Err(Failure::local("the watch ended before the pods were gone"));
        };
        match change.kind {
            WatchEventType::Deleted => {
                let gone = doomed(&change.object)?;
                pods.retain(|pod| *pod != gone);
            }
            WatchEventType::Added | WatchEventType::Modified => {
                let there = doomed(&change.object)?;
                // The name has a new owner: the old one is gone.
                pods.retain(|pod| pod.name != there.name || pod.uid == there.uid);
            }
            WatchEventType::Bookmark | WatchEventType::Error => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        Line::try_parse_from(std::iter::once("delete").chain(line.split_whitespace())).unwrap().args
    }

    #[test]
    fn force_and_grace_follow_kubectl() {
        for (line, expected) in [
            ("pod web", Some((None, false))),
            ("pod web --grace-period=5", Some((Some(5), false))),
            ("pod web --grace-period=0", Some((Some(1), false))),
            ("pod web --grace-period=-1", Some((None, false))),
            ("pod web --now", Some((Some(1), false))),
            ("pod web --force", Some((Some(0), true))),
            ("pod web --force --grace-period=0", Some((Some(0), true))),
            ("pod web --force --grace-period=5", None),
        ] {
            let grace = Grace::new(&parse(line)).ok().map(|g| (g.seconds, g.force));
            assert_eq!(grace, expected, "{line}");
        }
    }

    #[test]
    fn nothing_is_deleted_by_a_type_alone() {
        assert!(Asked::new(&parse("pods")).is_err());
        assert!(matches!(Asked::new(&parse("pods --all -A")), Ok(Asked::Selected(None, _))));
        assert!(Asked::new(&parse("pods web -l a=b")).is_err());
        assert!(Asked::new(&parse("node node-1")).is_err());
    }

    #[test]
    fn waiting_can_be_switched_off() {
        assert!(parse("pod web").wait);
        assert!(!parse("pod web --wait=false").wait);
    }
}
