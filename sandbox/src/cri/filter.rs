//! Filters of lists: all that a filter names has to match.

use std::collections::HashMap;

use podbus_common_cri::runtime::{
    Container, ContainerFilter, ContainerStatsFilter, PodSandbox, PodSandboxFilter, PodSandboxStatsFilter,
};

type Labels = HashMap<String, String>;

fn has_labels(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// An id may be abbreviated; empty is any.
fn has_id(id: &str, wanted: &str) -> bool {
    id.starts_with(wanted)
}

pub(super) fn sandbox(filter: &PodSandboxFilter, item: &PodSandbox) -> bool {
    has_id(&item.id, &filter.id)
        && filter.state.as_ref().is_none_or(|state| state.state == item.state)
        && has_labels(&item.labels, &filter.label_selector)
}

pub(super) fn container(filter: &ContainerFilter, item: &Container) -> bool {
    has_id(&item.id, &filter.id)
        && has_id(&item.pod_sandbox_id, &filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|state| state.state == item.state)
        && has_labels(&item.labels, &filter.label_selector)
}

pub(super) fn container_stats(filter: &ContainerStatsFilter, item: &Container) -> bool {
    has_id(&item.id, &filter.id)
        && has_id(&item.pod_sandbox_id, &filter.pod_sandbox_id)
        && has_labels(&item.labels, &filter.label_selector)
}

pub(super) fn sandbox_stats(filter: &PodSandboxStatsFilter, item: &PodSandbox) -> bool {
    has_id(&item.id, &filter.id) && has_labels(&item.labels, &filter.label_selector)
}

#[cfg(test)]
mod tests {
    use podbus_common_cri::runtime::ContainerStateValue;

    use super::*;

    #[test]
    fn all_that_a_filter_names_has_to_match() {
        let labels = Labels::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "1".to_owned())]);
        let item =
            Container { id: "abc".into(), pod_sandbox_id: "def".into(), state: 1, labels, ..Container::default() };
        let wanted = |value: &str| Labels::from([("app".to_owned(), value.to_owned())]);
        let filter = ContainerFilter { id: "ab".into(), label_selector: wanted("web"), ..ContainerFilter::default() };
        assert!(container(&filter, &item));
        assert!(!container(&ContainerFilter { label_selector: wanted("db"), ..filter.clone() }, &item));
        assert!(!container(&ContainerFilter { pod_sandbox_id: "x".into(), ..filter.clone() }, &item));
        assert!(!container(&ContainerFilter { state: Some(ContainerStateValue { state: 2 }), ..filter }, &item));
    }
}
