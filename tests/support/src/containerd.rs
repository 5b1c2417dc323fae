//! A containerd with root, state, network and images of its own: the peer of a benchmark, the runtime of a node in a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// containerd has its pause from an image: one of busybox.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";
const CNI_PLUGINS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Writes its configuration below `directory`, with pods on a bridge of that name; the command line that starts it.
/// It then serves on [`socket`].
///
/// # Errors
///
/// When it is not installed, or a file cannot be written.
pub fn configure(directory: &Path, bridge: &str, subnet: &str) -> anyhow::Result<[String; 3]> {
    let is_there = |program| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    let plugins = CNI_PLUGINS.into_iter().find(|dir| Path::new(dir).join("bridge").exists());
    let plugins = plugins.filter(|_| is_there("containerd") && is_there("runc"));
    let plugins = plugins.context("containerd, runc and containernetworking-plugins are not installed")?;
    std::fs::create_dir(directory.join("cni"))?;
    std::fs::write(directory.join("cni/10-bridge.conflist"), conflist(directory, bridge, subnet))?;
    let file = directory.join("config.toml");
    std::fs::write(&file, configuration(directory, plugins))?;
    Ok(["containerd".to_owned(), "--config".to_owned(), file.display().to_string()])
}

/// Where it serves.
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("s")
}

/// Gives a running one the image of `archive`, and its pause.
///
/// # Errors
///
/// When `ctr` or what packs the image fails: also while containerd does not serve yet.
pub fn import(directory: &Path, archive: &Path) -> anyhow::Result<()> {
    let pause = directory.join("pause.tar");
    run(Command::new("sh").args(["-ec", PACK_PAUSE, PAUSE_IMAGE]).arg(directory).arg(archive).arg(&pause))?;
    for archive in [archive, &pause] {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket(directory)).args(["--namespace", "k8s.io", "images", "import"]);
        run(command.arg(archive))?;
    }
    Ok(())
}

/// The image of `$2` with another command and the name `$0`, so that it can stand in for pause: packed as `$3`.
const PACK_PAUSE: &str = r#"mkdir "$1/pause" && cd "$1/pause" && tar -xf "$2"
config=$(sed 's/.*"Config":"\([^"]*\)".*/\1/' manifest.json) layer=$(sed 's/.*"Layers":\["\([^"]*\)".*/\1/' manifest.json)
sed 's/"Cmd":\["sh"\]/"Entrypoint":["\/bin\/busybox","sleep","100000"]/' "$config" > pause.json
echo "[{\"Config\":\"pause.json\",\"RepoTags\":[\"$0\"],\"Layers\":[\"$layer\"]}]" > manifest.json
tar -cf "$3" manifest.json pause.json "$layer""#;

fn configuration(directory: &Path, plugins: &str) -> String {
    let directory = directory.display();
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
  address = "{directory}/s"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true # runs without CAP_SYS_RESOURCE too
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{directory}/cni"
"#
    )
}

/// A bridge and addresses, as our own network has them; without masquerading, for which the plugins need iptables.
fn conflist(directory: &Path, bridge: &str, subnet: &str) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "{bridge}", "plugins": [{{"type": "bridge", "bridge": "{bridge}", "isGateway": true,
  "ipam": {{"type": "host-local", "dataDir": "{}/ipam", "ranges": [[{{"subnet": "{subnet}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
        directory.display()
    )
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
