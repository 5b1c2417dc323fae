//! `podbus logs`: what containers wrote, also of several pods at once.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{FuturesUnordered, SelectAll};
use podbus_common::api::ListRequest;
use podbus_common::model::{Pod, Timestamp};
use podbus_common::proto::{self, chunk, open_stream};
use podbus_common::subject::{self, PodStream};
use podbus_common_bus::stream;

use crate::args::{self, BusArgs, NamespaceArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::resource::{node_of, nothing_found, now, pod_name};
use crate::rows::typed;
use crate::terminal::Terminal;

/// With a selector kubectl shows the end only, unless told otherwise.
const SELECTOR_TAIL: i64 = 10;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  podbus logs web\n  podbus logs -f web -c sidecar\n  podbus logs -f -l app=web --prefix"
)]
pub(crate) struct Args {
    /// The pod, and its container if it has several
    #[arg(value_name = "POD [CONTAINER]", num_args = 0..=2)]
    pod: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// The container
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// All containers of the pod, init containers too
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    /// Go on as it writes
    #[arg(short, long)]
    follow: bool,
    /// Of the run before the last restart
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines; -1: all
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Only what is newer: 5s, 2m, 3h
    #[arg(long, value_name = "DURATION", value_parser = args::duration, conflicts_with = "since_time")]
    since: Option<Duration>,
    /// Only what is newer than a moment (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since_time: Option<Timestamp>,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
    /// Put pod and container before each line
    #[arg(long)]
    prefix: bool,
    /// Of all pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// With -l: read so many streams at most
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    max_log_requests: usize,
    /// Go on with the other streams when one fails
    #[arg(long)]
    ignore_errors: bool,
    #[command(flatten)]
    bus: BusArgs,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("`{text}` is not a moment such as 2026-01-31T12:00:00Z"))
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let session = Session::connect(&args.bus).await?;
    let sources = sources(&session, &args, terminal).await?;
    if sources.is_empty() {
        terminal.note(&nothing_found(Some(&args.namespace.namespace)));
        return Ok(());
    }
    if args.follow && sources.len() > args.max_log_requests {
        return Err(Failure::local(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use \
             --max-log-requests to increase the limit",
            sources.len(),
            args.max_log_requests
        )));
    }
    if args.follow {
        together(&session, &args, &sources, terminal).await
    } else {
        one_by_one(&session, &args, &sources, terminal).await
    }
}

/// One container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    node: String,
    namespace: String,
    pod: String,
    uid: String,
    container: String,
}

async fn sources(session: &Session, args: &Args, terminal: &Terminal) -> Outcome<Vec<Source>> {
    let namespace = &args.namespace.namespace;
    let (pods, container): (Vec<Pod>, Option<&str>) = match (args.pod.as_slice(), &args.selector) {
        ([], Some(selector)) => {
            let request = ListRequest { label_selector: selector.clone(), ..Default::default() };
            let list = session.api.list(Some(namespace), "pods", &request).await?;
            (list.items.iter().map(typed).collect::<Outcome<_>>()?, args.container.as_deref())
        }
        ([name, rest @ ..], None) => {
            let container = match (rest.first(), &args.container) {
                (Some(_), Some(_)) => {
                    return Err(Failure::local("only one of -c or an inline [CONTAINER] arg is allowed"));
                }
                (inline, flag) => inline.or(flag.as_ref()),
            };
            let pod = session.api.get(Some(namespace), "pods", &pod_name(name)?).await?;
            (vec![typed(&pod)?], container.map(String::as_str))
        }
        (_, Some(_)) => return Err(Failure::local("only a selector (-l) or a POD name is allowed")),
        ([], None) => return Err(Failure::local("expected 'logs POD [CONTAINER]' or 'logs -l LABELS'")),
    };
    let mut sources = Vec::new();
    for pod in &pods {
        let chosen = containers(pod, container, args.all_containers, terminal)?;
        let node = node_of(pod)?;
        sources.extend(chosen.into_iter().map(|container| Source {
            node: node.to_owned(),
            namespace: pod.metadata.namespace.clone(),
            pod: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            container,
        }));
    }
    Ok(sources)
}

/// Which containers are meant: the named one, all, or the first, saying so when there are others.
fn containers(pod: &Pod, wanted: Option<&str>, all: bool, terminal: &Terminal) -> Outcome<Vec<String>> {
    let init = pod.spec.init_containers.iter().map(|c| c.name.clone());
    let main = pod.spec.containers.iter().map(|c| c.name.clone());
    if all {
        return Ok(init.chain(main).collect());
    }
    match wanted {
        Some(name) if init.chain(main).any(|known| known == name) => Ok(vec![name.to_owned()]),
        Some(name) => Err(Failure::local(format!("container {name} is not valid for pod {}", pod.metadata.name))),
        None => default_container(pod, terminal).map(|name| vec![name]),
    }
}

/// kubectl's choice: the annotation, else the first; and its note on stderr when there are several.
pub(super) fn default_container(pod: &Pod, terminal: &Terminal) -> Outcome<String> {
    let annotated = pod.metadata.annotations.get("kubectl.kubernetes.io/default-container");
    let containers = &pod.spec.containers;
    if let Some(container) = containers.iter().find(|c| Some(&c.name) == annotated) {
        return Ok(container.name.clone());
    }
    let first = containers.first().ok_or_else(|| Failure::local("the pod has no containers"))?;
    let others = containers.iter().map(|c| c.name.clone());
    let init = pod.spec.init_containers.iter().map(|c| format!("{} (init)", c.name));
    let names: Vec<String> = others.chain(init).collect();
    if names.len() > 1 {
        terminal.note(&format!("Defaulted container \"{}\" out of: {}", first.name, names.join(", ")));
    }
    Ok(first.name.clone())
}

async fn open(session: &Session, args: &Args, source: &Source) -> Outcome<stream::ClientStream> {
    let since = args.since.map(|since| now().unix_ms - i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    let default_tail = if args.selector.is_some() { SELECTOR_TAIL } else { -1 };
    let request = proto::LogsRequest {
        namespace: source.namespace.clone(),
        pod: source.pod.clone(),
        uid: source.uid.clone(),
        container: source.container.clone(),
        follow: args.follow,
        previous: args.previous,
        tail_lines: args.tail.unwrap_or(default_tail),
        since_ms: since.or(args.since_time.map(|at| at.unix_ms)).unwrap_or(0),
        timestamps: args.timestamps,
    };
    let subject = subject::pod_stream(&source.node, &source.namespace, PodStream::Logs);
    session.open(&source.node, &subject, open_stream::Request::Logs(request)).await
}

async fn one_by_one(session: &Session, args: &Args, sources: &[Source], terminal: &Terminal) -> Outcome {
    let mut failures = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let mut lines = Lines::new(args, index, source, terminal);
        let done = async {
            let mut chunks = open(session, args, source).await?;
            while let Some(chunk) = chunks.next().await {
                lines.take(&chunk?)?;
            }
            lines.finish()
        };
        match done.await {
            Ok(()) => {}
            Err(Failure::BrokenPipe) => return Err(Failure::BrokenPipe),
            Err(failure) if args.ignore_errors => terminal.report(&failure.text()),
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures)
}

/// Follows all at once; lines come as they are written, whole.
async fn together(session: &Session, args: &Args, sources: &[Source], terminal: &Terminal) -> Outcome {
    let mut opening: FuturesUnordered<_> =
        sources.iter().enumerate().map(|(i, source)| async move { (i, open(session, args, source).await) }).collect();
    let mut lines: Vec<Lines<'_>> =
        sources.iter().enumerate().map(|(i, source)| Lines::new(args, i, source, terminal)).collect();
    let mut chunks = SelectAll::new();
    while let Some((i, opened)) = opening.next().await {
        match opened {
            Ok(stream) => chunks.push(Box::pin(futures::stream::unfold(stream, move |mut stream| async move {
                stream.next().await.map(|chunk| ((i, chunk), stream))
            }))),
            Err(failure) if args.ignore_errors => terminal.report(&failure.text()),
            Err(failure) => return Err(failure),
        }
    }
    while let Some((i, chunk)) = chunks.next().await {
        match chunk.map_err(Failure::from).and_then(|chunk| lines[i].take(&chunk)) {
            Err(Failure::BrokenPipe) => return Err(Failure::BrokenPipe),
            Err(failure) if args.ignore_errors => terminal.report(&failure.text()),
            other => other?,
        }
    }
    lines.iter_mut().try_for_each(Lines::finish)
}

/// Prints one source's chunks; with a prefix, or beside other sources, only whole lines.
struct Lines<'a> {
    prefix: String,
    whole_lines: bool,
    rest: Vec<u8>,
    terminal: &'a Terminal,
}

impl<'a> Lines<'a> {
    fn new(args: &Args, index: usize, source: &Source, terminal: &'a Terminal) -> Self {
        let prefix = if args.prefix {
            let text = format!("[pod/{}/{}]", source.pod, source.container);
            format!("{} ", terminal.paint.of_stream(index, &text))
        } else {
            String::new()
        };
        let whole_lines = args.prefix || args.all_containers || args.selector.is_some();
        Self { prefix, whole_lines, rest: Vec::new(), terminal }
    }

    fn take(&mut self, chunk: &proto::Chunk) -> Outcome {
        match chunk.kind() {
            chunk::Kind::Stdout | chunk::Kind::Stderr => self.write(&chunk.data),
            chunk::Kind::End => match &chunk.error {
                Some(error) => Err(crate::bus::stream_error(error)),
                None => Ok(()),
            },
            chunk::Kind::Json | chunk::Kind::Ack | chunk::Kind::Eof => Ok(()),
        }
    }

    fn write(&mut self, data: &[u8]) -> Outcome {
        if !self.whole_lines {
            return self.terminal.print_bytes(data);
        }
        self.rest.extend_from_slice(data);
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else { return Ok(()) };
        let tail = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, tail);
        self.print(&lines)
    }

    /// What came after the last line's end.
    fn finish(&mut self) -> Outcome {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Ok(()) } else { self.print(&rest) }
    }

    fn print(&self, lines: &[u8]) -> Outcome {
        let mut out = Vec::with_capacity(lines.len() * 2);
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            out.extend_from_slice(self.prefix.as_bytes());
            out.extend_from_slice(line);
        }
        self.terminal.print_bytes(&out)
    }
}
