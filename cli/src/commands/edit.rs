//! `podbus edit`: an object as YAML in an editor, and back.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use podbus_common::api::ApplyResult;
use serde_json::Value;
use tokio::process::Command;

use super::change::{self, Named, Which};
use crate::args::{BusArgs, NamespaceArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::output::yaml_text;
use crate::terminal::Terminal;

/// Who names an editor, the first one first.
const EDITOR_VARIABLES: [&str; 3] = ["KUBE_EDITOR", "VISUAL", "EDITOR"];
const EDITOR: &str = "vi";

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "podbus edit TYPE[/NAME] [NAME]",
    after_help = "Examples:\n  podbus edit pod web\n  KUBE_EDITOR='code --wait' podbus edit node/node-1\n\nWhat may \
                  change is what `podbus patch` may change. Nothing is stored when somebody else changed the object\n\
                  meanwhile; a copy of what was edited is kept then."
)]
pub(crate) struct Args {
    /// What: `pod NAME`, `node/NAME`
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    what: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let which = Which::by_name(&args.what, &args.namespace.namespace);
    let session = Session::connect(&args.bus).await?;
    for named in which.find(&session, terminal).await? {
        edit(&session, &named, terminal).await?;
    }
    Ok(())
}

async fn edit(session: &Session, named: &Named, terminal: &Terminal) -> Outcome {
    let mut stored = named.get(session).await?;
    // What is seen is not what is asked for.
    if let Some(fields) = stored.as_object_mut() {
        fields.remove("status");
    }
    let text = yaml_text(&stored)?;
    let path = write(named, &text)?;
    let edited = match edited(&path).await {
        Ok(edited) if edited == text => {
            fs::remove_file(&path)?;
            return terminal.line("Edit cancelled, no changes made.");
        }
        Ok(edited) => edited,
        Err(failure) => {
            let _ = fs::remove_file(&path);
            return Err(failure);
        }
    };
    let replaced = async {
        let object: Value = serde_saphyr::from_str(&edited)
            .map_err(|error| Failure::local("what was edited is no YAML").because(error))?;
        change::replace(session, named, &stored, object).await
    };
    match replaced.await {
        Ok(result) => {
            fs::remove_file(&path)?;
            let done = if result == ApplyResult::Unchanged { "skipped" } else { "edited" };
            terminal.line(&format!("{} {done}", named.text()))
        }
        Err(failure) => Err(failure.hint(format!("a copy of your changes has been stored to \"{}\"", path.display()))),
    }
}

/// A new file that nobody else can read: an object may hold secrets.
fn write(named: &Named, text: &str) -> Outcome<PathBuf> {
    let name = format!("podbus-edit-{}-{}-{}.yaml", named.kind.singular(), named.name, std::process::id());
    let path = std::env::temp_dir().join(name);
    let cannot = |error| Failure::local(format!("cannot write {}", path.display())).because(error);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(cannot)?;
    file.write_all(text.as_bytes()).map_err(cannot)?;
    Ok(path)
}

/// The file's text after the editor.
async fn edited(path: &Path) -> Outcome<String> {
    let editor = EDITOR_VARIABLES.iter().find_map(|name| std::env::var(name).ok().filter(|editor| !editor.is_empty()));
    let editor = editor.unwrap_or_else(|| EDITOR.to_owned());
    // A shell splits what the variable says.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(path).status().await?;
    if !status.success() {
        return Err(Failure::local(format!("there was a problem with the editor \"{editor}\"")).because(status));
    }
    Ok(fs::read_to_string(path)?)
}
