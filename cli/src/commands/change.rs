//! Changing objects that are there: read, change, write back, and again when somebody else was faster.

mod asked;
mod words;

use podbus_common::api::{ApplyReply, ApplyResult, ListRequest};
use podbus_common::subject;
use podbus_common_bus::api::ApiError;
use serde_json::Value;

pub(super) use self::words::split;
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::resource::{Kind, Target, nothing_found};
use crate::terminal::Terminal;

/// So often an object is read and written back, while others change it.
const ATTEMPTS_MAX: usize = 16;

/// One object by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) kind: Kind,
    /// Of a pod.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl Named {
    /// `pod/web`.
    pub(super) fn text(&self) -> String {
        format!("{}/{}", self.kind.singular(), self.name)
    }

    pub(super) async fn get(&self, session: &Session) -> Outcome<Value> {
        Ok(session.api.get(self.namespace.as_deref(), self.kind.plural(), &self.name).await?)
    }
}

/// Which objects are to change.
#[derive(Debug)]
pub(super) struct Which<'a> {
    /// `TYPE NAME...`, `TYPE/NAME...`, or `TYPE` alone.
    pub(super) words: &'a [String],
    /// `None`: in all namespaces.
    pub(super) namespace: Option<&'a str>,
    pub(super) selector: Option<&'a str>,
    pub(super) all: bool,
    /// What the verb can change.
    pub(super) kinds: &'a [Kind],
}

impl<'a> Which<'a> {
    /// Those that are named, of all that can change.
    pub(super) fn by_name(words: &'a [String], namespace: &'a str) -> Self {
        Self { words, namespace: Some(namespace), selector: None, all: false, kinds: &[Kind::Pod, Kind::Node] }
    }

    /// The objects that are named, or that are there.
    pub(super) async fn find(&self, session: &Session, terminal: &Terminal) -> Outcome<Vec<Named>> {
        let selected = self.all || self.selector.is_some();
        let kinds = match Target::parse(self.words)? {
            Target::Objects(_) if selected => {
                return Err(Failure::local("name cannot be provided when a selector or --all is specified"));
            }
            Target::Objects(objects) => {
                return objects.into_iter().map(|(kind, name)| self.named(kind, name)).collect();
            }
            Target::Kinds(kinds) => kinds,
        };
        if !selected {
            return Err(Failure::local("resource(s) were provided, but no name was specified")
                .hint("name them, or give -l LABELS or --all"));
        }
        let mut found = Vec::new();
        for kind in kinds {
            self.check(kind)?;
            let label_selector = self.selector.unwrap_or_default().to_owned();
            let request = ListRequest { label_selector, ..ListRequest::default() };
            let namespace = self.namespace.filter(|_| kind.is_namespaced());
            let list = session.api.list(namespace, kind.plural(), &request).await?;
            found.extend(list.items.iter().map(|object| {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                Named { kind, namespace: kind.is_namespaced().then(|| text("namespace")), name: text("name") }
            }));
        }
        if found.is_empty() {
            terminal.note(&nothing_found(None));
        }
        Ok(found)
    }

    fn named(&self, kind: Kind, name: String) -> Outcome<Named> {
        self.check(kind)?;
        let namespace = match self.namespace {
            _ if !kind.is_namespaced() => None,
            Some(namespace) => Some(namespace.to_owned()),
            None => return Err(Failure::local("a resource cannot be retrieved by name across all namespaces")),
        };
        Ok(Named { kind, namespace, name })
    }

    fn check(&self, kind: Kind) -> Outcome {
        if self.kinds.contains(&kind) {
            return Ok(());
        }
        let known: Vec<_> = self.kinds.iter().map(|kind| kind.plural()).collect();
        Err(Failure::local(format!("{} cannot be changed so, only {}", kind.plural(), known.join(" and "))))
    }
}

/// Lets `edit` change an object, and stores it; what `edit` said of the change, and what came of it. Where nothing changes
/// nothing is written.
pub(super) async fn change<Said>(
    session: &Session,
    named: &Named,
    edit: impl Fn(&mut Value) -> Outcome<Said>,
) -> Outcome<(Said, ApplyResult)> {
    // A write whose answer was lost may be there, and was ours.
    let mut lost = None;
    for _ in 0..ATTEMPTS_MAX {
        let stored = named.get(session).await?;
        let mut object = stored.clone();
        let said = edit(&mut object)?;
        if object == stored {
            return Ok(lost.map_or((said, ApplyResult::Unchanged), |said| (said, ApplyResult::Configured)));
        }
        match write(session, named, &stored, &asked::of(named.kind, &stored, object)?).await {
            Err(ApiError::Refused(status)) if status.code == 409 => lost = Some(said),
            Err(error) => return Err(error.into()),
            Ok(reply) => return Ok((said, reply.result)),
        }
    }
    Err(Failure::local(format!("{} changes all the time", named.text()))
        .because(format!("others were faster {ATTEMPTS_MAX} times"))
        .hint("try again"))
}

/// Stores `object` in place of `stored`, unless somebody else changed it meanwhile.
pub(super) async fn replace(session: &Session, named: &Named, stored: &Value, object: Value) -> Outcome<ApplyResult> {
    Ok(write(session, named, stored, &asked::of(named.kind, stored, object)?).await?.result)
}

async fn write(session: &Session, named: &Named, stored: &Value, asked: &Value) -> Result<ApplyReply, ApiError> {
    let namespace = named.namespace.as_deref().unwrap_or(subject::ANY);
    let version = stored["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    session.api.apply_to_version(namespace, named.kind.plural(), asked, version).await
}
