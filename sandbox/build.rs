//! Builds the two programs without a standard library, which travel inside the daemon.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for name in ["shim", "pause"] {
        println!("cargo::rerun-if-changed={name}/src");
        println!("cargo::rerun-if-changed={name}/Cargo.toml");
        println!("cargo::rerun-if-changed={name}/Cargo.lock");
        println!("cargo::rerun-if-changed={name}/build.rs");
        let program = build(&here.join(name), &out.join("tiny"), name)?;
        println!("cargo::rustc-env=PODBUS_{}={}", name.to_uppercase(), program.display());
    }
    println!("cargo::rerun-if-changed=linux/src");
    println!("cargo::rerun-if-changed=linux/Cargo.toml");
    Ok(())
}

/// What the outer cargo tells build scripts, and its flags and profiles (coverage, sanitizers): not for these two. How to
/// reach a registry (`CARGO_HTTP_`, `CARGO_NET_`, `CARGO_REGISTR...`) is.
const OURS: [&str; 9] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_",
    "CARGO_FEATURE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "RUSTFLAGS",
];

/// Builds in a target directory of its own: the outer cargo holds the lock of the shared one.
fn build(source: &Path, target_dir: &Path, name: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let target = std::env::var("TARGET")?;
    let mut cargo = Command::new(std::env::var("CARGO")?);
    for (key, _) in std::env::vars() {
        if OURS.iter().any(|prefix| key.starts_with(prefix)) {
            cargo.env_remove(key);
        }
    }
    let status = cargo
        .current_dir(source)
        .args(["build", "--release", "--locked", "--target", &target])
        .env("CARGO_TARGET_DIR", target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Crelocation-model=static\x1f-Ctarget-feature=+crt-static")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()?;
    if !status.success() {
        return Err(format!("cannot build the {name} program: {status}").into());
    }
    Ok(target_dir.join(target).join("release").join(format!("podbus-{name}")))
}
