//! The house rules that the build can prove.

use std::process::Command;

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
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
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
