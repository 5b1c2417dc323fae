//! What the runtime and the disk have that the desired set does not know: at the agent's start, and of pods that ended
//! also later, as a call of an agent that died may be carried out after the next one began.

use std::collections::BTreeSet;

use podbus_common::model::{Pod, Timestamp};
use podbus_common_cri::runtime as v1;
use podbus_node_agent_core::desired::DesiredSet;

use crate::runtime::config::POD_ANNOTATION;
use crate::runtime::{Runtime, RuntimeError, ignore_not_found};
use crate::state_dir::StateDir;
use crate::{user_ids, volumes};

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
        let uid = uid(&sandbox).to_owned();
        if set.ended(&uid).is_some() {
            remove_ended(runtime, &sandbox).await?;
        } else if adopt(set, &uid, &json, &sandbox) {
            tracing::info!(pod = name(&sandbox), podUID = %uid, "a pod was read back from the runtime");
            read_back_user_ids(runtime, state_dir, &uid, &sandbox.id).await?;
            adopted.insert(uid);
        }
    }
    remove_directories(state_dir, set);
    Ok(adopted)
}

fn uid(sandbox: &v1::PodSandbox) -> &str {
    sandbox.metadata.as_ref().map_or("", |metadata| &metadata.uid)
}

/// `namespace/name` of the pod.
fn name(sandbox: &v1::PodSandbox) -> String {
    sandbox.metadata.as_ref().map(|it| format!("{}/{}", it.namespace, it.name)).unwrap_or_default()
}

fn adopt(set: &mut DesiredSet, uid: &str, json: &str, sandbox: &v1::PodSandbox) -> bool {
    let Ok(pod) = serde_json::from_str::<Pod>(json) else { return false };
    let created_at = Timestamp::from_unix_ms(sandbox.created_at.div_euclid(1_000_000));
    // The revision is not known: what the leader has is at least as new.
    set.adopt(uid, json, pod.metadata.generation, 0, created_at)
}

/// Writes down the ids of a pod with users of its own, so that no other pod gets them.
async fn read_back_user_ids<R: Runtime>(
    runtime: &R,
    state_dir: &StateDir,
    uid: &str,
    sandbox: &str,
) -> Result<(), RuntimeError> {
    let status = runtime.pod_sandbox_status(sandbox).await?;
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
    let users = options.and_then(|options| options.userns_options).map(|users| users.uids).unwrap_or_default();
    match users.first().map(|ids| user_ids::write(&state_dir.pod_dir(uid), ids.host_id)) {
        Some(Err(error)) => Err(RuntimeError::new(tonic::Code::Internal, error.to_string())),
        _ => Ok(()),
    }
}

/// Whether a sandbox that was there at `listed_at` is of a pod that had ended here by then, of which nothing may be left.
pub(crate) fn is_of_ended(sandbox: &v1::PodSandbox, set: &DesiredSet, listed_at: Timestamp) -> bool {
    let had_ended = || set.ended(uid(sandbox)).is_some_and(|ended| ended.at <= listed_at);
    sandbox.annotations.contains_key(POD_ANNOTATION) && had_ended()
}

/// Removes a sandbox that is left of a pod that ended.
pub(crate) async fn remove_ended<R: Runtime>(runtime: &R, sandbox: &v1::PodSandbox) -> Result<(), RuntimeError> {
    let (pod, uid) = (name(sandbox), uid(sandbox));
    tracing::warn!(pod, podUID = uid, "the runtime still has a pod that ended, removing it");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::config::{SandboxPlace, sandbox_config};
    use crate::runtime::fake::Fake;

    #[tokio::test]
    async fn a_pod_that_the_disk_lost_is_read_back_with_the_ids_of_its_users() {
        let place = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(place.path()).unwrap();
        let json = r#"{"metadata":{"uid":"u-1","name":"web"},"spec":{"hostUsers":false,"containers":[]}}"#;
        let pod: Pod = serde_json::from_str(json).unwrap();
        let sandbox = SandboxPlace {
            attempt: 0,
            pod_dir: &state_dir.pod_dir("u-1"),
            cgroup_parent: "/podbus-x/podu-1".into(),
            pod_json: json.into(),
            user_ids: Some(131_072),
        };
        let runtime = Fake::new(&[]);
        runtime.run_pod_sandbox(sandbox_config(&pod, &sandbox), "").await.unwrap();

        let mut set = DesiredSet::default();
        let adopted = recover(&runtime, &state_dir, &mut set).await.unwrap();
        assert_eq!(adopted, BTreeSet::from(["u-1".to_owned()]));
        assert_eq!(user_ids::read(&state_dir.pod_dir("u-1")).unwrap(), Some(131_072));
    }
}
