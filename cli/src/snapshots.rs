//! Text in, text out: each file of `testdata/` holds objects and what commands print of them.
//!
//! Sections begin with a line `#### <command>`; the first one holds the objects as a YAML list. The clock stands at
//! 2025-11-24T16:00:00Z. `REWRITE=1 cargo test -p podbus-cli snapshots` writes what commands print now.

use std::fmt::Write as _;
use std::path::Path;

use podbus_common::model::{Event, Node, Pod, Timestamp};
use serde_json::Value;

use crate::columns::Growing;
use crate::commands::describe::{self, Surroundings};
use crate::event_log::folded;
use crate::output::Format;
use crate::resource::Kind;
use crate::rows::{self, Show, typed};
use crate::terminal::Paint;

const NOW: Timestamp = Timestamp::from_unix_ms(1_764_000_000_000);

#[test]
fn commands_print_what_the_test_data_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut count = 0;
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let before = std::fs::read_to_string(&path).unwrap();
        let after = played(&before);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&path, after).unwrap();
        } else {
            assert_eq!(before, after, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 4, "the test data is missing");
}

/// The same file with what the commands print now.
fn played(text: &str) -> String {
    let (input, sections) = text.split_once("\n#### ").expect("a section");
    let objects: Vec<Value> = serde_saphyr::from_str(input).expect("YAML objects");
    let commands = sections.split("\n#### ").map(|section| section.lines().next().unwrap_or_default());
    commands.fold(format!("{input}\n"), |mut out, command| {
        let _ = write!(out, "#### {command}\n{}", run(command, &objects));
        out
    })
}

fn run(command: &str, objects: &[Value]) -> String {
    match command.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["get", kind, options @ ..] => get(Kind::parse(kind).unwrap(), options, objects),
        ["describe", kind, name] => describe(Kind::parse(kind).unwrap(), name, objects),
        other => panic!("{other:?} is no command of the test data"),
    }
}

fn of_kind(kind: Kind, objects: &[Value]) -> Vec<Value> {
    objects.iter().filter(|o| o["kind"].as_str().unwrap().to_lowercase() == kind.singular()).cloned().collect()
}

fn get(kind: Kind, options: &[&str], objects: &[Value]) -> String {
    let objects = of_kind(kind, objects);
    if let ["-o", format] = options
        && let format = Format::parse(format).unwrap()
        && !format.is_table()
    {
        return format.render(&objects, objects.len() > 1).unwrap();
    }
    let show = Show {
        wide: options.contains(&"wide"),
        namespace: options.contains(&"-A"),
        labels: options.contains(&"--show-labels"),
        ..Show::default()
    };
    let row = |object: &Value| rows::row(kind, object, &show, NOW, Paint(false)).unwrap();
    Growing::default()
        .rows(&std::iter::once(rows::head(kind, &show)).chain(objects.iter().map(row)).collect::<Vec<_>>())
}

fn describe(kind: Kind, name: &str, objects: &[Value]) -> String {
    let all = |kind| of_kind(kind, objects);
    let events: Vec<Event> = all(Kind::Event).iter().map(|e| typed(e).unwrap()).collect();
    let events: Vec<Event> = folded(events.into_iter().filter(|event| event.involved_object.name == name));
    let pods: Vec<Pod> = all(Kind::Pod).iter().map(|pod| typed(pod).unwrap()).collect();
    let nodes: Vec<Node> = all(Kind::Node).iter().map(|node| typed(node).unwrap()).collect();
    if kind == Kind::Node {
        let node = nodes.iter().find(|node| node.metadata.name == name).unwrap();
        let pods: Vec<Pod> = pods.into_iter().filter(|pod| pod.spec.node_name == name).collect();
        return describe::node_text(node, &pods, Some(&events), NOW, Paint(false));
    }
    let pod = pods.iter().find(|pod| pod.metadata.name == name).unwrap().clone();
    let around = Surroundings { nodes, pods: pods.into_iter().filter(|pod| pod.metadata.name != name).collect() };
    describe::pod_text(&pod, Some(&events), &around, NOW, Paint(false))
}
