//! Which system calls a container may make: a profile, as data, becomes a program for the kernel.
//!
//! ```text
//!   CRI's SecurityProfile ─ choose ─> Unconfined | default.json | a file ─ profile ─> rules ─ compile ─> Filter
//! ```
//!
//! Everything is decided when the container is created; the program stands in its record, so that a later process in
//! it gets the very same one, whatever has become of the file. The shim loads it right before the exec.

mod bpf;
mod compile;
mod oci;
mod profile;
mod rules;

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use oci_spec::runtime::LinuxSeccomp;
use podbus_common_cri::runtime::security_profile::ProfileType;
use podbus_common_cri::runtime::{LinuxContainerSecurityContext, LinuxSandboxSecurityContext, SecurityProfile};

use self::compile::compile;
use self::profile::Profile;
use self::rules::{Place, resolve};
use crate::process::Invalid;
use crate::runtime::lock;

/// The default profile: containerd's and Docker's, which programs are tested with.
const DEFAULT: &str = include_str!("default.json");
/// No profile is near this.
const PROFILE_BYTES_MAX: u64 = 1 << 20;
/// Sets of capabilities whose default program is remembered: pods have one or two.
const REMEMBERED_MAX: usize = 32;

/// A program for the kernel. Empty: no filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Instructions of 8 bytes, as the kernel wants them.
    pub(crate) program: Bytes,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    Unconfined,
    Default,
    File(&'a str),
}

/// Makes filters, and remembers those of the default profile.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    standard: Mutex<HashMap<u64, Filter>>,
}

/// Whether a pod's pause is to have a filter of its own making.
#[expect(deprecated, reason = "older clients say it so")]
pub(crate) fn is_of_file(context: &LinuxSandboxSecurityContext) -> bool {
    !matches!(choose(context.seccomp.as_ref(), &context.seccomp_profile_path), Ok(Choice::Unconfined | Choice::Default))
}

impl Filters {
    /// That of a container with `capabilities`; where its request says nothing, the default profile.
    #[expect(deprecated, reason = "older clients say it so")]
    pub(crate) fn of_container(
        &self,
        context: &LinuxContainerSecurityContext,
        capabilities: u64,
    ) -> Result<Filter, Invalid> {
        self.find(context.seccomp.as_ref(), &context.seccomp_profile_path, capabilities)
    }

    /// That of a pause process, which has no capability. It runs nothing but our own program: no filter unless asked.
    #[expect(deprecated, reason = "older clients say it so")]
    pub(crate) fn of_pause(&self, context: &LinuxSandboxSecurityContext) -> Result<Filter, Invalid> {
        match (&context.seccomp, context.seccomp_profile_path.as_str()) {
            (None, "") => Ok(Filter::default()),
            _ if context.privileged => Ok(Filter::default()),
            (profile, deprecated) => self.find(profile.as_ref(), deprecated, 0),
        }
    }

    /// That of a container whose runtime handler compiles it itself; `None`: no filter.
    #[expect(deprecated, reason = "older clients say it so")]
    pub(crate) fn for_handler(
        context: &LinuxContainerSecurityContext,
        capabilities: u64,
    ) -> Result<Option<LinuxSeccomp>, Invalid> {
        let place = Place { capabilities, kernel: kernel() };
        match choose(context.seccomp.as_ref(), &context.seccomp_profile_path)? {
            _ if context.privileged => Ok(None),
            Choice::Unconfined => Ok(None),
            Choice::Default => oci::convert(DEFAULT, &place).map(Some),
            Choice::File(path) => {
                let text = read(path).map_err(|error| Invalid(format!("the seccomp profile {path:?}: {error}")))?;
                oci::convert(&text, &place).map(Some)
            }
        }
    }

    fn find(&self, profile: Option<&SecurityProfile>, deprecated: &str, capabilities: u64) -> Result<Filter, Invalid> {
        match choose(profile, deprecated)? {
            Choice::Unconfined => Ok(Filter::default()),
            Choice::Default => self.standard(capabilities),
            Choice::File(path) => {
                let text = read(path).map_err(|error| Invalid(format!("the seccomp profile {path:?}: {error}")))?;
                make(&text, capabilities)
                    .map_err(|Invalid(why)| Invalid(format!("the seccomp profile {path:?}: {why}")))
            }
        }
    }

    fn standard(&self, capabilities: u64) -> Result<Filter, Invalid> {
        let mut known = lock(&self.standard);
        if let Some(filter) = known.get(&capabilities) {
            return Ok(filter.clone());
        }
        let filter = make(DEFAULT, capabilities)?;
        if known.len() == REMEMBERED_MAX {
            known.clear();
        }
        known.insert(capabilities, filter.clone());
        Ok(filter)
    }
}

fn make(text: &str, capabilities: u64) -> Result<Filter, Invalid> {
    let profile = Profile::parse(text).map_err(|error| Invalid(error.to_string()))?;
    let place = Place { capabilities, kernel: kernel() };
    let program = compile(&resolve(&profile, &place)).map_err(|error| Invalid(error.to_string()))?;
    Ok(Filter { program: Bytes::from(program), flags: profile.flags })
}

fn choose<'a>(profile: Option<&'a SecurityProfile>, deprecated: &'a str) -> Result<Choice<'a>, Invalid> {
    let file = |path: &'a str| {
        let is_plain = path.starts_with('/') && !path.split('/').any(|part| part == "..") && !path.contains('\0');
        let refused = || Invalid(format!("the seccomp profile {path:?} is no absolute path"));
        is_plain.then_some(Choice::File(path)).ok_or_else(refused)
    };
    let Some(profile) = profile else {
        return match deprecated {
            "runtime/default" | "docker/default" => Ok(Choice::Default),
            "" | "unconfined" => Ok(Choice::Unconfined), // as CRI has it: who wants a profile says so
            other => match other.strip_prefix("localhost/") {
                Some(path) => file(path),
                None => Err(Invalid(format!("no seccomp profile {other:?}"))),
            },
        };
    };
    let path = profile.localhost_ref.as_str();
    let without_path = |choice| {
        let refused = || Invalid(format!("localhost_ref {path:?} of seccomp is set without the type Localhost"));
        path.is_empty().then_some(choice).ok_or_else(refused)
    };
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => without_path(Choice::Default),
        Ok(ProfileType::Unconfined) => without_path(Choice::Unconfined),
        Ok(ProfileType::Localhost) => file(path.strip_prefix("localhost/").unwrap_or(path)),
        Err(_) => Err(Invalid(format!("no type {} of a seccomp profile", profile.profile_type))),
    }
}

/// Reads a profile; whatever else the path leads to is not waited for.
fn read(path: &str) -> std::io::Result<String> {
    const O_NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(Path::new(path))?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > PROFILE_BYTES_MAX {
        return Err(std::io::Error::other("it is no file, or a very long one"));
    }
    let mut text = String::new();
    file.take(PROFILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Major and minor version of this kernel.
fn kernel() -> (u32, u32) {
    profile::version(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: ProfileType, path: &str) -> SecurityProfile {
        SecurityProfile { profile_type: kind.into(), localhost_ref: path.to_owned() }
    }

    #[test]
    fn the_message_counts_before_the_older_text_and_nothing_means_none() {
        let cases = [
            (None, "", Ok(Choice::Unconfined)),
            (None, "runtime/default", Ok(Choice::Default)),
            (None, "unconfined", Ok(Choice::Unconfined)),
            (None, "localhost//a/b", Ok(Choice::File("/a/b"))),
            (Some(message(ProfileType::Unconfined, "")), "runtime/default", Ok(Choice::Unconfined)),
            (Some(message(ProfileType::Localhost, "/a")), "", Ok(Choice::File("/a"))),
        ];
        for (profile, deprecated, expected) in &cases {
            assert_eq!(choose(profile.as_ref(), deprecated), *expected);
        }
    }

    #[test]
    fn a_path_that_is_empty_relative_or_without_its_type_is_refused() {
        let refused = [
            (Some(message(ProfileType::Localhost, "")), ""),
            (Some(message(ProfileType::Localhost, "a")), ""),
            (Some(message(ProfileType::Localhost, "/a/../b")), ""),
            (Some(message(ProfileType::RuntimeDefault, "/a")), ""),
            (Some(message(ProfileType::Unconfined, "/a")), ""),
            (None, "localhost/a"),
            (None, "default"),
        ];
        for (profile, deprecated) in &refused {
            assert!(choose(profile.as_ref(), deprecated).is_err(), "{profile:?} {deprecated}");
        }
        let missing = message(ProfileType::Localhost, "/nonexistent/profile.json");
        assert!(Filters::default().find(Some(&missing), "", 0).is_err());
    }

    #[test]
    fn the_default_profile_is_made_once_for_each_set_of_capabilities() {
        let filters = Filters::default();
        let filter = filters.find(None, "runtime/default", crate::capability::DEFAULT).unwrap();
        assert_eq!(
            filter.program.as_ptr(),
            filters.find(None, "runtime/default", crate::capability::DEFAULT).unwrap().program.as_ptr()
        );
        assert_ne!(filter.program, filters.find(None, "runtime/default", u64::MAX).unwrap().program);
        assert!(filter.program.len() < 8 * 1024, "{} bytes", filter.program.len());
    }
}
