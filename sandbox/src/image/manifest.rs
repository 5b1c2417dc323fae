//! The documents of an image: index, manifest and config, of OCI and of Docker. Pure.
//!
//! Unknown fields are left alone; a document that could be read in two ways is refused.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;
use super::limits::Limits;

/// Media types of documents, in the order in which a registry is asked for them.
pub(super) const DOCUMENT_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not JSON of the right shape.
    #[error("the {what} is not readable")]
    Json {
        /// Which document.
        what: &'static str,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// It says something that podbus does not take.
    #[error("the {what} is refused: {reason}")]
    Refused {
        /// Which document.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// A pointer to content.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
}

/// What a manifest is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// The platform of this program, in Go's words, which manifests use.
    pub(super) fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        let variant = cpu_level().map(|level| format!("v{level}"));
        Platform { os: "linux".into(), architecture: architecture.into(), variant }
    }

    /// The number of the variant; where none is said, what that stands for. 0: no variant that podbus knows.
    fn level(&self) -> u32 {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            (_, Some(variant)) if !variant.is_empty() => {
                let number = variant.strip_prefix('v').and_then(|number| number.split('.').next());
                number.and_then(|number| number.parse().ok()).unwrap_or(0)
            }
            ("amd64", _) => 1,
            ("arm64", _) => 8,
            ("arm", _) => 7,
            _ => 0,
        }
    }

    /// True if what is made for `other` runs here.
    pub(super) fn runs(&self, other: &Platform) -> bool {
        other.os == self.os && other.architecture == self.architecture && other.level() <= self.level()
    }
}

/// What the processor can, as the variants of amd64 name it (the levels of the x86-64 psABI).
#[cfg(target_arch = "x86_64")]
fn cpu_level() -> Option<u32> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    Some(1 + u32::from(v2) + u32::from(v3) + u32::from(v4))
}

/// Elsewhere what is common to all machines counts.
#[cfg(not(target_arch = "x86_64"))]
fn cpu_level() -> Option<u32> {
    None
}

/// An index or a manifest.
#[derive(Debug)]
pub(super) enum Document {
    /// Manifests to choose from.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// One image's parts.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    /// Lowest first.
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads an index or a manifest; which of them it is, its content says.
    pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, DocumentError> {
        const WHAT: &str = "manifest";
        let refused = |reason: &str| DocumentError::Refused { what: WHAT, reason: reason.to_owned() };
        check_size(WHAT, bytes, limits)?;
        let raw: RawDocument =
            serde_json::from_slice(bytes).map_err(|source| DocumentError::Json { what: WHAT, source })?;
        if raw.schema_version != 2 {
            return Err(refused("its schemaVersion is not 2: push the image anew with a current tool"));
        }
        let called_index = raw.media_type.as_deref().map(|kind| kind.contains(".index.") || kind.contains(".list."));
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) if called_index != Some(false) => Ok(Document::Index(manifests)),
            (None, Some(config), Some(layers)) if called_index != Some(true) => {
                if layers.len() > limits.layers {
                    return Err(refused(&format!("it has more than {} layers", limits.layers)));
                }
                if let Some(other) = layers.iter().find(|layer| !is_layer_type(&layer.media_type)) {
                    return Err(refused(&format!(
                        "it is no container image, it has parts of type {}",
                        other.media_type
                    )));
                }
                Ok(Document::Manifest(Manifest { config, layers }))
            }
            _ => Err(refused("it is neither clearly an index nor clearly a manifest")),
        }
    }
}

/// An archive in the clear, by any vendor's name; how it is compressed its first bytes say.
fn is_layer_type(media_type: &str) -> bool {
    media_type.is_empty() || (media_type.contains(".tar") && !media_type.contains("encrypted"))
}

/// The manifest of an index for this machine.
pub(super) fn choose<'a>(manifests: &'a [Descriptor], here: &Platform) -> Result<&'a Descriptor, DocumentError> {
    let fits = |descriptor: &&Descriptor| descriptor.platform.as_ref().is_some_and(|platform| here.runs(platform));
    // Of several variants the newest that runs here; of several of these the first.
    let level = |descriptor: &&Descriptor| descriptor.platform.as_ref().map_or(0, Platform::level);
    if let Some(found) = manifests.iter().filter(fits).min_by_key(|it| std::cmp::Reverse(level(it))) {
        return Ok(found);
    }
    match manifests {
        [only] if only.platform.is_none() => Ok(only),
        _ => {
            let mut offered: Vec<String> =
                manifests.iter().filter_map(|d| d.platform.as_ref()).map(ToString::to_string).collect();
            offered.retain(|platform| platform != "unknown/unknown"); // attestations
            let reason = format!("it has nothing for {here}, only for {}", offered.join(", "));
            Err(DocumentError::Refused { what: "index", reason })
        }
    }
}

/// What the config of an image says to the runtime.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// The process' defaults.
    pub(super) defaults: ProcessDefaults,
    /// Digests of the uncompressed layers, lowest first.
    pub(super) diff_ids: Vec<Digest>,
    /// Empty in configs that do not say.
    pub(super) platform: Platform,
}

/// `config` in an image's config.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ProcessDefaults {
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    pub(super) working_dir: Option<String>,
    pub(super) user: Option<String>,
    pub(super) stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    config: Option<ProcessDefaults>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl Config {
    /// Reads an image's config.
    pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, DocumentError> {
        const WHAT: &str = "image config";
        check_size(WHAT, bytes, limits)?;
        let raw: RawConfig =
            serde_json::from_slice(bytes).map_err(|source| DocumentError::Json { what: WHAT, source })?;
        let platform = Platform { os: raw.os, architecture: raw.architecture, variant: None };
        if !platform.os.is_empty() && platform.os != "linux" {
            let reason = format!("it is for {}, and podbus runs Linux", platform.os);
            return Err(DocumentError::Refused { what: WHAT, reason });
        }
        let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > limits.layers {
            let reason = format!("it has more than {} layers", limits.layers);
            return Err(DocumentError::Refused { what: WHAT, reason });
        }
        Ok(Config { defaults: raw.config.unwrap_or_default(), diff_ids, platform })
    }

    /// Fails unless the config names as many layers as there are.
    pub(super) fn check_layers(&self, layers: usize) -> Result<(), DocumentError> {
        if self.diff_ids.len() == layers {
            return Ok(());
        }
        let reason = format!("it names {} layers, and the image has {layers}", self.diff_ids.len());
        Err(DocumentError::Refused { what: "image config", reason })
    }
}

/// One image in the `manifest.json` of `docker save`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    /// The path of the config in the archive.
    pub(super) config: String,
    /// Names with tags.
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    /// Paths of the layers in the archive, lowest first.
    #[serde(default)]
    pub(super) layers: Option<Vec<String>>,
}

/// Reads the `manifest.json` of `docker save`.
pub(super) fn parse_docker(bytes: &[u8], limits: &Limits) -> Result<Vec<DockerImage>, DocumentError> {
    const WHAT: &str = "manifest.json";
    check_size(WHAT, bytes, limits)?;
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Json { what: WHAT, source })
}

fn check_size(what: &'static str, bytes: &[u8], limits: &Limits) -> Result<(), DocumentError> {
    if bytes.len() as u64 <= limits.document_bytes {
        return Ok(());
    }
    let reason = format!("it has more than {} bytes", limits.document_bytes);
    Err(DocumentError::Refused { what, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn descriptor(digest: &str, platform: Option<(&str, &str)>) -> serde_json::Value {
        let platform = platform.map(|(os, architecture)| serde_json::json!({"os": os, "architecture": architecture}));
        serde_json::json!({"mediaType": "a.layer.tar", "digest": digest, "size": 1, "platform": platform})
    }

    fn parse(value: &serde_json::Value) -> Result<Document, DocumentError> {
        Document::parse(value.to_string().as_bytes(), &Limits::default())
    }

    #[test]
    fn an_image_says_what_its_process_is_and_nothing_else() {
        let parse = |config: serde_json::Value| {
            let whole = serde_json::json!({"os": "linux", "rootfs": {"diff_ids": [A]}, "config": config});
            Config::parse(whole.to_string().as_bytes(), &Limits::default()).unwrap().defaults
        };
        let mut config = serde_json::json!({"Cmd": ["sh"], "User": "web"});
        let plain = format!("{:?}", parse(config.clone()));
        config["Labels"] = serde_json::json!({"io.kubernetes.cri.container-type": "sandbox", "podbus.privileged": "true",
            "containerd.io/restart.loguri": "binary:///bin/sh", "io.kubernetes.container.name": "other"});
        config["Volumes"] = serde_json::json!({"/../../etc": {}});
        config["ExposedPorts"] = serde_json::json!({"22/tcp": {}});
        config["Healthcheck"] = serde_json::json!({"Test": ["CMD", "/bin/sh"]});
        config["OnBuild"] = serde_json::json!(["RUN sh"]);
        config["Privileged"] = serde_json::json!(true);
        assert_eq!(format!("{:?}", parse(config)), plain);
    }

    #[test]
    fn a_document_is_read_in_one_way_or_not_at_all() {
        let one = descriptor(A, None);
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [one]});
        let manifest = serde_json::json!({"schemaVersion": 2, "config": one, "layers": [one]});
        assert!(matches!(parse(&index), Ok(Document::Index(_))));
        assert!(matches!(parse(&manifest), Ok(Document::Manifest(_))));
        let bad = [
            serde_json::json!({"schemaVersion": 2, "manifests": [one], "layers": [one], "config": one}),
            serde_json::json!({"schemaVersion": 2, "manifests": [one], "config": one}),
            serde_json::json!({"schemaVersion": 2, "manifests": [one], "mediaType": DOCUMENT_TYPES[1]}),
            serde_json::json!({"schemaVersion": 2, "config": one, "layers": [one], "mediaType": DOCUMENT_TYPES[2]}),
            serde_json::json!({"schemaVersion": 1, "config": one, "layers": [one]}),
            serde_json::json!({"schemaVersion": 2, "config": descriptor("sha256:../x", None), "layers": []}),
            serde_json::json!({"schemaVersion": 2}),
            serde_json::json!([]),
        ];
        for value in bad {
            assert!(parse(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn the_manifest_of_this_platform_is_chosen_and_others_are_named() {
        let here = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let read = |values: &[serde_json::Value]| -> Vec<Descriptor> {
            values.iter().map(|value| serde_json::from_value(value.clone()).unwrap()).collect()
        };
        let both = read(&[descriptor(A, Some(("linux", "arm64"))), descriptor(B, Some(("linux", "amd64")))]);
        assert_eq!(choose(&both, &here).unwrap().digest, B.parse().unwrap());
        assert_eq!(choose(&read(&[descriptor(A, None)]), &here).unwrap().digest, A.parse().unwrap());
        let other = read(&[descriptor(A, Some(("linux", "arm64"))), descriptor(B, Some(("unknown", "unknown")))]);
        let error = choose(&other, &here).unwrap_err().to_string();
        assert_eq!(error, "the index is refused: it has nothing for linux/amd64, only for linux/arm64");
    }

    #[test]
    fn of_several_variants_the_newest_that_runs_here_is_chosen() {
        let platform = |architecture: &str, variant: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: Some(variant.to_owned()).filter(|it| !it.is_empty()),
        };
        let chosen = |here: &Platform, offered: &[&str]| {
            let descriptors = offered.iter().enumerate().map(|(size, variant)| Descriptor {
                platform: Some(platform(&here.architecture, variant)),
                size: size as u64,
                ..serde_json::from_value(descriptor(A, None)).unwrap()
            });
            let descriptors: Vec<Descriptor> = descriptors.collect();
            choose(&descriptors, here).ok().map(|found| offered[usize::try_from(found.size).unwrap()].to_owned())
        };
        let v3 = platform("amd64", "v3");
        assert_eq!(chosen(&v3, &["", "v2", "v3", "v4"]).as_deref(), Some("v3"));
        assert_eq!(chosen(&v3, &["v4", ""]).as_deref(), Some(""));
        assert_eq!(chosen(&v3, &["v4"]), None);
        assert_eq!(chosen(&platform("arm", ""), &["v5", "v6", "v8", "v7"]).as_deref(), Some("v7"));
        assert_eq!(chosen(&platform("arm64", ""), &["v9", "v8"]).as_deref(), Some("v8"));
        assert!(Platform::here().runs(&Platform { variant: None, ..Platform::here() }));
    }

    #[test]
    fn limits_hold_at_the_limit_and_fail_beyond_it() {
        let layers = |count: usize| {
            let one = descriptor(A, None);
            serde_json::json!({"schemaVersion": 2, "config": one, "layers": vec![one.clone(); count]})
        };
        assert!(parse(&layers(500)).is_ok());
        assert!(parse(&layers(501)).is_err());
        let padded = |bytes: usize| {
            let mut text = layers(1).to_string();
            text.push_str(&" ".repeat(bytes - text.len()));
            Document::parse(text.as_bytes(), &Limits::default())
        };
        assert!(padded(4 << 20).is_ok());
        assert!(padded((4 << 20) + 1).is_err());
    }

    #[test]
    fn a_config_without_anything_has_no_defaults() {
        let config = Config::parse(br#"{"rootfs":{"type":"layers","diff_ids":null}}"#, &Limits::default()).unwrap();
        assert!(config.defaults.cmd.is_none() && config.diff_ids.is_empty());
        assert!(config.check_layers(0).is_ok() && config.check_layers(1).is_err());
        assert!(Config::parse(br#"{"os":"windows","rootfs":{}}"#, &Limits::default()).is_err());
    }
}
