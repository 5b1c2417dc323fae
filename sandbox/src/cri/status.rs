//! What a runtime tells of itself.

use podbus_common_cri::runtime::RuntimeCondition;

use crate::runtime::Runtime;

/// RuntimeReady and NetworkReady, in the kubelet's words: without a network it runs only pods on the node's own.
pub(crate) fn conditions(runtime: &Runtime) -> Vec<RuntimeCondition> {
    let condition = |kind: &str, problem: Option<(&str, String)>| {
        let status = problem.is_none();
        let (reason, message) = problem.unwrap_or_default();
        RuntimeCondition { r#type: kind.to_owned(), status, reason: reason.to_owned(), message }
    };
    let network = runtime.network_problem().map(|problem| ("NetworkPluginNotReady", problem));
    vec![condition("RuntimeReady", None), condition("NetworkReady", network)]
}
