//! The folder `tests/bad-manifests`: each file breaks a rule, and says in `<name>.expected` what a person is told.
//!
//! With `PODBUS_EXPECT=write` in the environment the expectations are written anew, to be read before a commit.

#![expect(clippy::unwrap_used, reason = "a test: what is unexpected fails it")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use podbus_common::manifest;

/// What the folder must hold at least.
const FILES_MIN: usize = 60;
const RULES_MIN: usize = 40;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)))
        .collect();
    files.sort();
    files
}

/// What a person is told about a file.
fn told(path: &Path) -> String {
    let name = path.file_name().unwrap().to_string_lossy();
    match manifest::parse_bytes(&name, &std::fs::read(path).unwrap()) {
        Ok(_) => panic!("{name} is a sound manifest"),
        Err(faults) => faults.iter().map(|fault| format!("{fault}\n")).collect(),
    }
}

#[test]
fn each_bad_manifest_is_refused_with_the_expected_words() {
    let mut wrong = Vec::new();
    for path in files(&folder("tests/bad-manifests"), &["yaml", "json"]) {
        let (expected, told) = (path.with_extension("expected"), told(&path));
        if std::env::var("PODBUS_EXPECT").is_ok_and(|v| v == "write") {
            std::fs::write(&expected, &told).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        if told != expected {
            wrong.push(format!("--- {}\nexpected:\n{expected}told:\n{told}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_folder_breaks_many_rules() {
    let files = files(&folder("tests/bad-manifests"), &["yaml", "json"]);
    let rules: BTreeSet<String> = files.iter().flat_map(|path| rules(&told(path))).collect();
    assert!(files.len() >= FILES_MIN, "{} files", files.len());
    assert!(rules.len() >= RULES_MIN, "{} rules: {rules:#?}", rules.len());
}

/// The rules that a text speaks of: its lines without places, values and numbers.
fn rules(told: &str) -> Vec<String> {
    let rule = |line: &str| {
        let message = line.splitn(4, ':').nth(3).unwrap_or(line);
        let unquoted: String = message.split('"').step_by(2).collect();
        unquoted.chars().filter(|c| !c.is_ascii_digit()).collect()
    };
    told.lines().map(rule).collect()
}

#[test]
fn all_examples_are_sound() {
    let examples = files(&folder("examples"), &["yaml"]);
    assert!(!examples.is_empty());
    for path in examples {
        let name = path.file_name().unwrap().to_string_lossy();
        if let Err(faults) = manifest::parse_bytes(&name, &std::fs::read(&path).unwrap()) {
            panic!("{}", faults.iter().map(|fault| format!("{fault}\n")).collect::<String>());
        }
    }
}
