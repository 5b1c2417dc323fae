//! What this machine is and has: the node as the leader learns of it.

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::path::Path;

use fs_err as fs;
use podbus_common::model::NodeSystemInfo;
use podbus_common::proto::NodeDescription;
use podbus_common::quantity::Quantity;

use crate::Args;

/// Describes the node; `runtime` is `name://version`.
pub(crate) fn describe(args: &Args, state_dir: &Path, runtime: &str) -> io::Result<NodeDescription> {
    let capacity = capacity(args, state_dir)?;
    let info = system_info(runtime);
    Ok(NodeDescription {
        capacity: capacity.clone(),
        allocatable: capacity,
        labels: args.own.labels([
            ("kubernetes.io/hostname", args.node.clone()),
            ("kubernetes.io/os", info.operating_system.clone()),
            ("kubernetes.io/arch", info.architecture.clone()),
        ]),
        taints: serde_json::to_vec(&args.own.taints)?.into(),
        pod_cidr: args.pod_cidr.clone(),
        boot_id: info.boot_id.clone(),
        node_info: serde_json::to_vec(&info)?.into(),
        internal_ip: internal_ip(),
    })
}

/// What the node offers, as quantities: the flags win over the machine.
pub(crate) fn capacity(args: &Args, state_dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let cpu = match &args.cpu {
        Some(cpu) => cpu.to_string(),
        None => std::thread::available_parallelism()?.to_string(),
    };
    let memory = match &args.memory {
        Some(memory) => memory.to_string(),
        None => format!("{}Ki", memory_kib()?),
    };
    let disk = rustix::fs::statvfs(state_dir)?;
    let disk_kib = disk.f_blocks.saturating_mul(disk.f_frsize) / 1024;
    Ok(args.own.capacity([("cpu", cpu), ("memory", memory), ("ephemeral-storage", format!("{disk_kib}Ki"))]))
}

/// Reads one of [`capacity`]'s amounts: bytes, or CPUs in thousandths.
pub(crate) fn amount(capacity: &BTreeMap<String, String>, resource: &str) -> i64 {
    let quantity = capacity.get(resource).and_then(|text| Quantity::parse(text).ok());
    quantity.map_or(0, |quantity| if resource == "cpu" { quantity.milli_value() } else { quantity.value() })
}

/// What the kernel can use.
pub(crate) fn memory_kib() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    total.and_then(|kib| kib.trim().parse().ok()).ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
}

fn system_info(runtime: &str) -> NodeSystemInfo {
    let uname = rustix::system::uname();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    NodeSystemInfo {
        kernel_version: uname.release().to_string_lossy().into_owned(),
        os_image: os_image(),
        container_runtime_version: runtime.to_owned(),
        kubelet_version: format!("podbus-{}", env!("CARGO_PKG_VERSION")),
        operating_system: "linux".to_owned(),
        architecture: architecture.to_owned(),
        boot_id: read_trimmed("/proc/sys/kernel/random/boot_id"),
        machine_id: read_trimmed("/etc/machine-id"),
    }
}

fn os_image() -> String {
    let text = read_trimmed("/etc/os-release");
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Absent files (an image without them) leave the field empty.
fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The address that the machine would use towards others. Connecting a datagram socket sends nothing.
fn internal_ip() -> String {
    // 192.0.2.1 is of TEST-NET-1 (RFC 5737): behind the default route, and nobody's.
    let address = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    address.map_or_else(|_| "127.0.0.1".to_owned(), |address| address.ip().to_string())
}
