//! The fields that say where a pod may go.

use super::{Kind, Object, Range, TEXT_MAP, TEXTS};

const WHOLE: Kind = Kind::Integer(Range {
    min: i32::MIN as i64,
    max: i32::MAX as i64,
    message: "must be between -2147483648 and 2147483647, inclusive",
});

/// `spec.priority`.
pub(super) const PRIORITY: Kind = WHOLE;
/// `spec.preemptionPolicy`.
pub(super) const PREEMPTION_POLICY: Kind = Kind::OneOf(&["Never", "PreemptLowerPriority"]);

pub(super) static AFFINITY: Object = Object {
    fields: &[
        ("nodeAffinity", Kind::Object(&NODE_AFFINITY)),
        ("podAffinity", Kind::Object(&POD_AFFINITY)),
        ("podAntiAffinity", Kind::Object(&POD_AFFINITY)),
    ],
    unsupported: &[],
};

static NODE_AFFINITY: Object = Object {
    fields: &[
        ("requiredDuringSchedulingIgnoredDuringExecution", Kind::Object(&NODE_SELECTOR)),
        ("preferredDuringSchedulingIgnoredDuringExecution", Kind::List(&Kind::Object(&PREFERRED_NODES))),
    ],
    unsupported: &[],
};

static NODE_SELECTOR: Object =
    Object { fields: &[("nodeSelectorTerms", Kind::List(&Kind::Object(&NODE_SELECTOR_TERM)))], unsupported: &[] };

static NODE_SELECTOR_TERM: Object = Object {
    fields: &[
        ("matchExpressions", Kind::List(&Kind::Object(&REQUIREMENT))),
        ("matchFields", Kind::List(&Kind::Object(&REQUIREMENT))),
    ],
    unsupported: &[],
};

static REQUIREMENT: Object =
    Object { fields: &[("key", Kind::Text), ("operator", Kind::Text), ("values", TEXTS)], unsupported: &[] };

static PREFERRED_NODES: Object =
    Object { fields: &[("weight", WHOLE), ("preference", Kind::Object(&NODE_SELECTOR_TERM))], unsupported: &[] };

static POD_AFFINITY: Object = Object {
    fields: &[
        ("requiredDuringSchedulingIgnoredDuringExecution", Kind::List(&Kind::Object(&POD_AFFINITY_TERM))),
        ("preferredDuringSchedulingIgnoredDuringExecution", Kind::List(&Kind::Object(&PREFERRED_PODS))),
    ],
    unsupported: &[],
};

static POD_AFFINITY_TERM: Object = Object {
    fields: &[
        ("labelSelector", Kind::Object(&LABEL_SELECTOR)),
        ("namespaces", TEXTS),
        ("topologyKey", Kind::Text),
        ("namespaceSelector", Kind::Object(&LABEL_SELECTOR)),
        ("matchLabelKeys", TEXTS),
        ("mismatchLabelKeys", TEXTS),
    ],
    unsupported: &[],
};

static PREFERRED_PODS: Object =
    Object { fields: &[("weight", WHOLE), ("podAffinityTerm", Kind::Object(&POD_AFFINITY_TERM))], unsupported: &[] };

static LABEL_SELECTOR: Object = Object {
    fields: &[("matchLabels", TEXT_MAP), ("matchExpressions", Kind::List(&Kind::Object(&REQUIREMENT)))],
    unsupported: &[],
};

pub(super) static TOPOLOGY_SPREAD_CONSTRAINT: Object = Object {
    fields: &[
        ("maxSkew", WHOLE),
        ("topologyKey", Kind::Text),
        ("whenUnsatisfiable", Kind::Text),
        ("labelSelector", Kind::Object(&LABEL_SELECTOR)),
        ("minDomains", WHOLE),
        ("nodeAffinityPolicy", Kind::Text),
        ("nodeTaintsPolicy", Kind::Text),
        ("matchLabelKeys", TEXTS),
    ],
    unsupported: &[],
};

pub(super) static SCHEDULING_GATE: Object = Object { fields: &[("name", Kind::Text)], unsupported: &[] };
