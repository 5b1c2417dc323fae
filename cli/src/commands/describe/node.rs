//! A node, as kubectl describes one.

use std::collections::BTreeMap;
use std::ops::Add;

use podbus_common::effective;
use podbus_common::model::{Container, Event, Node, Pod, Timestamp};
use podbus_common::quantity::Quantity;

use super::text::{self, Lines};
use crate::rows;
use crate::terminal::Paint;

/// The whole description. `pods` are those on the node that have not ended.
pub(crate) fn text(node: &Node, pods: &[Pod], events: Option<&[Event]>, now: Timestamp, paint: Paint) -> String {
    let mut lines = Lines::default();
    head(&mut lines, node);
    conditions(&mut lines, node, paint);
    lines.line(0, "Addresses:");
    node.status.addresses.iter().for_each(|address| lines.pair(1, &address.kind, &address.address));
    for (title, quantities) in [("Capacity", &node.status.capacity), ("Allocatable", &node.status.allocatable)] {
        lines.line(0, &format!("{title}:"));
        quantities.iter().for_each(|(name, quantity)| lines.pair(1, name, quantity));
    }
    system(&mut lines, node);
    lines.pair_if(0, "PodCIDR", &node.spec.pod_cidr);
    pod_table(&mut lines, node, pods, now);
    lines.finish() + &text::events(events, now, paint)
}

fn head(lines: &mut Lines, node: &Node) {
    lines.pair(0, "Name", &node.metadata.name);
    lines.pair(0, "Roles", rows::node_roles(node));
    lines.map(0, "Labels", &node.metadata.labels, "=");
    lines.map(0, "Annotations", &node.metadata.annotations, ": ");
    lines.pair(0, "CreationTimestamp", text::moment(node.metadata.creation_timestamp));
    let taint = |taint: &podbus_common::model::Taint| match taint.value.as_str() {
        "" => format!("{}:{}", taint.key, taint.effect.as_str()),
        value => format!("{}={value}:{}", taint.key, taint.effect.as_str()),
    };
    lines.list(0, "Taints", node.spec.taints.iter().map(taint));
    lines.pair(0, "Unschedulable", node.spec.unschedulable);
}

fn conditions(lines: &mut Lines, node: &Node, paint: Paint) {
    lines.line(0, "Conditions:");
    lines.line(1, "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
    lines.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    for condition in &node.status.conditions {
        lines.line(
            1,
            &format!(
                "{}\t{}\t{}\t{}\t{}\t{}",
                condition.kind,
                paint.word(&condition.status),
                text::moment(condition.last_heartbeat_time),
                text::moment(condition.last_transition_time),
                condition.reason,
                condition.message
            ),
        );
    }
}

fn system(lines: &mut Lines, node: &Node) {
    let info = &node.status.node_info;
    lines.line(0, "System Info:");
    for (key, value) in [
        ("Machine ID", &info.machine_id),
        ("Boot ID", &info.boot_id),
        ("Kernel Version", &info.kernel_version),
        ("OS Image", &info.os_image),
        ("Operating System", &info.operating_system),
        ("Architecture", &info.architecture),
        ("Container Runtime Version", &info.container_runtime_version),
        ("Node Agent Version", &info.kubelet_version),
    ] {
        lines.pair(1, key, value);
    }
}

fn pod_table(lines: &mut Lines, node: &Node, pods: &[Pod], now: Timestamp) {
    lines.line(0, &format!("Non-terminated Pods:\t({} in total)", pods.len()));
    lines.line(1, "Namespace\tName\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    lines.line(1, "---------\t----\t------------\t----------\t---------------\t-------------\t---");
    let offered = |name: &str| node.status.allocatable.get(name).and_then(|q| Quantity::parse(q).ok());
    let cell = |amount: Amount, name: &str| amount.cell(name, offered(name));
    for pod in pods {
        let cells = COLUMNS.map(|(name, which)| cell(of_pod(pod, name, which), name)).join("\t");
        let age = rows::age(pod.metadata.creation_timestamp, now);
        lines.line(1, &format!("{}\t{}\t{cells}\t{age}", pod.metadata.namespace, pod.metadata.name));
    }
    lines.line(0, "Allocated resources:");
    lines.line(1, "Resource\tRequests\tLimits");
    lines.line(1, "--------\t--------\t------");
    for name in ["cpu", "memory", "ephemeral-storage"] {
        let sum = |which| Amount::sum(pods.iter().map(|pod| of_pod(pod, name, which)));
        lines.line(1, &format!("{name}\t{}\t{}", cell(sum(Which::Requests), name), cell(sum(Which::Limits), name)));
    }
}

const COLUMNS: [(&str, Which); 4] =
    [("cpu", Which::Requests), ("cpu", Which::Limits), ("memory", Which::Requests), ("memory", Which::Limits)];

#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Requests,
    Limits,
}

/// An amount of a resource, in thousandths of its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Amount(pub(super) i128);

impl Amount {
    fn sum(amounts: impl Iterator<Item = Self>) -> Self {
        Self(amounts.map(|amount| amount.0).sum())
    }

    /// `100m (5%)`, `64Mi (3%)`.
    fn cell(self, name: &str, offered: Option<Quantity>) -> String {
        let share = match offered.map(|q| i128::from(q.milli_value())) {
            Some(all) if all > 0 => format!(" ({}%)", self.0 * 100 / all),
            _ => String::new(),
        };
        format!("{}{share}", self.text(name))
    }

    /// In the unit in which a person thinks of the resource.
    pub(crate) fn text(self, name: &str) -> String {
        match name {
            "cpu" if self.0 % 1000 == 0 => (self.0 / 1000).to_string(),
            "cpu" => format!("{}m", self.0),
            "memory" | "ephemeral-storage" => bytes(self.0 / 1000),
            _ => (self.0 / 1000).to_string(),
        }
    }
}

/// In the largest power of 1024 that it reaches, rounded to one decimal.
fn bytes(bytes: i128) -> String {
    for (unit, size) in [("Gi", 1_i128 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
        if bytes >= size {
            let tenths = (bytes * 10 + size / 2) / size;
            return match tenths % 10 {
                0 => format!("{}{unit}", tenths / 10),
                tenth => format!("{}.{tenth}{unit}", tenths / 10),
            };
        }
    }
    bytes.to_string()
}

/// What a pod asks for.
pub(super) fn of_pod(pod: &Pod, resource: &str, which: Which) -> Amount {
    let of = |container: &Container| {
        let quantities: &BTreeMap<String, String> = match which {
            Which::Requests => &container.resources.requests,
            Which::Limits => &container.resources.limits,
        };
        quantities.get(resource).and_then(|q| Quantity::parse(q).ok()).map_or(0, |q| i128::from(q.milli_value()))
    };
    Amount(effective::of_pod(&pod.spec, of, Add::add, Ord::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_in_the_unit_of_their_resource() {
        for (name, milli, text) in [
            ("cpu", 2000, "2"),
            ("cpu", 250, "250m"),
            ("memory", 64 * 1024 * 1024 * 1000, "64Mi"),
            ("memory", 1_288_490_189_000, "1.2Gi"),
            ("memory", 0, "0"),
        ] {
            assert_eq!(Amount(milli).text(name), text);
        }
    }
}
