//! `podbus keys`: a bus on which each user has rights of its own, and nobody else has any.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use nkeys::KeyPair;
use podbus_common::access::{Role, User, accounts};
use podbus_common::validation::names::dns_subdomain;

use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;
use crate::up::state;

/// Ends the name of a file with a user's key.
const EXTENSION: &str = ".nk";
const CONFIGURATION: &str = "accounts.conf";

/// Flags of `podbus keys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where keys are, and where accounts.conf is written
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// A key for the agent of this node; may be repeated
    #[arg(long = "node", value_name = "NAME", value_parser = name)]
    nodes: Vec<String>,
    /// A key for who may do everything; may be repeated
    #[arg(long = "admin", value_name = "NAME", value_parser = name)]
    admins: Vec<String>,
    /// A key for who works in this namespace alone; may be repeated
    #[arg(long = "team", value_name = "NAMESPACE", value_parser = name)]
    teams: Vec<String>,
    /// A key for who only reads; may be repeated
    #[arg(long = "viewer", value_name = "NAME", value_parser = name)]
    viewers: Vec<String>,
}

/// Makes the keys that are missing and writes the configuration of all that are there. The files are the list of users:
/// without its file a user is gone.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Outcome {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.dir)
        .map_err(|error| Failure::local(format!("cannot make {}", args.dir.display())).because(error))?;
    let of = |make: fn(String) -> Role, names: &[String]| names.iter().cloned().map(make).collect::<Vec<_>>();
    let asked = [
        vec![Role::Scheduler],
        of(Role::Node, &args.nodes),
        of(Role::Admin, &args.admins),
        of(Role::Team, &args.teams),
        of(Role::Viewer, &args.viewers),
    ];
    for role in asked.concat() {
        let file = args.dir.join(format!("{role}{EXTENSION}"));
        let is_there = file.try_exists()?;
        if !is_there {
            let seed = KeyPair::new_user().seed().map_err(Failure::local)?;
            state::replace(&file, format!("{seed}\n").as_bytes(), 0o600)?;
        }
        terminal.line(&format!("key/{role} {}", if is_there { "unchanged" } else { "created" }))?;
    }
    let users = users(&args.dir)?;
    let configuration = args.dir.join(CONFIGURATION);
    // Public halves alone: nats-server may run as another user.
    state::replace(&configuration, accounts(&users).as_bytes(), 0o644)?;
    terminal.line(&format!("{} written, with {} users", configuration.display(), users.len()))
}

/// Those whose keys lie in `dir`.
fn users(dir: &Path) -> Outcome<Vec<User>> {
    let mut users = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(EXTENSION)) else { continue };
        let of_nobody = || {
            Failure::local(format!("{} is the key of nobody that podbus knows", entry.path().display()))
                .hint("names are scheduler.nk, node.NAME.nk, admin.NAME.nk, team.NAMESPACE.nk and viewer.NAME.nk")
        };
        let role = Role::parse(name).ok_or_else(of_nobody)?;
        let seed = fs::read_to_string(entry.path())?;
        let pair = KeyPair::from_seed(seed.trim()).map_err(|error| {
            Failure::local(format!("{} holds no seed of an nkey", entry.path().display())).because(error)
        })?;
        users.push(User { role, key: pair.public_key() });
    }
    users.sort();
    Ok(users)
}

/// A name as Kubernetes has them, so that it is one word of a file's name and of a subject.
fn name(text: &str) -> Result<String, String> {
    dns_subdomain(text).map_or_else(|| Ok(text.to_owned()), Err)
}
