//! Which fields there are: what podbus supports, what Kubernetes has beyond that, and what only the server sets.

mod scheduling;

/// What a field may hold.
#[derive(Debug)]
pub enum Kind {
    /// A string.
    Text,
    /// A string or a number, as it was written.
    Scalar,
    /// true or false.
    Bool,
    /// A whole number.
    Integer(Range),
    /// A text or a number.
    Quantity,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// Items of one kind.
    List(&'static Kind),
    /// Any keys.
    Map(&'static Kind),
    /// Known keys.
    Object(&'static Object),
    /// Set by the server: taken and dropped, so that `get -o yaml | apply -f -` works.
    Ignored,
}

/// The integers of a field, and Kubernetes' words for what is outside.
#[derive(Debug)]
pub struct Range {
    /// The smallest.
    pub min: i64,
    /// The largest.
    pub max: i64,
    /// Said of what is outside.
    pub message: &'static str,
}

/// A map with known keys.
#[derive(Debug)]
pub struct Object {
    /// The keys and what they hold.
    pub fields: &'static [(&'static str, Kind)],
    /// Kubernetes has them, podbus not yet.
    pub unsupported: &'static [&'static str],
}

/// Kinds that Kubernetes has, for a better answer than "unknown".
pub(super) const KUBERNETES_KINDS: [&str; 43] = [
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "ControllerRevision",
    "CronJob",
    "CSIDriver",
    "CustomResourceDefinition",
    "DaemonSet",
    "Deployment",
    "Endpoints",
    "EndpointSlice",
    "Event",
    "FlowSchema",
    "Gateway",
    "HorizontalPodAutoscaler",
    "HTTPRoute",
    "Ingress",
    "IngressClass",
    "Job",
    "Lease",
    "LimitRange",
    "MutatingWebhookConfiguration",
    "Namespace",
    "NetworkPolicy",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "PodTemplate",
    "PriorityClass",
    "ReplicaSet",
    "ReplicationController",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "RuntimeClass",
    "Secret",
    "Service",
    "ServiceAccount",
    "StatefulSet",
    "StorageClass",
    "ValidatingWebhookConfiguration",
];

/// The objects that have a field of this name, for one that stands in the wrong object.
pub(super) fn homes(field: &str) -> Vec<String> {
    let mut homes = Vec::new();
    collect_homes(&POD, "", field, &mut homes);
    // A name as common as `name` says nothing about where it was meant to be.
    if homes.len() > 2 { Vec::new() } else { homes }
}

fn collect_homes(object: &Object, path: &str, field: &str, homes: &mut Vec<String>) {
    if object.fields.iter().any(|(name, _)| *name == field) || object.unsupported.contains(&field) {
        homes.push(if path.is_empty() { "the top level".to_owned() } else { path.to_owned() });
    }
    for (name, kind) in object.fields {
        let path = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
        match kind {
            Kind::Object(inner) => collect_homes(inner, &path, field, homes),
            Kind::List(Kind::Object(inner)) if *name != "initContainers" => {
                collect_homes(inner, &format!("{path}[]"), field, homes);
            }
            _ => {}
        }
    }
}

const TEXTS: Kind = Kind::List(&Kind::Text);
const TEXT_MAP: Kind = Kind::Map(&Kind::Text);

const ID: Kind =
    Kind::Integer(Range { min: 0, max: i32::MAX as i64, message: "must be between 0 and 2147483647, inclusive" });

pub(super) static POD: Object = Object {
    fields: &[
        ("apiVersion", Kind::Text),
        ("kind", Kind::Text),
        ("metadata", Kind::Object(&METADATA)),
        ("spec", Kind::Object(&POD_SPEC)),
        ("status", Kind::Ignored),
    ],
    unsupported: &[],
};

/// The fields of a pod's metadata.
pub static METADATA: Object = Object {
    fields: &[
        ("name", Kind::Text),
        ("generateName", Kind::Text),
        ("namespace", Kind::Text),
        ("labels", TEXT_MAP),
        ("annotations", TEXT_MAP),
        ("uid", Kind::Ignored),
        ("resourceVersion", Kind::Ignored),
        ("creationTimestamp", Kind::Ignored),
        ("deletionTimestamp", Kind::Ignored),
        ("deletionGracePeriodSeconds", Kind::Ignored),
        ("generation", Kind::Ignored),
        ("managedFields", Kind::Ignored),
        ("selfLink", Kind::Ignored),
    ],
    unsupported: &["finalizers", "ownerReferences"],
};

/// The fields of a pod's spec.
pub static POD_SPEC: Object = Object {
    fields: &[
        ("initContainers", Kind::List(&Kind::Object(&CONTAINER))),
        ("containers", Kind::List(&Kind::Object(&CONTAINER))),
        ("restartPolicy", Kind::OneOf(&["Always", "OnFailure", "Never"])),
        (
            "terminationGracePeriodSeconds",
            Kind::Integer(Range {
                min: 0,
                max: i32::MAX as i64,
                message: "must be between 0 and 2147483647, inclusive",
            }),
        ),
        ("nodeName", Kind::Text),
        ("nodeSelector", TEXT_MAP),
        ("tolerations", Kind::List(&Kind::Object(&TOLERATION))),
        ("shareProcessNamespace", Kind::Bool),
        ("hostUsers", Kind::Bool),
        ("hostname", Kind::Text),
        ("volumes", Kind::List(&Kind::Object(&VOLUME))),
        ("securityContext", Kind::Object(&POD_SECURITY_CONTEXT)),
        ("affinity", Kind::Object(&scheduling::AFFINITY)),
        ("topologySpreadConstraints", Kind::List(&Kind::Object(&scheduling::TOPOLOGY_SPREAD_CONSTRAINT))),
        ("priority", scheduling::PRIORITY),
        ("priorityClassName", Kind::Text),
        ("preemptionPolicy", scheduling::PREEMPTION_POLICY),
        ("schedulingGates", Kind::List(&Kind::Object(&scheduling::SCHEDULING_GATE))),
        ("schedulerName", Kind::Text),
        ("runtimeClassName", Kind::Text),
    ],
    unsupported: &[
        "activeDeadlineSeconds",
        "automountServiceAccountToken",
        "dnsConfig",
        "dnsPolicy",
        "enableServiceLinks",
        "ephemeralContainers",
        "hostAliases",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostnameOverride",
        "imagePullSecrets",
        "os",
        "overhead",
        "readinessGates",
        "resourceClaims",
        "resources",
        "schedulingGroup",
        "serviceAccount",
        "serviceAccountName",
        "setHostnameAsFQDN",
        "subdomain",
        "workloadRef",
    ],
};

static CONTAINER: Object = Object {
    fields: &[
        ("name", Kind::Text),
        ("image", Kind::Text),
        ("imagePullPolicy", Kind::OneOf(&["Always", "IfNotPresent", "Never"])),
        ("command", TEXTS),
        ("args", TEXTS),
        ("workingDir", Kind::Text),
        ("env", Kind::List(&Kind::Object(&ENV_VAR))),
        ("ports", Kind::List(&Kind::Object(&CONTAINER_PORT))),
        ("resources", Kind::Object(&RESOURCES)),
        ("volumeMounts", Kind::List(&Kind::Object(&VOLUME_MOUNT))),
        ("restartPolicy", Kind::OneOf(&["Always", "OnFailure", "Never"])),
        ("securityContext", Kind::Object(&SECURITY_CONTEXT)),
        ("stdin", Kind::Bool),
        ("stdinOnce", Kind::Bool),
        ("tty", Kind::Bool),
    ],
    unsupported: &[
        "envFrom",
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "resizePolicy",
        "restartPolicyRules",
        "startupProbe",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "volumeDevices",
    ],
};

static ENV_VAR: Object = Object { fields: &[("name", Kind::Text), ("value", Kind::Text)], unsupported: &["valueFrom"] };

static CONTAINER_PORT: Object = Object {
    fields: &[
        ("name", Kind::Text),
        (
            "containerPort",
            Kind::Integer(Range { min: 0, max: 65_535, message: "must be between 1 and 65535, inclusive" }),
        ),
        ("protocol", Kind::Text),
        ("hostPort", Kind::Integer(Range { min: 0, max: 65_535, message: "must be between 1 and 65535, inclusive" })),
        ("hostIP", Kind::Text),
    ],
    unsupported: &[],
};

static RESOURCES: Object = Object {
    fields: &[("limits", Kind::Map(&Kind::Quantity)), ("requests", Kind::Map(&Kind::Quantity))],
    unsupported: &["claims"],
};

static VOLUME_MOUNT: Object = Object {
    fields: &[("name", Kind::Text), ("mountPath", Kind::Text), ("readOnly", Kind::Bool), ("subPath", Kind::Text)],
    unsupported: &["mountPropagation", "recursiveReadOnly", "subPathExpr"],
};

static VOLUME: Object = Object {
    fields: &[("name", Kind::Text), ("emptyDir", Kind::Object(&EMPTY_DIR)), ("hostPath", Kind::Object(&HOST_PATH))],
    unsupported: &[
        "awsElasticBlockStore",
        "azureDisk",
        "azureFile",
        "cephfs",
        "cinder",
        "configMap",
        "csi",
        "downwardAPI",
        "ephemeral",
        "fc",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "gitRepo",
        "glusterfs",
        "image",
        "iscsi",
        "nfs",
        "persistentVolumeClaim",
        "photonPersistentDisk",
        "portworxVolume",
        "projected",
        "quobyte",
        "rbd",
        "scaleIO",
        "secret",
        "storageos",
        "vsphereVolume",
    ],
};

static EMPTY_DIR: Object =
    Object { fields: &[("medium", Kind::Text), ("sizeLimit", Kind::Quantity)], unsupported: &[] };

static HOST_PATH: Object = Object { fields: &[("path", Kind::Text), ("type", Kind::Text)], unsupported: &[] };

static POD_SECURITY_CONTEXT: Object = Object {
    fields: &[("runAsUser", ID), ("runAsGroup", ID), ("runAsNonRoot", Kind::Bool)],
    unsupported: &[
        "appArmorProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "seLinuxChangePolicy",
        "seLinuxOptions",
        "seccompProfile",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "sysctls",
        "windowsOptions",
    ],
};

static SECURITY_CONTEXT: Object = Object {
    fields: &[
        ("runAsUser", ID),
        ("runAsGroup", ID),
        ("runAsNonRoot", Kind::Bool),
        ("readOnlyRootFilesystem", Kind::Bool),
        ("capabilities", Kind::Object(&CAPABILITIES)),
    ],
    unsupported: &[
        "allowPrivilegeEscalation",
        "appArmorProfile",
        "privileged",
        "procMount",
        "seLinuxOptions",
        "seccompProfile",
        "windowsOptions",
    ],
};

static CAPABILITIES: Object = Object { fields: &[("add", TEXTS), ("drop", TEXTS)], unsupported: &[] };

static TOLERATION: Object = Object {
    fields: &[
        ("key", Kind::Text),
        ("operator", Kind::OneOf(&["Exists", "Equal"])),
        ("value", Kind::Text),
        ("effect", Kind::Text),
        ("tolerationSeconds", Kind::Integer(Range { min: i64::MIN, max: i64::MAX, message: "" })),
    ],
    unsupported: &[],
};
