//! At the agent's start: what the runtime and the disk have that the desired set does not know.

use std::collections::BTreeSet;

use podbus_common::model::{Pod, Timestamp};
use podbus_common_cri::runtime as v1;
use podbus_node_agent_core::desired::DesiredSet;

use crate::runtime::config::POD_ANNOTATION;
use crate::runtime::{Runtime, RuntimeError, ignore_not_found};
use crate::state_dir::StateDir;
use crate::volumes;

/// Adopts pods whose record the disk lost, and says which; removes what is left of pods that ended.
pub(crate) async fn recover<R: Runtime>(
    runtime: &R,
    state_dir: &StateDir,
    set: &mut DesiredSet,
) -> Result<BTreeSet<String>, RuntimeError> {
    let mut adopted = BTreeSet::new();
    for sandbox in runtime.list_pod_sandbox(None).await? {
        // Without the annotation it is somebody else's.
        let Some(json) = sandbox.annotations.get(POD_ANNOTATION).cloned() else { continue };
        let uid = sandbox.metadata.as_ref().map(|metadata| metadata.uid.clone()).unwrap_or_default();
        if set.ended(&uid).is_some() {
            tracing::warn!(podUID = %uid, "the runtime still has a pod that ended, removing it");
            remove(runtime, &sandbox).await?;
        } else if adopt(set, &uid, &json, &sandbox) {
            tracing::info!(podUID = %uid, "a pod was read back from the runtime");
            adopted.insert(uid);
        }
    }
    remove_directories(state_dir, set);
    Ok(adopted)
}

fn adopt(set: &mut DesiredSet, uid: &str, json: &str, sandbox: &v1::PodSandbox) -> bool {
    let Ok(pod) = serde_json::from_str::<Pod>(json) else { return false };
    let created_at = Timestamp::from_unix_ms(sandbox.created_at.div_euclid(1_000_000));
    // The revision is not known: what the leader has is at least as new.
    set.adopt(uid, json, pod.metadata.generation, 0, created_at)
}

async fn remove<R: Runtime>(runtime: &R, sandbox: &v1::PodSandbox) -> Result<(), RuntimeError> {
    ignore_not_found(runtime.stop_pod_sandbox(&sandbox.id).await)?;
    ignore_not_found(runtime.remove_pod_sandbox(&sandbox.id).await)
}

/// Directories of pods that are neither held nor run.
fn remove_directories(state_dir: &StateDir, set: &DesiredSet) {
    let uids = match state_dir.pod_dirs() {
        Ok(uids) => uids,
        Err(error) => return tracing::warn!(%error, "cannot look for left directories of pods"),
    };
    for uid in uids.iter().filter(|uid| set.get(uid).is_none()) {
        if let Err(error) = volumes::teardown(&state_dir.pod_dir(uid)) {
            tracing::warn!(podUID = %uid, %error, "cannot remove the directory of a pod that is gone");
        }
    }
}
