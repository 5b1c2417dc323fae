//! The house rules that the build can prove.

use std::path::Path;
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn the_pure_crates_depend_on_no_runtime_no_bus_and_no_kernel() {
    for package in [
        "podbus-common",
        "podbus-scheduler-core",
        "podbus-scheduler-leader",
        "podbus-simulation",
        "podbus-node-agent-core",
    ] {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "-e", "normal", "--prefix", "none", "-p", package])
            .current_dir(ROOT)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", crate::cluster::text(&output));
        let tree = String::from_utf8(output.stdout).unwrap();
        for banned in ["tokio", "async-nats", "nix", "rustix", "tonic"] {
            let named = tree.lines().find(|line| line.split(' ').next() == Some(banned));
            assert_eq!(named, None, "{package} must stay pure");
        }
    }
}

#[test]
fn every_flaw_class_of_the_security_page_names_tests_that_there_are() {
    let mut code = String::new();
    for part in ["cli", "common", "node-agent", "sandbox", "scheduler", "tests"] {
        read(&Path::new(ROOT).join(part), &mut code);
    }
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/SECURITY.md")).unwrap();
    // The last column of the tables that have one of tests.
    let mut has_tests = false;
    for line in page.lines() {
        let cell = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
        match line.starts_with('|') {
            true if cell == "test" => has_tests = true,
            true if has_tests && !cell.starts_with("---") => {
                let quoted = cell.split('`').skip(1).step_by(2).filter(|word| !word.contains(['/', '.']));
                let names: Vec<&str> = quoted.filter_map(|name| name.rsplit("::").next()).collect();
                assert!(!names.is_empty(), "no test in: {line}");
                let missing: Vec<_> = names.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
                assert!(missing.is_empty(), "no test is called {missing:?}");
            }
            true => {}
            false => has_tests = false,
        }
    }
}

/// All Rust code in a directory.
fn read(directory: &Path, code: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            read(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}
