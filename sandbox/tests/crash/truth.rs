//! Whether what the runtime says is so, by what the kernel says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use podbus_common_cri::runtime::*;

use crate::runtime::host::{Host, is_alive, until};

/// What runs has processes, what does not has none, there is a shim for each sandbox that is ready, and none for nobody,
/// and limits are those that are told. At once or soon: a death is noticed after it.
pub(crate) async fn assert_states_are_true(host: &mut Host) {
    until(async || lie(host).await.map_or(Ok(()), Err)).await;
}

/// What the runtime says and is not so.
async fn lie(host: &mut Host) -> Option<String> {
    let sandboxes = host.cri.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    let containers = host.cri.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
    for sandbox in &sandboxes {
        let is_ready = sandbox.state() == PodSandboxState::SandboxReady;
        let members = members(&sandbox.id);
        if is_ready && !members.contains(&host.pause_pid(&sandbox.id).await) || !is_ready && !members.is_empty() {
            return Some(format!("{sandbox:?}\nhas the processes {members:?}"));
        }
    }
    for container in &containers {
        let status = host.status(&container.id).await;
        let runs = status.state() == ContainerState::ContainerRunning;
        let members = members(&container.id);
        if runs && !members.contains(&host.pid(&container.id).await) || !runs && !members.is_empty() {
            return Some(format!("{status:?}\nhas the processes {members:?}"));
        }
        let told = status.resources.and_then(|it| it.linux).map_or(0, |it| it.memory_limit_in_bytes);
        if runs && told != 0 && memory_limit(members[0]) != Some(told) {
            return Some(format!("{told} is told and {:?} is the memory limit", memory_limit(members[0])));
        }
    }
    let ready = sandboxes.iter().filter(|it| it.state() == PodSandboxState::SandboxReady).count();
    let shims = host.shims();
    // A shim outlives its pause until the sandbox is stopped.
    let is_right = (ready..=sandboxes.len()).contains(&shims.len());
    (!is_right).then(|| format!("{ready} of {} sandboxes are ready, the shims are {shims:?}", sandboxes.len()))
}

/// The memory limit of a process's cgroup, in bytes.
fn memory_limit(pid: i32) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = |name: &str| text.lines().find_map(|line| line.split_once(&format!(":{name}:"))).map(|(_, path)| path);
    let v1 = path("memory").map(|path| format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
    let file = v1.or_else(|| path("").map(|path| format!("/sys/fs/cgroup{path}/memory.max")))?;
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The processes in the cgroups of this name.
fn members(name: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        is_alive(*pid) && text.lines().any(|line| line.rsplit('/').next() == Some(name))
    })
    .collect()
}

/// All that is below a directory.
pub(crate) fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}
