//! `podbus apply -f FILE|DIR|-`.

use std::collections::HashSet;

use clap::ValueEnum;
use futures::{StreamExt as _, stream};
use podbus_common::api::{APPLY_BYTES_MAX, APPLY_OBJECTS_MAX, ApplyReply, ApplyResult, Detail};
use podbus_common::manifest::Manifest;
use podbus_common_bus::api::ApiError;
use serde_json::Value;

use crate::args::BusArgs;
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::manifests::{self, FileArgs};
use crate::output::{Format, type_and_name};
use crate::terminal::Terminal;

/// So many lists wait for their answers at once,
const IN_FLIGHT_MAX: usize = 4;
/// each of so many bytes at most, with room for what surrounds its objects.
const LIST_BYTES_MAX: usize = APPLY_BYTES_MAX - 4096;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  podbus apply -f pod.yaml\n  podbus get pod web -o yaml | podbus apply -f -")]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// The namespace, for objects that name none
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Only look: `client` reads the file, `server` asks the scheduler too
    #[arg(long, value_enum, value_name = "WHERE", default_value = "none", default_missing_value = "client",
        num_args = 0..=1, require_equals = true, hide_default_value = true)]
    dry_run: DryRun,
    /// name, json, yaml, jsonpath=TEMPLATE or custom-columns=HEAD:PATH,...
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse)]
    output: Option<Format>,
    #[command(flatten)]
    bus: BusArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DryRun {
    None,
    Client,
    Server,
}

impl DryRun {
    /// What stands after a line that says what was done.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    if args.files.filename.is_empty() {
        return Err(Failure::local("must specify -f"));
    }
    let objects = objects(manifests::read(&args.files)?, args.namespace.as_deref())?;
    if args.dry_run == DryRun::Client {
        return print_all(&args, terminal, objects.iter().map(|o| (ApplyResult::Created, o.value.clone())));
    }
    let session = Session::connect(&args.bus).await?;
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for wave in waves(&objects) {
        let mut replies =
            stream::iter(lists(wave)).map(|list| apply(&session, list, args.dry_run)).buffered(IN_FLIGHT_MAX);
        while let Some(replies) = replies.next().await {
            for reply in replies {
                match reply {
                    // Lines come as things happen; other forms need all objects.
                    Ok(reply) if args.output.is_none() => {
                        print_all(&args, terminal, std::iter::once((reply.result, reply.object)))?;
                    }
                    Ok(reply) => done.push((reply.result, reply.object)),
                    Err(failure) => failures.push(failure),
                }
            }
        }
    }
    print_all(&args, terminal, done)?;
    Failure::all(failures)
}

/// An object to apply.
struct Object {
    namespace: String,
    name: String,
    file: String,
    value: Value,
    /// Of it, as JSON.
    bytes: usize,
}

fn objects(manifests: Vec<Manifest>, wanted: Option<&str>) -> Outcome<Vec<Object>> {
    manifests.into_iter().map(|manifest| object(manifest, wanted)).collect()
}

fn object(mut from: Manifest, wanted: Option<&str>) -> Outcome<Object> {
    let metadata = &mut from.pod.metadata;
    match wanted {
        Some(wanted) if !metadata.namespace.is_empty() && metadata.namespace != wanted => {
            return Err(Failure::local(format!(
                "the namespace from the provided object \"{0}\" does not match the namespace \"{wanted}\". You must \
                 pass '--namespace={0}' to perform this operation.",
                metadata.namespace
            ))
            .because(&from.file));
        }
        _ if metadata.namespace.is_empty() => metadata.namespace = wanted.unwrap_or("default").to_owned(),
        _ => {}
    }
    let (namespace, name) = (metadata.namespace.clone(), metadata.name.clone());
    let value = serde_json::to_value(&from.pod).map_err(Failure::local)?;
    let bytes = serde_json::to_vec(&value).map_err(Failure::local)?.len();
    Ok(Object { namespace, name, file: from.file, value, bytes })
}

/// Runs of objects with distinct names: what names the same object waits for the one before.
fn waves(objects: &[Object]) -> Vec<&[Object]> {
    let (mut waves, mut from, mut names) = (Vec::new(), 0, HashSet::new());
    for (i, object) in objects.iter().enumerate() {
        if !object.name.is_empty() && !names.insert((&object.namespace, &object.name)) {
            waves.push(&objects[from..i]);
            from = i;
            names = HashSet::from([(&object.namespace, &object.name)]);
        }
    }
    waves.push(&objects[from..]);
    waves
}

/// Runs of objects that may be one list: of one namespace, and not too many.
fn lists(objects: &[Object]) -> Vec<&[Object]> {
    let (mut lists, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (i, object) in objects.iter().enumerate() {
        bytes += object.bytes;
        let full = i - from == APPLY_OBJECTS_MAX || bytes > LIST_BYTES_MAX;
        if i > from && (full || object.namespace != objects[from].namespace) {
            lists.push(&objects[from..i]);
            (from, bytes) = (i, object.bytes);
        }
    }
    lists.push(&objects[from..]);
    lists
}

/// What becomes of each object of a list.
async fn apply(session: &Session, list: &[Object], dry_run: DryRun) -> Vec<Outcome<ApplyReply>> {
    let dry_run = dry_run == DryRun::Server;
    let failure =
        |object: &Object, error: ApiError| Failure::from(error).when(&format!("applying \"{}\"", object.file));
    let [first, ..] = list else { return Vec::new() };
    if let [only] = list {
        let reply = session.api.apply(&only.namespace, "pods", &only.value, dry_run).await;
        return vec![reply.map_err(|error| failure(only, error))];
    }
    let objects = list.iter().map(|object| &object.value).collect();
    match session.api.apply_all(&first.namespace, "pods", objects, dry_run, Detail::Full).await {
        Ok(replies) => {
            let replies = list.iter().zip(replies);
            replies.map(|(object, reply)| reply.map_err(|error| failure(object, error))).collect()
        }
        // Nobody knows which of them were taken: it is told of the first.
        Err(error) => vec![Err(failure(first, error))],
    }
}

fn print_all(args: &Args, terminal: &Terminal, done: impl IntoIterator<Item = (ApplyResult, Value)>) -> Outcome {
    let Some(format) = &args.output else {
        let suffix = args.dry_run.suffix();
        let line =
            |(result, object): (ApplyResult, Value)| format!("{} {}{suffix}\n", type_and_name(&object), word(result));
        return terminal.print(&done.into_iter().map(line).collect::<String>());
    };
    let objects: Vec<Value> = done.into_iter().map(|(_, object)| object).collect();
    if objects.is_empty() { Ok(()) } else { terminal.print(&format.render(&objects, objects.len() > 1)?) }
}

fn word(result: ApplyResult) -> &'static str {
    match result {
        ApplyResult::Created => "created",
        ApplyResult::Configured => "configured",
        ApplyResult::Unchanged => "unchanged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Object {
        Object { namespace: "default".into(), name: name.into(), file: String::new(), value: Value::Null, bytes: 1 }
    }

    #[test]
    fn a_list_has_one_namespace_and_is_not_too_long() {
        let of = |count: usize, namespace: &str, bytes| {
            (0..count).map(move |_| Object { namespace: namespace.into(), bytes, ..named("") }).collect::<Vec<_>>()
        };
        let sizes = |objects: &[Object]| lists(objects).iter().map(|list| list.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&of(APPLY_OBJECTS_MAX + 1, "a", 1)), [APPLY_OBJECTS_MAX, 1]);
        assert_eq!(sizes(&of(3, "a", LIST_BYTES_MAX / 2)), [2, 1]);
        assert_eq!(sizes(&of(2, "a", 2 * LIST_BYTES_MAX)), [1, 1]);
        assert_eq!(sizes(&[of(1, "a", 1), of(2, "b", 1)].into_iter().flatten().collect::<Vec<_>>()), [1, 2]);
    }

    #[test]
    fn what_names_the_same_object_waits_for_the_one_before() {
        let objects = ["a", "b", "a", "", "", "b", "a"].map(named);
        let sizes: Vec<usize> = waves(&objects).iter().map(|wave| wave.len()).collect();
        assert_eq!(sizes, [2, 4, 1]);
    }
}
