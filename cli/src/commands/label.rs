//! `podbus label` and `annotate`: one verb for two fields of `metadata`.

mod changes;

use serde_json::Value;

use self::changes::{Changes, Field};
use super::change::{self, Named, Which, split};
use crate::args::{BusArgs, ScopeArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::resource::Kind;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  podbus label pod web tier=front\n  podbus label pod web tier=back --overwrite\n  \
    podbus label pod web tier-\n  podbus label node node-1 disk=ssd\n  podbus label pods -l app=web tier=front\n\n\
    Labels are what selectors look at: `get -l`, `nodeSelector`, affinity. A label of a node stays when its agent\n\
    starts again."
)]
pub(crate) struct LabelArgs {
    #[command(flatten)]
    args: Args,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  podbus annotate pod web owner='Jane Doe'\n  podbus annotate pod web owner-\n  \
    podbus annotate nodes --all rack=7 --overwrite\n\nAnnotations are notes of any form, up to 256 KiB an object; \
    nothing is selected by them.")]
pub(crate) struct AnnotateArgs {
    #[command(flatten)]
    args: Args,
}

#[derive(Debug, clap::Args)]
struct Args {
    /// What, and then what to change: `pod NAME...`, `node/NAME...`, or `pods` with -l or --all; `KEY=VALUE`, `KEY-`
    #[arg(required = true, value_name = "TYPE[/NAME]|KEY=VALUE|KEY-")]
    words: Vec<String>,
    /// Replace values that are there
    #[arg(long)]
    overwrite: bool,
    /// All of the namespace
    #[arg(long)]
    all: bool,
    /// By labels: `app=web`, `tier!=db`, `key`
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "all")]
    selector: Option<String>,
    /// Print them
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn label(args: LabelArgs, terminal: &Terminal) -> Outcome {
    run(&args.args, Field::Labels, terminal).await
}

pub(crate) async fn annotate(args: AnnotateArgs, terminal: &Terminal) -> Outcome {
    run(&args.args, Field::Annotations, terminal).await
}

async fn run(args: &Args, field: Field, terminal: &Terminal) -> Outcome {
    let (words, pairs) = split(&args.words, field.singular(), changes::is_change)?;
    let changes = Changes::parse(field, pairs)?;
    if changes.is_empty() && !args.list {
        return Err(Failure::local(format!("at least one {} update is required", field.singular()))
            .hint("KEY=VALUE sets one, KEY- takes it away, --list prints them"));
    }
    let which = Which {
        words,
        namespace: args.scope.namespace(),
        selector: args.selector.as_deref(),
        all: args.all,
        kinds: &[Kind::Pod, Kind::Node],
    };
    let session = Session::connect(&args.bus).await?;
    let objects = which.find(&session, terminal).await?;
    let mut failures = Vec::new();
    for named in &objects {
        let done = async {
            if !changes.is_empty() {
                change(&session, named, &changes, args.overwrite, terminal).await?;
            }
            if args.list {
                list(&session, named, field, objects.len() > 1, terminal).await?;
            }
            Ok(())
        };
        failures.extend(done.await.err());
    }
    Failure::all(failures)
}

async fn change(session: &Session, named: &Named, changes: &Changes, overwrite: bool, terminal: &Terminal) -> Outcome {
    let field = changes.field;
    let edit = |object: &mut Value| {
        let mut pairs = field.of(object);
        let made = changes.make(&mut pairs, overwrite).map_err(|failure| failure.because(named.text()))?;
        object["metadata"][field.key()] = Value::Object(pairs);
        Ok(made)
    };
    let (made, _) = change::change(session, named, edit).await?;
    for key in &made.missing {
        terminal.line(&format!("{} \"{key}\" not found.", field.singular()))?;
    }
    terminal.line(&format!("{} {}", named.text(), field.done(&made)))
}

async fn list(session: &Session, named: &Named, field: Field, many: bool, terminal: &Terminal) -> Outcome {
    let object = named.get(session).await?;
    let indent = if many { " " } else { "" };
    if many {
        terminal.line(&format!("Listing {} for {}:", field.key(), named.text()))?;
    }
    let pairs = field.of(&object);
    let lines = pairs.iter().map(|(key, value)| format!("{indent}{key}={}\n", value.as_str().unwrap_or_default()));
    terminal.print(&lines.collect::<String>())
}
