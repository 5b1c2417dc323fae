//! `podbus events`: what happened, oldest first, and with `-w` what happens.

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use podbus_common::model::{Event, EventType};
use podbus_common::selector::FieldSelector;
use serde_json::Value;

use crate::args::{BusArgs, ScopeArgs};
use crate::bus::Session;
use crate::columns::Growing;
use crate::event_log::folded;
use crate::failure::{Failure, Outcome};
use crate::output::Format;
use crate::resource::{Kind, Target, now};
use crate::rows::{self, Show};
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  podbus events -w\n  podbus events --for pod/web --types Warning")]
pub(crate) struct Args {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Only about one object: `pod/web`, `node/node-1`
    #[arg(long = "for", value_name = "TYPE/NAME")]
    about: Option<String>,
    /// Only of these types: Normal, Warning
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    types: Vec<String>,
    /// Then show each event as it comes
    #[arg(short, long)]
    watch: bool,
    /// wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=HEAD:PATH,...
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse)]
    output: Option<Format>,
    /// Leave the head of the table away
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let wanted = Wanted::new(&args)?;
    let session = Session::connect(&args.bus).await?;
    let namespace = args.scope.namespace();
    let mut printer = Printer {
        format: args.output.clone().unwrap_or_default(),
        table: if args.watch { steady_columns(args.scope.all_namespaces) } else { Growing::default() },
        namespaces: args.scope.all_namespaces,
        head: !args.no_headers,
        terminal,
    };
    if args.watch {
        let mut events = follow(&session, namespace).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            if wanted.matches(&event) {
                printer.show(&[event])?;
            }
        }
        return Ok(());
    }
    let events: Vec<Event> =
        history(&session, namespace, "").await?.into_iter().filter(|e| wanted.matches(e)).collect();
    if events.is_empty() && printer.format.is_table() {
        terminal.note(&namespace.map_or_else(
            || "No events found.".to_owned(),
            |namespace| format!("No events found in {namespace} namespace."),
        ));
        return Ok(());
    }
    printer.show(&events)
}

/// Room for what most events say, when they come one by one.
fn steady_columns(namespaces: bool) -> Growing {
    const NAMESPACE: usize = 12;
    // LAST SEEN, TYPE, REASON, OBJECT.
    const OTHERS: [usize; 4] = [20, 10, 20, 20];
    let widths: Vec<usize> = namespaces.then_some(NAMESPACE).into_iter().chain(OTHERS).collect();
    Growing::of_widths(&widths)
}

/// All events that the bus still has of a namespace (`None`: of all), folded and sorted.
pub(crate) async fn history(session: &Session, namespace: Option<&str>, field_selector: &str) -> Outcome<Vec<Event>> {
    let fields = FieldSelector::parse(field_selector).map_err(Failure::local)?;
    let events: Vec<Event> =
        podbus_common_bus::events::subscribe(&session.bus, namespace, false).await?.try_collect().await?;
    Ok(folded(events).into_iter().filter(|event| fields.matches(|field| field_of(event, field))).collect())
}

/// All events, then each as it comes.
pub(crate) async fn follow(
    session: &Session,
    namespace: Option<&str>,
) -> Outcome<impl Stream<Item = Outcome<Event>> + Unpin + use<>> {
    Ok(podbus_common_bus::events::subscribe(&session.bus, namespace, true).await?.map_err(Failure::from))
}

/// The fields of events that Kubernetes selects by.
fn field_of(event: &Event, field: &str) -> Option<String> {
    let object = &event.involved_object;
    Some(match field {
        "involvedObject.kind" => object.kind.clone(),
        "involvedObject.name" => object.name.clone(),
        "involvedObject.namespace" => object.namespace.clone(),
        "involvedObject.uid" => object.uid.clone(),
        "involvedObject.fieldPath" => object.field_path.clone(),
        "metadata.name" => event.metadata.name.clone(),
        "metadata.namespace" => event.metadata.namespace.clone(),
        "reason" => event.reason.clone(),
        "type" => type_name(event.kind_of).to_owned(),
        "source" => event.source.component.clone(),
        _ => return None,
    })
}

fn type_name(kind: EventType) -> &'static str {
    match kind {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

/// `--for` and `--types`.
struct Wanted {
    about: Option<(Kind, String)>,
    types: Vec<String>,
}

impl Wanted {
    fn new(args: &Args) -> Outcome<Self> {
        let about = match &args.about {
            None => None,
            Some(text) => match Target::parse(std::slice::from_ref(text))? {
                Target::Objects(mut objects) if objects.len() == 1 => Some(objects.remove(0)),
                _ => return Err(Failure::local("--for must be in resource/name form, as in pod/web")),
            },
        };
        if let Some(unknown) = args.types.iter().find(|t| !["normal", "warning"].contains(&&*t.to_lowercase())) {
            return Err(Failure::local(format!("valid --types are Normal or Warning, not {unknown}")));
        }
        Ok(Self { about, types: args.types.iter().map(|t| t.to_lowercase()).collect() })
    }

    fn matches(&self, event: &Event) -> bool {
        let object = &event.involved_object;
        let about =
            |(kind, name): &(Kind, String)| object.kind.to_lowercase() == kind.singular() && object.name == *name;
        self.about.as_ref().is_none_or(about)
            && (self.types.is_empty() || self.types.contains(&type_name(event.kind_of).to_lowercase()))
    }
}

struct Printer<'a> {
    format: Format,
    table: Growing,
    namespaces: bool,
    head: bool,
    terminal: &'a Terminal,
}

impl Printer<'_> {
    fn show(&mut self, events: &[Event]) -> Outcome {
        let values =
            events.iter().map(serde_json::to_value).collect::<Result<Vec<Value>, _>>().map_err(Failure::local)?;
        if !self.format.is_table() {
            return self.terminal.print(&self.format.render(&values, values.len() != 1)?);
        }
        let show = Show { wide: self.format == Format::Wide, namespace: self.namespaces, ..Show::default() };
        let head = std::mem::take(&mut self.head).then(|| Ok(rows::head(Kind::Event, &show)));
        let now = now();
        let rows = values.iter().map(|value| rows::row(Kind::Event, value, &show, now, self.terminal.paint));
        self.terminal.print(&self.table.rows(&head.into_iter().chain(rows).collect::<Outcome<Vec<_>>>()?))
    }
}
