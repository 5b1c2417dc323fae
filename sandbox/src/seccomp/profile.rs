//! The text of a profile: JSON as the OCI runtime specification has it, with Docker's conditions (`includes`,
//! `excludes`, `archMap`).

use serde::Deserialize;

/// `EPERM`: what a call gets that is refused without a number.
const EPERM: u32 = 1;
/// The kernel has no higher error number.
const ERRNO_MAX: u32 = 4095;
/// Without it the kernel slows down all that runs under a filter (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`).
const FLAG_SPEC_ALLOW: u32 = 4;
const FLAG_LOG: u32 = 2;

/// Why a text is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error("it is not a seccomp profile: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the action {0:?} is not supported")]
    Action(String),
    #[error("the flag {0:?} is not supported")]
    Flag(String),
    #[error("{0:?} is no capability")]
    Capability(String),
    #[error("{0:?} is no version of a kernel")]
    Kernel(String),
    #[error("an argument with the index {0}: a call has six")]
    Index(u32),
}

/// What happens to a call, as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Action(pub(super) u32);

impl Action {
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    const LOG: Self = Self(0x7ffc_0000);
    const TRAP: Self = Self(0x0003_0000);
    const KILL_THREAD: Self = Self(0);
    const KILL_PROCESS: Self = Self(0x8000_0000);
    const TRACE: u32 = 0x7ff0_0000;
    const ERRNO: u32 = 0x0005_0000;

    /// The call fails with this number.
    pub(super) const fn errno(number: u32) -> Self {
        Self(Self::ERRNO | number)
    }

    /// Whether the call is made.
    pub(super) fn lets_pass(self) -> bool {
        self == Self::ALLOW || self == Self::LOG || self.0 & 0xffff_0000 == Self::TRACE
    }

    fn parse(name: &str, errno: Option<u32>) -> Result<Self, ProfileError> {
        let errno = errno.unwrap_or(EPERM).min(ERRNO_MAX);
        Ok(match name {
            "SCMP_ACT_ALLOW" => Self::ALLOW,
            "SCMP_ACT_LOG" => Self::LOG,
            "SCMP_ACT_ERRNO" => Self::errno(errno),
            "SCMP_ACT_TRAP" => Self::TRAP,
            "SCMP_ACT_TRACE" => Self(Self::TRACE | errno),
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self::KILL_THREAD,
            "SCMP_ACT_KILL_PROCESS" => Self::KILL_PROCESS,
            other => return Err(ProfileError::Action(other.to_owned())), // SCMP_ACT_NOTIFY needs a listener
        })
    }
}

/// How an argument compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// `argument & value == value_two`.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    Masked,
}

/// What an argument of a call has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: Operator,
}

/// When a rule holds. What is not said holds always.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// All of these are held.
    pub(super) capabilities: Option<u64>,
    /// The machine is one of these, by Go's names.
    pub(super) machines: Vec<String>,
    pub(super) kernel: Option<(u32, u32)>,
}

/// What happens to some calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) names: Vec<String>,
    pub(super) action: Action,
    pub(super) arguments: Vec<Argument>,
    pub(super) includes: Condition,
    pub(super) excludes: Condition,
}

/// A profile.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) default: Action,
    /// Beside that of the machine, by the names of libseccomp.
    pub(super) architectures: Vec<String>,
    pub(super) rules: Vec<Rule>,
    pub(super) flags: u32,
}

impl Profile {
    pub(super) fn parse(text: &str) -> Result<Self, ProfileError> {
        let raw: RawProfile = serde_json::from_str(text)?;
        let mapped = raw.arch_map.unwrap_or_default().into_iter();
        let mapped = mapped.flat_map(|it| [vec![it.architecture], it.sub_architectures.unwrap_or_default()].concat());
        Ok(Self {
            default: Action::parse(&raw.default_action, raw.default_errno_ret)?,
            architectures: raw.architectures.unwrap_or_default().into_iter().chain(mapped).collect(),
            rules: raw.syscalls.unwrap_or_default().into_iter().map(Rule::parse).collect::<Result<_, _>>()?,
            flags: flags(&raw.flags.unwrap_or_default())?,
        })
    }
}

impl Rule {
    fn parse(raw: RawRule) -> Result<Self, ProfileError> {
        let arguments = raw.args.unwrap_or_default();
        if let Some(argument) = arguments.iter().find(|argument| argument.index > 5) {
            return Err(ProfileError::Index(argument.index));
        }
        let names = raw.names.unwrap_or_default().into_iter().chain(raw.name.filter(|name| !name.is_empty()));
        Ok(Self {
            names: names.collect(),
            action: Action::parse(&raw.action, raw.errno_ret)?,
            arguments,
            includes: Condition::parse(raw.includes.unwrap_or_default())?,
            excludes: Condition::parse(raw.excludes.unwrap_or_default())?,
        })
    }
}

impl Condition {
    fn parse(raw: RawCondition) -> Result<Self, ProfileError> {
        let names = raw.caps.unwrap_or_default();
        let set = crate::capability::union(&names).map_err(|_| ProfileError::Capability(names.join(" ")))?;
        let kernel = raw.min_kernel.filter(|text| !text.is_empty());
        let kernel = kernel.map(|text| version(&text).ok_or(ProfileError::Kernel(text))).transpose()?;
        Ok(Self { capabilities: (!names.is_empty()).then_some(set), machines: raw.arches.unwrap_or_default(), kernel })
    }
}

fn flags(names: &[String]) -> Result<u32, ProfileError> {
    names.iter().try_fold(FLAG_SPEC_ALLOW, |flags, name| match name.as_str() {
        "SECCOMP_FILTER_FLAG_LOG" => Ok(flags | FLAG_LOG),
        // A process of one thread has none to tell, and the other is on anyway.
        "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(flags),
        other => Err(ProfileError::Flag(other.to_owned())),
    })
}

/// Major and minor of `6.18.4-something`.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProfile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<RawArchitecture>>,
    flags: Option<Vec<String>>,
    syscalls: Option<Vec<RawRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawArchitecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRule {
    names: Option<Vec<String>>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<RawCondition>,
    excludes: Option<RawCondition>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct RawCondition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_of_oci_and_docker_are_read() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_X86_64",
            "subArchitectures": ["SCMP_ARCH_X86"]}], "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": null,
             "excludes": {"caps": ["CAP_SYS_ADMIN"], "minKernel": "4.8"}}]}"#;
        let profile = Profile::parse(text).unwrap();
        assert_eq!(profile.architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
        assert_eq!((profile.default, profile.flags), (Action::ALLOW, 6));
        assert_eq!(profile.rules[0].action, Action::errno(13));
        let excludes = Condition { capabilities: Some(1 << 21), kernel: Some((4, 8)), ..Condition::default() };
        assert_eq!(profile.rules[0].excludes, excludes);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_X"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW",
                "includes": {"caps": ["CAP_NONE"]}}]}"#,
        ] {
            assert!(Profile::parse(text).is_err(), "{text}");
        }
    }
}
