//! `podbus patch`: some fields of an object, by a JSON merge patch.

mod merge;

use std::path::PathBuf;

use clap::ValueEnum;
use podbus_common::api::ApplyResult;
use serde_json::Value;

use super::change::{self, Which};
use crate::args::{BusArgs, NamespaceArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "podbus patch TYPE[/NAME] [NAME] (-p PATCH | --patch-file FILE)",
    after_help = "Examples:\n  podbus patch pod web -p '{\"metadata\": {\"labels\": {\"tier\": \"front\"}}}'\n  \
                  podbus patch node node-1 -p 'spec: {unschedulable: true}'\n\nA field takes the value that the patch \
                  gives it, null takes it away, and a list is replaced as a whole.\nWhat may change in a pod is what \
                  `apply` may change: labels, annotations, images, more tolerations, fewer gates."
)]
pub(crate) struct Args {
    /// What: `pod NAME...`, `node/NAME...`
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    what: Vec<String>,
    /// The patch, as JSON or YAML
    #[arg(short, long, value_name = "PATCH", required_unless_present = "patch_file", conflicts_with = "patch_file")]
    patch: Option<String>,
    /// A file with the patch
    #[arg(long, value_name = "FILE")]
    patch_file: Option<PathBuf>,
    /// The kind of patch
    #[arg(long = "type", value_enum, value_name = "KIND", default_value = "merge")]
    kind: PatchKind,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    bus: BusArgs,
}

/// kubectl knows `strategic` and `json` too.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum PatchKind {
    Merge,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let PatchKind::Merge = args.kind;
    let patch = read(&args)?;
    let which = Which::by_name(&args.what, &args.namespace.namespace);
    let session = Session::connect(&args.bus).await?;
    let mut failures = Vec::new();
    for named in which.find(&session, terminal).await? {
        let edit = |object: &mut Value| {
            merge::merge(object, &patch);
            Ok(())
        };
        match change::change(&session, &named, edit).await {
            Ok(((), ApplyResult::Unchanged)) => terminal.line(&format!("{} patched (no change)", named.text()))?,
            Ok(((), _)) => terminal.line(&format!("{} patched", named.text()))?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures)
}

fn read(args: &Args) -> Outcome<Value> {
    let text = match (&args.patch, &args.patch_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map_err(|error| Failure::local(format!("cannot read {}", file.display())).because(error))?,
        (None, None) => String::new(),
    };
    let patch: Value = serde_saphyr::from_str(&text)
        .map_err(|error| Failure::local(format!("unable to parse \"{text}\"")).because(error))?;
    if patch.is_object() {
        return Ok(patch);
    }
    Err(Failure::local(format!("unable to parse \"{text}\"")).because("a patch is a map of fields"))
}
