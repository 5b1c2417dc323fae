//! Compiles the protocol without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/cri.proto", "proto/sandbox.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".podbus.sandbox.v1").compile_fds(files)?;
    Ok(())
}
