//! `podbus get pods|nodes|events [NAME...]`.

use futures::StreamExt as _;
use podbus_common::api::{ListRequest, WatchEventType, WatchRequest};
use serde_json::Value;

use crate::args::{BusArgs, ScopeArgs, SelectorArgs};
use crate::bus::Session;
use crate::columns::Growing;
use crate::failure::{Failure, Outcome};
use crate::jsonpath::Path;
use crate::output::Format;
use crate::resource::{Kind, Target, nothing_found, now};
use crate::rows::{self, Show};
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  podbus get pods -A -o wide\n  podbus get pod web -o yaml\n  podbus get po -l app=web -w"
)]
pub(crate) struct Args {
    /// What: `pods [NAME...]`, `nodes`, `events`, `pods,nodes`, `pod/web node/node-1`
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    what: Vec<String>,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    select: SelectorArgs,
    /// wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=HEAD:PATH,...
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse)]
    output: Option<Format>,
    /// Then show each change as it comes
    #[arg(short, long)]
    watch: bool,
    /// Leave the head of the table away
    #[arg(long)]
    no_headers: bool,
    /// Show all labels
    #[arg(long)]
    show_labels: bool,
    /// A column for each of these labels
    #[arg(short = 'L', long, value_name = "KEYS", value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Sort by a field: .metadata.creationTimestamp
    #[arg(long, value_name = "PATH", value_parser = Path::parse)]
    sort_by: Option<Path>,
    /// No error for a name that is not there
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let target = Target::parse(&args.what)?;
    let format = args.output.clone().unwrap_or_default();
    let session = Session::connect(&args.bus).await?;
    let getting = Getting { args: &args, format: &format, mixed: target.is_mixed(), session: &session, terminal };
    match target {
        Target::Kinds(kinds) => getting.kinds(&kinds).await,
        Target::Objects(objects) => getting.objects(&objects).await,
    }
}

struct Getting<'a> {
    args: &'a Args,
    format: &'a Format,
    mixed: bool,
    session: &'a Session,
    terminal: &'a Terminal,
}

impl Getting<'_> {
    fn namespace(&self, kind: Kind) -> Option<&str> {
        self.args.scope.namespace().filter(|_| kind.is_namespaced())
    }

    fn show(&self) -> Show {
        Show {
            wide: *self.format == Format::Wide,
            namespace: self.args.scope.all_namespaces,
            kind: self.mixed,
            labels: self.args.show_labels,
            label_columns: self.args.label_columns.clone(),
        }
    }

    async fn kinds(&self, kinds: &[Kind]) -> Outcome {
        if let (true, [_, _, ..]) = (self.args.watch, kinds) {
            return Err(Failure::local("you may only specify a single resource type with --watch"));
        }
        if let ([kind], None, false) = (kinds, &self.args.sort_by, self.args.watch)
            && self.format.is_table()
            && *kind != Kind::Event
        {
            return self.table_by_pages(*kind).await;
        }
        let mut found: Vec<(Kind, Vec<Value>)> = Vec::new();
        let mut revision = String::new();
        for &kind in kinds {
            let (mut items, at) = self.list(kind, &self.args.select).await?;
            self.sort(&mut items);
            found.push((kind, items));
            revision = at;
        }
        if self.args.watch {
            let (kind, items) = found.remove(0);
            return self.watch(kind, &items, &self.args.select, revision).await;
        }
        if self.format.is_table() {
            if found.iter().all(|(_, items)| items.is_empty()) {
                self.terminal.note(&nothing_found(self.namespace(kinds[0])));
                return Ok(());
            }
            let tables = found.iter().filter(|(_, items)| !items.is_empty());
            let tables = tables.map(|(kind, items)| self.table(*kind, items)).collect::<Outcome<Vec<_>>>()?;
            return self.terminal.print(&tables.join("\n"));
        }
        let objects: Vec<Value> = found.into_iter().flat_map(|(_, items)| items).collect();
        self.terminal.print(&self.format.render(&objects, true)?)
    }

    /// A table as its pages come: all objects at once may be more than there is memory for.
    async fn table_by_pages(&self, kind: Kind) -> Outcome {
        let mut printer = Coming::new(self, kind);
        let mut request = Self::request(&self.args.select);
        let mut is_empty = true;
        loop {
            let page = self.session.api.list_page(self.namespace(kind), kind.plural(), &request).await?;
            if !page.items.is_empty() {
                is_empty = false;
                printer.show_all(&page.items)?;
            }
            request.continue_token = page.metadata.continue_token;
            if request.continue_token.is_empty() {
                break;
            }
        }
        if is_empty {
            self.terminal.note(&nothing_found(self.namespace(kind)));
        }
        Ok(())
    }

    async fn objects(&self, objects: &[(Kind, String)]) -> Outcome {
        if self.args.scope.all_namespaces {
            return Err(Failure::local("a resource cannot be retrieved by name across all namespaces"));
        }
        if self.args.watch {
            let [(kind, name)] = objects else {
                return Err(Failure::local("watch is only supported on individual resources and resource collections"));
            };
            let select = SelectorArgs { field_selector: format!("metadata.name={name}"), ..Default::default() };
            let (items, revision) = self.list(*kind, &select).await?;
            return self.watch(*kind, &items, &select, revision).await;
        }
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for (kind, name) in objects {
            match self.object(*kind, name).await {
                Ok(object) => found.push((*kind, object)),
                Err(failure) if self.args.ignore_not_found && failure.is_not_found() => {}
                Err(failure) => failures.push(failure),
            }
        }
        if self.format.is_table() {
            let tables = found.chunk_by(|a, b| a.0 == b.0).map(|chunk| {
                let items: Vec<Value> = chunk.iter().map(|(_, object)| object.clone()).collect();
                self.table(chunk[0].0, &items)
            });
            self.terminal.print(&tables.collect::<Outcome<Vec<_>>>()?.join("\n"))?;
        } else if !found.is_empty() {
            let objects_found: Vec<Value> = found.into_iter().map(|(_, object)| object).collect();
            self.terminal.print(&self.format.render(&objects_found, objects.len() > 1)?)?;
        }
        Failure::all(failures)
    }

    async fn object(&self, kind: Kind, name: &str) -> Outcome<Value> {
        if kind == Kind::Event {
            let (items, _) = self.list(kind, &SelectorArgs::default()).await?;
            let found = items.into_iter().find(|item| item.pointer("/metadata/name").is_some_and(|n| n == name));
            return found.ok_or_else(|| Failure::not_found("events", name));
        }
        Ok(self.session.api.get(self.namespace(kind), kind.plural(), name).await?)
    }

    /// The objects of a kind, and the revision at which they were so.
    async fn list(&self, kind: Kind, select: &SelectorArgs) -> Outcome<(Vec<Value>, String)> {
        if kind == Kind::Event {
            let events = super::events::history(self.session, self.namespace(kind), &select.field_selector).await?;
            let events = events.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(Failure::local)?;
            return Ok((events, String::new()));
        }
        let list = self.session.api.list(self.namespace(kind), kind.plural(), &Self::request(select)).await?;
        Ok((list.items, list.metadata.resource_version))
    }

    fn request(select: &SelectorArgs) -> ListRequest {
        ListRequest {
            label_selector: select.selector.clone(),
            field_selector: select.field_selector.clone(),
            ..Default::default()
        }
    }

    fn sort(&self, items: &mut [Value]) {
        if let Some(path) = &self.args.sort_by {
            items.sort_by(|a, b| compare(path.find(a).first().copied(), path.find(b).first().copied()));
        }
    }

    fn table(&self, kind: Kind, items: &[Value]) -> Outcome<String> {
        let show = self.show();
        let head = (!self.args.no_headers).then(|| Ok(rows::head(kind, &show)));
        let now = now();
        let rows = items.iter().map(|item| rows::row(kind, item, &show, now, self.terminal.paint));
        Ok(Growing::default().rows(&head.into_iter().chain(rows).collect::<Outcome<Vec<_>>>()?))
    }

    async fn watch(&self, kind: Kind, items: &[Value], select: &SelectorArgs, revision: String) -> Outcome {
        let mut printer = Coming::new(self, kind);
        printer.show_all(items)?;
        if kind == Kind::Event {
            return printer.follow_events(items).await;
        }
        let request = WatchRequest {
            label_selector: select.selector.clone(),
            field_selector: select.field_selector.clone(),
            resource_version: revision,
            ..Default::default()
        };
        let mut changes = self.session.api.watch(self.namespace(kind), kind.plural(), request);
        while let Some(change) = changes.next().await {
            let change = change?;
            if matches!(change.kind, WatchEventType::Added | WatchEventType::Modified | WatchEventType::Deleted) {
                printer.show(&change.object)?;
            }
        }
        Ok(())
    }
}

/// Prints objects as they come; a table's head comes before its first row.
struct Coming<'a> {
    getting: &'a Getting<'a>,
    kind: Kind,
    table: Growing,
    head_shown: bool,
}

impl<'a> Coming<'a> {
    fn new(getting: &'a Getting<'a>, kind: Kind) -> Self {
        Self { getting, kind, table: Growing::default(), head_shown: getting.args.no_headers }
    }

    fn show_all(&mut self, items: &[Value]) -> Outcome {
        let Getting { format, terminal, .. } = self.getting;
        if !format.is_table() {
            return items
                .iter()
                .try_for_each(|item| terminal.print(&format.render(std::slice::from_ref(item), false)?));
        }
        let (show, now) = (self.getting.show(), now());
        let mut rows = Vec::new();
        if !self.head_shown && !items.is_empty() {
            rows.push(rows::head(self.kind, &show));
            self.head_shown = true;
        }
        for item in items {
            rows.push(rows::row(self.kind, item, &show, now, terminal.paint)?);
        }
        terminal.print(&self.table.rows(&rows))
    }

    fn show(&mut self, item: &Value) -> Outcome {
        self.show_all(std::slice::from_ref(item))
    }

    async fn follow_events(&mut self, shown: &[Value]) -> Outcome {
        let seen: std::collections::HashSet<String> =
            shown.iter().filter_map(|e| e.pointer("/metadata/name")?.as_str().map(str::to_owned)).collect();
        let namespace = self.getting.namespace(Kind::Event);
        let mut events = super::events::follow(self.getting.session, namespace).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            if !seen.contains(&event.metadata.name) {
                self.show(&serde_json::to_value(&event).map_err(Failure::local)?)?;
            }
        }
        Ok(())
    }
}

/// Numbers by size, all else by its text; what is missing comes first.
fn compare(a: Option<&Value>, b: Option<&Value>) -> std::cmp::Ordering {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(std::cmp::Ordering::Equal)
        }
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (a, b) => a.map(Value::to_string).cmp(&b.map(Value::to_string)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sorting_compares_numbers_as_numbers_and_puts_what_is_missing_first() {
        let mut values = [json!({"n": 10}), json!({"n": 9}), json!({})];
        let path = Path::parse(".n").unwrap();
        values.sort_by(|a, b| compare(path.find(a).first().copied(), path.find(b).first().copied()));
        assert_eq!(values, [json!({}), json!({"n": 9}), json!({"n": 10})]);
    }
}
