//! `podbus image load|pull|list|remove`, on all nodes at once.

mod progress;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use clap::Subcommand;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use podbus_common::api::{ImageProgress, ImageRow, ListRequest};
use podbus_common::model::Node;
use podbus_common::proto::image_request::Kind;
use podbus_common::proto::{self, Chunk, chunk, open_stream};
use podbus_common::subject;
use podbus_common_bus::stream;
use serde_json::{Value, json};

use self::progress::{NodeBar, Progress};
use crate::args::BusArgs;
use crate::bus::{Session, stream_error};
use crate::columns::Growing;
use crate::failure::{Failure, Outcome};
use crate::output::Format;
use crate::rows::{node_status, typed};
use crate::terminal::Terminal;

/// A frame's worth of an archive.
const FRAME_BYTES: usize = 128 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Load an archive (`docker save`, OCI layout) onto nodes
    Load(LoadArgs),
    /// Pull an image from its registry
    Pull(NameArgs),
    /// List the images that nodes have
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Remove images from nodes
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
}

/// Which nodes.
#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// Only this node; may be repeated
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    #[command(flatten)]
    bus: BusArgs,
}

#[derive(Debug, clap::Args)]
struct LoadArgs {
    /// A tar archive; - for stdin
    file: String,
    /// A name for an archive that carries none
    #[arg(long, value_name = "IMAGE", default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    nodes: NodeArgs,
}

#[derive(Debug, clap::Args)]
struct NameArgs {
    /// The image
    image: String,
    #[command(flatten)]
    nodes: NodeArgs,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    nodes: NodeArgs,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=HEAD:PATH,...
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse)]
    output: Option<Format>,
    /// Leave the head of the table away
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    nodes: NodeArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    match args.verb {
        Verb::Load(args) => load(args, terminal).await,
        Verb::Pull(args) => pull(args, terminal).await,
        Verb::List(args) => list(args, terminal).await,
        Verb::Remove(args) => remove(args, terminal).await,
    }
}

/// The named nodes, or all that are ready.
async fn nodes(session: &Session, args: &NodeArgs, terminal: &Terminal) -> Outcome<Vec<String>> {
    if !args.nodes.is_empty() {
        for name in &args.nodes {
            session.api.get(None, "nodes", name).await?;
        }
        return Ok(args.nodes.clone());
    }
    let list = session.api.list(None, "nodes", &ListRequest::default()).await?;
    let mut ready = Vec::new();
    for item in &list.items {
        let node: Node = typed(item)?;
        if node_status(&node).starts_with("Ready") {
            ready.push(node.metadata.name);
        } else {
            terminal.note(&format!("{} is not ready: left out", node.metadata.name));
        }
    }
    match ready.is_empty() {
        true => Err(Failure::local("no node is ready").hint("start some with `podbus up`, or see `podbus get nodes`")),
        false => Ok(ready),
    }
}

async fn open(session: &Session, node: &str, kind: Kind, image: &str) -> Outcome<stream::ClientStream> {
    let request = proto::ImageRequest { kind: kind.into(), image: image.to_owned() };
    session.open(node, &subject::images(node), open_stream::Request::Image(request)).await
}

/// Works on all nodes at once, with a bar each: what came of it, and what failed.
async fn with_progress<T>(
    nodes: &[String],
    work: impl AsyncFn(&str, &NodeBar) -> Outcome<T>,
    said: impl Fn(&T) -> String,
) -> (Vec<T>, Vec<Failure>) {
    let progress = Progress::new(nodes);
    let mut working: FuturesUnordered<_> =
        nodes.iter().map(async |node| (node, work(node, &progress.bar(node)).await)).collect();
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    while let Some((node, result)) = working.next().await {
        match result {
            Ok(result) => {
                progress.done(node, &said(&result));
                results.push(result);
            }
            Err(failure) => {
                progress.failed(node);
                failures.push(failure.on(node));
            }
        }
    }
    progress.finish();
    (results, failures)
}

/// A chunk's JSON; `None` when it is of another kind, an error when the node gave up.
fn json<T: serde::de::DeserializeOwned>(chunk: &Chunk) -> Outcome<Option<T>> {
    match chunk.kind() {
        chunk::Kind::Json => serde_json::from_slice(&chunk.data).map(Some).map_err(Failure::local),
        chunk::Kind::End => chunk.error.as_ref().map_or(Ok(None), |error| Err(stream_error(error))),
        _ => Ok(None),
    }
}

// === load ===

async fn load(args: LoadArgs, terminal: &Terminal) -> Outcome {
    let archive = Archive::open(&args.file)?;
    let session = Session::connect(&args.nodes.bus).await?;
    let nodes = nodes(&session, &args.nodes, terminal).await?;
    let work = async |node: &str, bar: &NodeBar| load_on(&session, node, &archive, &args.name, bar).await;
    let (loaded, failures) = with_progress(&nodes, work, |names| format!("loaded {}", names.join(", "))).await;
    let mut loaded = loaded.concat();
    loaded.sort();
    loaded.dedup();
    terminal.print(&loaded.iter().map(|name| format!("Loaded image: {name}\n")).collect::<String>())?;
    Failure::all(failures)
}

/// Where an archive's bytes come from; each node reads them for itself.
enum Archive {
    File(String, u64),
    Memory(Bytes),
}

impl Archive {
    fn open(name: &str) -> Outcome<Self> {
        if name == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes)?;
            return Ok(Self::Memory(bytes.into()));
        }
        let cannot = |error| Failure::local(format!("cannot read {name}")).because(error);
        let kind = std::fs::metadata(Path::new(name)).map_err(cannot)?;
        if kind.is_dir() {
            return Err(Failure::local(format!("{name} is a folder"))
                .hint(format!("tar -C {name} -cf - . | podbus image load -")));
        }
        std::fs::File::open(name).map_err(cannot)?;
        Ok(Self::File(name.to_owned(), kind.len()))
    }

    fn length(&self) -> u64 {
        match self {
            Self::File(_, length) => *length,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    fn reader(&self) -> Outcome<Box<dyn Read>> {
        Ok(match self {
            Self::File(name, _) => Box::new(std::fs::File::open(name)?),
            Self::Memory(bytes) => Box::new(std::io::Cursor::new(bytes.clone())),
        })
    }
}

async fn load_on(session: &Session, node: &str, archive: &Archive, name: &str, bar: &NodeBar) -> Outcome<Vec<String>> {
    bar.length(archive.length());
    let (mut chunks, mut frames) = open(session, node, Kind::Load, name).await?.split();
    let mut reader = archive.reader()?;
    let send = async {
        let mut buffer = vec![0; FRAME_BYTES];
        loop {
            let length = reader.read(&mut buffer)?;
            if length == 0 {
                return Ok::<(), Failure>(frames.eof().await?);
            }
            frames.data(Bytes::copy_from_slice(&buffer[..length])).await?;
            bar.sent(length as u64);
        }
    };
    tokio::pin!(send);
    let (mut sending, mut send_failure) = (true, None);
    let mut names = Vec::new();
    loop {
        let chunk = tokio::select! {
            // Kept pinned over the rounds, so nothing that was read is lost.
            sent = &mut send, if sending => {
                sending = false;
                send_failure = sent.err();
                continue;
            }
            chunk = chunks.next() => chunk,
        };
        // What the node says of the end tells more than that it no longer listens.
        let Some(chunk) = chunk else { break };
        let chunk = chunk?;
        if let Some(progress) = json::<ImageProgress>(&chunk)? {
            names = progress.names;
        } else if chunk.kind() == chunk::Kind::End {
            return Ok(names);
        }
    }
    Err(send_failure.unwrap_or_else(|| Failure::local("the stream ended before the image was loaded")))
}

// === pull ===

async fn pull(args: NameArgs, terminal: &Terminal) -> Outcome {
    let session = Session::connect(&args.nodes.bus).await?;
    let nodes = nodes(&session, &args.nodes, terminal).await?;
    let work = async |node: &str, bar: &NodeBar| pull_on(&session, node, &args.image, bar).await;
    let (mut pulled, failures) = with_progress(&nodes, work, |_| format!("pulled {}", args.image)).await;
    pulled.sort();
    pulled.dedup();
    for id in pulled {
        terminal.line(if id.is_empty() { &args.image } else { &id })?;
    }
    Failure::all(failures)
}

async fn pull_on(session: &Session, node: &str, image: &str, bar: &NodeBar) -> Outcome<String> {
    let mut chunks = open(session, node, Kind::Pull, image).await?;
    let mut id = String::new();
    while let Some(chunk) = chunks.next().await {
        if let Some(progress) = json::<ImageProgress>(&chunk?)? {
            bar.length(progress.bytes_total);
            bar.at(progress.bytes);
            if !progress.id.is_empty() {
                id = progress.id;
            }
        }
    }
    Ok(id)
}

// === remove ===

async fn remove(args: RemoveArgs, terminal: &Terminal) -> Outcome {
    let session = Session::connect(&args.nodes.bus).await?;
    let nodes = nodes(&session, &args.nodes, terminal).await?;
    let everywhere = args.nodes.nodes.is_empty();
    let mut failures = Vec::new();
    for image in &args.images {
        let mut removing: FuturesUnordered<_> =
            nodes.iter().map(async |node| (node, remove_on(&session, node, image).await)).collect();
        let (mut removed, mut missing) = (Vec::new(), Vec::new());
        while let Some((node, result)) = removing.next().await {
            match result {
                Ok(()) => removed.push(node.clone()),
                Err(failure) if failure.is_not_found() => missing.push(failure.on(node)),
                Err(failure) => failures.push(failure.on(node)),
            }
        }
        removed.sort();
        if !removed.is_empty() {
            terminal.line(&format!("Removed image: {image} ({})", removed.join(", ")))?;
        }
        // "Everywhere" means where it is; that it is nowhere is worth saying, once.
        match (everywhere, removed.is_empty()) {
            (false, _) => failures.extend(missing),
            (true, true) if !missing.is_empty() => failures.push(Failure::not_found("images", image)),
            (true, _) => {}
        }
    }
    Failure::all(failures)
}

async fn remove_on(session: &Session, node: &str, image: &str) -> Outcome {
    let mut chunks = open(session, node, Kind::Remove, image).await?;
    while let Some(chunk) = chunks.next().await {
        json::<Value>(&chunk?)?;
    }
    Ok(())
}

// === list ===

async fn list(args: ListArgs, terminal: &Terminal) -> Outcome {
    let session = Session::connect(&args.nodes.bus).await?;
    let nodes = nodes(&session, &args.nodes, terminal).await?;
    let mut asking: FuturesUnordered<_> =
        nodes.iter().map(async |node| (node.clone(), list_on(&session, node).await)).collect();
    let (mut images, mut failures) = (BTreeMap::new(), Vec::new());
    while let Some((node, result)) = asking.next().await {
        match result {
            Ok(rows) => rows.into_iter().for_each(|row| Image::merge(&mut images, &row, &node)),
            Err(failure) => failures.push(failure.on(&node)),
        }
    }
    let mut images: Vec<Image> = images.into_values().collect();
    images.iter_mut().for_each(|image| image.nodes.sort());
    match &args.output {
        Some(format) if !format.is_table() => {
            let objects: Vec<Value> = images.iter().map(Image::object).collect();
            terminal.print(&format.render(&objects, true)?)?;
        }
        _ if images.is_empty() && failures.is_empty() => terminal.note("No images found"),
        _ => terminal.print(&image_table(&images, !args.no_headers))?,
    }
    Failure::all(failures)
}

async fn list_on(session: &Session, node: &str) -> Outcome<Vec<ImageRow>> {
    let mut chunks = open(session, node, Kind::List, "").await?;
    let mut rows = Vec::new();
    while let Some(chunk) = chunks.next().await {
        rows.extend(json::<ImageRow>(&chunk?)?);
    }
    Ok(rows)
}

/// An image under one name, and the nodes that have it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Image {
    name: String,
    id: String,
    size_bytes: u64,
    nodes: Vec<String>,
}

impl Image {
    fn merge(images: &mut BTreeMap<(String, String), Self>, row: &ImageRow, node: &str) {
        let unnamed = ["<none>".to_owned()];
        let names = if row.names.is_empty() { &unnamed } else { row.names.as_slice() };
        for name in names {
            let image = images.entry((name.clone(), row.id.clone())).or_insert_with(|| Self {
                name: name.clone(),
                id: row.id.clone(),
                size_bytes: row.size_bytes,
                nodes: Vec::new(),
            });
            image.nodes.push(node.to_owned());
        }
    }

    fn object(&self) -> Value {
        json!({"kind": "Image", "metadata": {"name": self.name}, "id": self.id, "sizeBytes": self.size_bytes, "nodes": self.nodes})
    }
}

fn image_table(images: &[Image], head: bool) -> String {
    let head = head.then(|| ["IMAGE", "ID", "SIZE", "NODES"].map(str::to_owned).to_vec());
    let rows = images.iter().map(|image| {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        vec![image.name.clone(), id, megabytes(image.size_bytes), image.nodes.join(",")]
    });
    Growing::default().rows(&head.into_iter().chain(rows).collect::<Vec<_>>())
}

/// As docker prints sizes: powers of ten.
fn megabytes(bytes: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..1_000 => format!("{bytes}B"),
        1_000..1_000_000 => format!("{}kB", tenths(1_000)),
        1_000_000..1_000_000_000 => format!("{}MB", tenths(1_000_000)),
        _ => format!("{}GB", tenths(1_000_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_several_nodes_have_is_one_row() {
        let mut images = BTreeMap::new();
        let row = ImageRow {
            names: vec!["localhost/busybox:latest".into()],
            id: "sha256:0123456789abcdef".into(),
            size_bytes: 2_150_000,
        };
        for node in ["node-1", "node-2"] {
            Image::merge(&mut images, &row, node);
        }
        let images: Vec<Image> = images.into_values().collect();
        assert_eq!(
            image_table(&images, true),
            "IMAGE                      ID             SIZE    NODES\n\
             localhost/busybox:latest   0123456789ab   2.1MB   node-1,node-2\n"
        );
    }
}
