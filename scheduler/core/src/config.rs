//! Weights and profiles, read strictly from a `KubeSchedulerConfiguration`.

use serde_json::{Map, Value};

/// Who places a pod that names nobody.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// How the scheduler decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// At least one.
    pub profiles: Vec<Profile>,
    /// How long a pod that was not placed rests at first, milliseconds; twice as long each time.
    pub backoff_initial_ms: u64,
    /// The longest rest, milliseconds.
    pub backoff_max_ms: u64,
}

/// What one `schedulerName` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Pods with this `spec.schedulerName`.
    pub scheduler_name: String,
    /// The weight of each score; 0: it does not count.
    pub weights: Weights,
    /// Of NodeResourcesFit.
    pub strategy: Strategy,
    /// Of NodeResourcesFit: resources and their weights.
    pub resources: Vec<(ResourceName, u64)>,
    /// Of InterPodAffinity: what a pod that must be beside others adds for those that match it.
    pub hard_pod_affinity_weight: i32,
}

/// How much each score counts: kube-scheduler's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// NodeResourcesFit
    pub resources_fit: u32,
    /// NodeResourcesBalancedAllocation
    pub balanced_allocation: u32,
    /// ImageLocality
    pub image_locality: u32,
    /// TaintToleration
    pub taint_toleration: u32,
    /// NodeAffinity
    pub node_affinity: u32,
    /// PodTopologySpread
    pub topology_spread: u32,
    /// InterPodAffinity
    pub inter_pod_affinity: u32,
}

/// How NodeResourcesFit scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// The emptier the better: pods spread.
    LeastAllocated,
    /// The fuller the better: pods pack.
    MostAllocated,
    /// By a line through points of (utilization in hundredths, score 0 to 100).
    RequestedToCapacityRatio(Vec<(u64, u64)>),
}

/// A resource that is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceName {
    /// cpu
    Cpu,
    /// memory
    Memory,
    /// ephemeral-storage
    EphemeralStorage,
    /// `domain/name`
    Extended(String),
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            resources_fit: 1,
            balanced_allocation: 1,
            image_locality: 1,
            taint_toleration: 3,
            node_affinity: 2,
            topology_spread: 2,
            inter_pod_affinity: 2,
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            scheduler_name: DEFAULT_SCHEDULER.to_owned(),
            weights: Weights::default(),
            strategy: Strategy::LeastAllocated,
            resources: vec![(ResourceName::Cpu, 1), (ResourceName::Memory, 1)],
            hard_pod_affinity_weight: 1,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { profiles: vec![Profile::default()], backoff_initial_ms: 1_000, backoff_max_ms: 10_000 }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConfigError {
    /// `profiles[0].plugins.score.enabled[1].weight`.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl Weights {
    fn of(&mut self, plugin: &str) -> Option<&mut u32> {
        Some(match plugin {
            "NodeResourcesFit" => &mut self.resources_fit,
            "NodeResourcesBalancedAllocation" => &mut self.balanced_allocation,
            "ImageLocality" => &mut self.image_locality,
            "TaintToleration" => &mut self.taint_toleration,
            "NodeAffinity" => &mut self.node_affinity,
            "PodTopologySpread" => &mut self.topology_spread,
            "InterPodAffinity" => &mut self.inter_pod_affinity,
            _ => return None,
        })
    }

    const NONE: Self = Self {
        resources_fit: 0,
        balanced_allocation: 0,
        image_locality: 0,
        taint_toleration: 0,
        node_affinity: 0,
        topology_spread: 0,
        inter_pod_affinity: 0,
    };
}

impl Config {
    /// Reads a `KubeSchedulerConfiguration`: `profiles` with the weights of `plugins.score` and the arguments of
    /// NodeResourcesFit and InterPodAffinity, and the two back-offs.
    ///
    /// # Errors
    /// With the path of the first field that is unknown, has another type or makes no sense.
    pub fn read(value: &Value) -> Result<Self, ConfigError> {
        let fields = object(value, "")?;
        let mut config = Self::default();
        for (key, value) in fields {
            match key.as_str() {
                "apiVersion" => only(value, key, "kubescheduler.config.k8s.io/v1")?,
                "kind" => only(value, key, "KubeSchedulerConfiguration")?,
                "podInitialBackoffSeconds" => config.backoff_initial_ms = number(value, key, 1, 3600)? * 1000,
                "podMaxBackoffSeconds" => config.backoff_max_ms = number(value, key, 1, 3600)? * 1000,
                "profiles" => {
                    let read = |(index, value)| profile(value, &format!("profiles[{index}]"));
                    config.profiles = list(value, key)?.iter().enumerate().map(read).collect::<Result<_, _>>()?;
                }
                _ => return Err(unknown(key)),
            }
        }
        if config.profiles.is_empty() {
            return Err(error("profiles", "Required value"));
        }
        if config.backoff_max_ms < config.backoff_initial_ms {
            return Err(error("podMaxBackoffSeconds", "must be at least podInitialBackoffSeconds"));
        }
        for (index, profile) in config.profiles.iter().enumerate() {
            if config.profiles[..index].iter().any(|other| other.scheduler_name == profile.scheduler_name) {
                let message = format!("Duplicate value: {:?}", profile.scheduler_name);
                return Err(error(&format!("profiles[{index}].schedulerName"), message));
            }
        }
        Ok(config)
    }
}

fn profile(value: &Value, path: &str) -> Result<Profile, ConfigError> {
    let mut profile = Profile::default();
    for (key, value) in object(value, path)? {
        let path = format!("{path}.{key}");
        match key.as_str() {
            "schedulerName" => profile.scheduler_name = text(value, &path)?.to_owned(),
            "plugins" => plugins(value, &path, &mut profile.weights)?,
            "pluginConfig" => {
                for (index, value) in list(value, &path)?.iter().enumerate() {
                    plugin_config(value, &format!("{path}[{index}]"), &mut profile)?;
                }
            }
            _ => return Err(unknown(&path)),
        }
    }
    Ok(profile)
}

fn plugins(value: &Value, path: &str, weights: &mut Weights) -> Result<(), ConfigError> {
    let defaults = *weights;
    for (key, value) in object(value, path)? {
        let path = format!("{path}.{key}");
        if key != "score" {
            return Err(error(&path, "only the scores can be chosen: filters always hold"));
        }
        let fields = object(value, &path)?;
        if let Some(field) = fields.keys().find(|field| !["enabled", "disabled"].contains(&field.as_str())) {
            return Err(unknown(&format!("{path}.{field}")));
        }
        for (list_name, enables) in [("disabled", false), ("enabled", true)] {
            let path = format!("{path}.{list_name}");
            let plugins = fields.get(list_name).map(|value| list(value, &path)).transpose()?;
            for (index, value) in plugins.into_iter().flatten().enumerate() {
                plugin(value, &format!("{path}[{index}]"), enables, defaults, weights)?;
            }
        }
    }
    Ok(())
}

fn plugin(
    value: &Value,
    path: &str,
    enables: bool,
    defaults: Weights,
    weights: &mut Weights,
) -> Result<(), ConfigError> {
    let (mut name, mut weight) = ("", None);
    for (key, value) in object(value, path)? {
        let path = format!("{path}.{key}");
        match key.as_str() {
            "name" => name = text(value, &path)?,
            "weight" if enables => weight = Some(number(value, &path, 1, 1000)?),
            _ => return Err(unknown(&path)),
        }
    }
    if name == "*" && !enables {
        *weights = Weights::NONE;
        return Ok(());
    }
    let mut defaults = defaults;
    let default = defaults.of(name).map(|weight| *weight);
    let (Some(slot), Some(default)) = (weights.of(name), default) else {
        return Err(error(&format!("{path}.name"), format!("Not found: {name:?} is no plugin that scores")));
    };
    let weight = weight.and_then(|weight| u32::try_from(weight).ok());
    *slot = if enables { weight.unwrap_or(default) } else { 0 };
    Ok(())
}

fn plugin_config(value: &Value, path: &str, profile: &mut Profile) -> Result<(), ConfigError> {
    let fields = object(value, path)?;
    if let Some(field) = fields.keys().find(|field| !["name", "args"].contains(&field.as_str())) {
        return Err(unknown(&format!("{path}.{field}")));
    }
    let name = fields.get("name").map(|name| text(name, &format!("{path}.name"))).transpose()?.unwrap_or("");
    let path_args = format!("{path}.args");
    let args = fields.get("args").unwrap_or(&Value::Null);
    match name {
        "NodeResourcesFit" => {
            for (key, value) in object(args, &path_args)? {
                let path = format!("{path_args}.{key}");
                match key.as_str() {
                    "scoringStrategy" => strategy(value, &path, profile)?,
                    _ => return Err(unknown(&path)),
                }
            }
            Ok(())
        }
        "InterPodAffinity" => {
            for (key, value) in object(args, &path_args)? {
                let path = format!("{path_args}.{key}");
                match key.as_str() {
                    "hardPodAffinityWeight" => {
                        profile.hard_pod_affinity_weight = i32::try_from(number(value, &path, 0, 100)?).unwrap_or(1);
                    }
                    _ => return Err(unknown(&path)),
                }
            }
            Ok(())
        }
        _ => Err(error(&format!("{path}.name"), format!("Not found: {name:?} is no plugin with arguments"))),
    }
}

fn strategy(value: &Value, path: &str, profile: &mut Profile) -> Result<(), ConfigError> {
    let fields = object(value, path)?;
    let (mut kind, mut points) = ("LeastAllocated", None);
    for (key, value) in fields {
        let path = format!("{path}.{key}");
        match key.as_str() {
            "type" => kind = text(value, &path)?,
            "resources" => profile.resources = resources(value, &path)?,
            "requestedToCapacityRatio" => points = Some(shape(value, &path)?),
            _ => return Err(unknown(&path)),
        }
    }
    profile.strategy = match (kind, points) {
        ("LeastAllocated", None) => Strategy::LeastAllocated,
        ("MostAllocated", None) => Strategy::MostAllocated,
        ("RequestedToCapacityRatio", Some(points)) => Strategy::RequestedToCapacityRatio(points),
        ("RequestedToCapacityRatio", None) => {
            return Err(error(&format!("{path}.requestedToCapacityRatio"), "Required value"));
        }
        ("LeastAllocated" | "MostAllocated", Some(_)) => {
            let message = "Forbidden: only of type RequestedToCapacityRatio";
            return Err(error(&format!("{path}.requestedToCapacityRatio"), message));
        }
        _ => {
            let message = format!(
                "Unsupported value: {kind:?}: supported values: \"LeastAllocated\", \"MostAllocated\", \
                 \"RequestedToCapacityRatio\""
            );
            return Err(error(&format!("{path}.type"), message));
        }
    };
    Ok(())
}

fn resources(value: &Value, path: &str) -> Result<Vec<(ResourceName, u64)>, ConfigError> {
    let mut resources = Vec::new();
    for (index, value) in list(value, path)?.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (mut name, mut weight) = (None, 1);
        for (key, value) in object(value, &path)? {
            let path = format!("{path}.{key}");
            match key.as_str() {
                "name" => name = Some(resource_name(text(value, &path)?, &path)?),
                "weight" => weight = number(value, &path, 1, 100)?,
                _ => return Err(unknown(&path)),
            }
        }
        resources.push((name.ok_or_else(|| error(&format!("{path}.name"), "Required value"))?, weight));
    }
    if resources.is_empty() { Err(error(path, "Required value")) } else { Ok(resources) }
}

fn resource_name(name: &str, path: &str) -> Result<ResourceName, ConfigError> {
    match name {
        "cpu" => Ok(ResourceName::Cpu),
        "memory" => Ok(ResourceName::Memory),
        "ephemeral-storage" => Ok(ResourceName::EphemeralStorage),
        other if podbus_common::validation::is_extended_resource(other) => Ok(ResourceName::Extended(other.to_owned())),
        other => Err(error(path, format!("Invalid value: {other:?}: is no resource"))),
    }
}

/// Points of (utilization, score): utilization rises, and the score of 0 to 10 becomes one of 0 to 100.
fn shape(value: &Value, path: &str) -> Result<Vec<(u64, u64)>, ConfigError> {
    let fields = object(value, path)?;
    if let Some(field) = fields.keys().find(|field| field.as_str() != "shape") {
        return Err(unknown(&format!("{path}.{field}")));
    }
    let path = format!("{path}.shape");
    let mut points: Vec<(u64, u64)> = Vec::new();
    for (index, value) in
        fields.get("shape").map(|value| list(value, &path)).transpose()?.into_iter().flatten().enumerate()
    {
        let path = format!("{path}[{index}]");
        let (mut utilization, mut score) = (0, 0);
        for (key, value) in object(value, &path)? {
            let path = format!("{path}.{key}");
            match key.as_str() {
                "utilization" => utilization = number(value, &path, 0, 100)?,
                "score" => score = number(value, &path, 0, 10)? * 10,
                _ => return Err(unknown(&path)),
            }
        }
        if points.last().is_some_and(|(before, _)| utilization <= *before) {
            return Err(error(&format!("{path}.utilization"), "values must be sorted in increasing order"));
        }
        points.push((utilization, score));
    }
    if points.is_empty() { Err(error(&path, "Required value")) } else { Ok(points) }
}

fn error(path: &str, message: impl Into<String>) -> ConfigError {
    ConfigError { path: path.to_owned(), message: message.into() }
}

fn unknown(path: &str) -> ConfigError {
    error(path, "unknown field")
}

fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, ConfigError> {
    value.as_object().ok_or_else(|| error(if path.is_empty() { "the file" } else { path }, "must be an object"))
}

fn list<'a>(value: &'a Value, path: &str) -> Result<&'a Vec<Value>, ConfigError> {
    value.as_array().ok_or_else(|| error(path, "must be a list"))
}

fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, ConfigError> {
    value.as_str().ok_or_else(|| error(path, "must be a text"))
}

fn number(value: &Value, path: &str, min: u64, max: u64) -> Result<u64, ConfigError> {
    let number = value.as_u64().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| error(path, format!("must be an integer between {min} and {max}, inclusive")))
}

fn only(value: &Value, path: &str, wanted: &str) -> Result<(), ConfigError> {
    if text(value, path)? == wanted { Ok(()) } else { Err(error(path, format!("must be {wanted:?}"))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_profile_chooses_weights_and_a_strategy() {
        let config = Config::read(&json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "podInitialBackoffSeconds": 2,
            "profiles": [{"schedulerName": "packer",
                "plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit", "weight": 5}, {"name": "TaintToleration"}]}},
                "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {
                    "type": "RequestedToCapacityRatio", "resources": [{"name": "nvidia.com/gpu", "weight": 3}],
                    "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}}}]}]
        }));
        let config = config.unwrap();
        let profile = &config.profiles[0];
        assert_eq!((profile.scheduler_name.as_str(), config.backoff_initial_ms), ("packer", 2000));
        assert_eq!(profile.weights, Weights { resources_fit: 5, taint_toleration: 3, ..Weights::NONE });
        assert_eq!(profile.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]));
        assert_eq!(profile.resources, [(ResourceName::Extended("nvidia.com/gpu".into()), 3)]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_path() {
        let fit = |args| json!({"profiles": [{"pluginConfig": [{"name": "NodeResourcesFit", "args": args}]}]});
        let ratio = |points| {
            fit(
                json!({"scoringStrategy": {"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": points}}}),
            )
        };
        let enabled = |plugin| json!({"profiles": [{"plugins": {"score": {"enabled": [plugin]}}}]});
        let cases = [
            (json!([]), "the file: must be an object"),
            (json!({"profile": []}), "profile: unknown field"),
            (json!({"profiles": []}), "profiles: Required value"),
            (json!({"kind": "Pod"}), "kind: must be \"KubeSchedulerConfiguration\""),
            (json!({"profiles": [{}, {}]}), "profiles[1].schedulerName: Duplicate value: \"default-scheduler\""),
            (
                json!({"profiles": [{"plugins": {"filter": {}}}]}),
                "profiles[0].plugins.filter: only the scores can be chosen: filters always hold",
            ),
            (
                enabled(json!({"name": "Best"})),
                "profiles[0].plugins.score.enabled[0].name: Not found: \"Best\" is no plugin that scores",
            ),
            (
                enabled(json!({"name": "NodeAffinity", "weight": 0})),
                "profiles[0].plugins.score.enabled[0].weight: must be an integer between 1 and 1000, inclusive",
            ),
            (
                enabled(json!({"name": "NodeAffinity", "weigth": 2})),
                "profiles[0].plugins.score.enabled[0].weigth: unknown field",
            ),
            (
                fit(json!({"scoringStrategy": {"type": "Best"}})),
                "profiles[0].pluginConfig[0].args.scoringStrategy.type: Unsupported value: \"Best\": supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"",
            ),
            (
                ratio(json!([{"utilization": 9, "score": 1}, {"utilization": 9, "score": 2}])),
                "profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape[1].utilization: values must be sorted in increasing order",
            ),
            (
                ratio(json!([{"utilization": 9, "score": 11}])),
                "profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape[0].score: must be an integer between 0 and 10, inclusive",
            ),
            (
                json!({"podInitialBackoffSeconds": 20}),
                "podMaxBackoffSeconds: must be at least podInitialBackoffSeconds",
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(Config::read(&value).unwrap_err().to_string(), expected);
        }
    }
}
