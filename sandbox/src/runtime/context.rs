//! What a request asks of isolation: each field is honoured or refused, here and before anything exists.
//!
//! Pure: what the node has comes as an argument.

use podbus_common_cri::runtime::security_profile::ProfileType;
use podbus_common_cri::runtime::{
    ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig, SeLinuxOption,
    SecurityProfile, SupplementalGroupsPolicy,
};

use crate::process::{Invalid, security};
use crate::user::id;
use crate::userns::Mapping;

/// The longest name: that of a DNS subdomain.
const NAME_BYTES_MAX: usize = 253;

/// A name becomes the argument of a network plugin, a line of a file, a part of what others print: nothing in it may
/// mean something there.
fn check_name(what: &str, name: &str) -> Result<(), Invalid> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let is_edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if bytes.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) || !is_edge(bytes.first()) {
        return Err(Invalid(format!(
            "the {what} {name:?} is not {NAME_BYTES_MAX} bytes at most of letters, digits, `_`, `.` and `-`, the first a letter or digit"
        )));
    }
    Ok(())
}

/// A path that is what it says: no part of it leads back.
fn check_plain(what: &str, path: &str, is_absolute: bool) -> Result<(), Invalid> {
    let leads_back = path.contains('\0') || path.split('/').any(|part| part == "..");
    if path.is_empty() || (path.starts_with('/') == is_absolute && !leads_back) {
        return Ok(());
    }
    let kind = if is_absolute { "an absolute" } else { "a relative" };
    Err(Invalid(format!("the {what} {path:?} is not {kind} path without `..`")))
}

/// Refuses a sandbox that asks for what cannot be.
pub(super) fn check_sandbox(config: &PodSandboxConfig) -> Result<(), Invalid> {
    let metadata = config.metadata.clone().unwrap_or_default();
    let names = [("name", &metadata.name), ("namespace", &metadata.namespace), ("uid", &metadata.uid)];
    names.into_iter().try_for_each(|(what, name)| check_name(&format!("{what} of the sandbox"), name))?;
    check_name("hostname", &config.hostname)?;
    check_plain("log_directory", &config.log_directory, true)?;
    let linux = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let Some(context) = linux else { return Ok(()) };
    let options = context.namespace_options.clone().unwrap_or_default();
    for (name, mode) in [("network", options.network), ("ipc", options.ipc)] {
        check_mode(name, mode, &[NamespaceMode::Pod, NamespaceMode::Node])?;
    }
    check_mode("pid", options.pid, &[NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Node])?;
    if let Some(mapping) = Mapping::of(&options)? {
        mapping.check_pod(&options)?;
        let users = context.run_as_user.iter().map(|it| it.value);
        let groups = context.run_as_group.iter().map(|it| it.value).chain(context.supplemental_groups.clone());
        mapping.check(users, groups)?;
    }
    if context.run_as_group.is_some() && context.run_as_user.is_none() {
        return Err(Invalid("run_as_group is set without run_as_user".to_owned()));
    }
    let numbers = context.run_as_user.iter().chain(&context.run_as_group).map(|it| it.value);
    numbers.chain(context.supplemental_groups.iter().copied()).try_for_each(|number| id(number).map(drop))?;
    check_selinux(context.selinux_options.as_ref())?;
    check_apparmor(context.apparmor.as_ref(), "")
}

/// Refuses a container that asks for what cannot be, or for more than its sandbox has.
pub(super) fn check_container(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> Result<(), Invalid> {
    check_name("name of the container", &config.metadata.clone().unwrap_or_default().name)?;
    check_plain("log_path", &config.log_path, false)?;
    if let Some(device) = config.cdi_devices.first() {
        return Err(Invalid(format!("the CDI device {:?}: this runtime reads no CDI specifications", device.name)));
    }
    let context = security(config);
    let of_sandbox = sandbox.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
    if context.privileged && !of_sandbox.privileged {
        return Err(Invalid("a privileged container needs a privileged sandbox".to_owned()));
    }
    if context.privileged && of_sandbox.namespace_options.as_ref().is_some_and(has_own_users) {
        return Err(Invalid(
            "a privileged container has the node's devices, and cannot in a pod with a user namespace of its own: add capabilities"
                .to_owned(),
        ));
    }
    if SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy).is_err() {
        return Err(Invalid(format!("no supplemental_groups_policy {}", context.supplemental_groups_policy)));
    }
    check_namespaces(&of_sandbox.namespace_options.unwrap_or_default(), &context)?;
    for path in context.masked_paths.iter().chain(&context.readonly_paths) {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Invalid(format!("the masked or read-only path {path:?} is not absolute")));
        }
    }
    check_selinux(context.selinux_options.as_ref())?;
    #[expect(deprecated, reason = "older clients say it so")]
    check_apparmor(context.apparmor.as_ref(), &context.apparmor_profile)
}

fn has_own_users(options: &NamespaceOption) -> bool {
    Mapping::of(options).is_ok_and(|mapping| mapping.is_some())
}

/// A container is never let out further than its sandbox; network and IPC are the sandbox's whatever it says.
fn check_namespaces(pods: &NamespaceOption, context: &LinuxContainerSecurityContext) -> Result<(), Invalid> {
    let Some(own) = &context.namespace_options else { return Ok(()) };
    for (name, own, pods) in [("network", own.network, pods.network), ("ipc", own.ipc, pods.ipc)] {
        check_mode(name, own, &[NamespaceMode::Pod, NamespaceMode::Node])?;
        check_node(name, own, pods)?;
    }
    check_node("pid", own.pid, pods.pid)?;
    match NamespaceMode::try_from(own.pid) {
        Ok(NamespaceMode::Target) if own.target_id.is_empty() => {
            return Err(Invalid("the pid namespace of a target container is asked for without target_id".to_owned()));
        }
        Ok(_) => {}
        Err(_) => return Err(Invalid(format!("no mode {} of a pid namespace", own.pid))),
    }
    // One that says nothing of user namespaces has its sandbox's.
    if own.userns_options.is_some() && Mapping::of(own)? != Mapping::of(pods)? {
        return Err(Invalid("the container's user namespace is not that of its sandbox".to_owned()));
    }
    Ok(())
}

fn check_node(name: &str, own: i32, pods: i32) -> Result<(), Invalid> {
    let node = NamespaceMode::Node as i32;
    if own == node && pods != node {
        return Err(Invalid(format!(
            "the container asks for the node's {name} namespace, which its sandbox does not have"
        )));
    }
    Ok(())
}

fn check_mode(name: &str, mode: i32, allowed: &[NamespaceMode]) -> Result<(), Invalid> {
    if allowed.iter().any(|it| *it as i32 == mode) {
        return Ok(());
    }
    let mode = NamespaceMode::try_from(mode).map_or_else(|_| mode.to_string(), |it| it.as_str_name().to_owned());
    Err(Invalid(format!("the {name} namespace cannot have the mode {mode} here")))
}

/// Labels are not set: to take them for set would be worse than a refusal. Empty ones ask for nothing.
fn check_selinux(options: Option<&SeLinuxOption>) -> Result<(), Invalid> {
    let Some(options) = options else { return Ok(()) };
    if [&options.user, &options.role, &options.r#type, &options.level].iter().all(|it| it.is_empty()) {
        return Ok(());
    }
    Err(Invalid("selinux_options are set, and this runtime sets no SELinux labels".to_owned()))
}

/// A profile with a name has to hold, and none can. `deprecated` counts without the message.
fn check_apparmor(profile: Option<&SecurityProfile>, deprecated: &str) -> Result<(), Invalid> {
    let refused = |name: &str| {
        let name = name.strip_prefix("localhost/").unwrap_or(name);
        Err(Invalid(format!("the AppArmor profile {name:?}: this runtime, or this node's kernel, applies none")))
    };
    let Some(profile) = profile else {
        return match deprecated {
            "" | "runtime/default" | "unconfined" => Ok(()),
            other => refused(other),
        };
    };
    let name = profile.localhost_ref.as_str();
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault | ProfileType::Unconfined) if name.is_empty() => Ok(()),
        Ok(ProfileType::Localhost) => refused(name),
        _ => Err(Invalid(format!("the AppArmor profile {name:?} has a type that it does not go with"))),
    }
}

#[cfg(test)]
mod tests {
    use podbus_common_cri::runtime::{
        CdiDevice, Int64Value, LinuxContainerConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    };

    use super::*;

    fn sandbox(context: LinuxSandboxSecurityContext) -> PodSandboxConfig {
        let linux = LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
        PodSandboxConfig { linux: Some(linux), ..Default::default() }
    }

    fn container(context: LinuxContainerSecurityContext) -> ContainerConfig {
        let linux = LinuxContainerConfig { security_context: Some(context), ..Default::default() };
        ContainerConfig { linux: Some(linux), ..Default::default() }
    }

    fn profile(kind: ProfileType, name: &str) -> Option<SecurityProfile> {
        Some(SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
    }

    #[test]
    fn a_name_that_could_mean_something_elsewhere_is_refused() {
        let long = "a".repeat(254);
        for name in ["../a", "a/b", "a;IP=10.0.0.1", "a=b", "a\nb", "a\0b", "a b", "-a", ".a", "\u{e9}", &long] {
            assert!(check_name("name", name).is_err(), "{name:?}");
        }
        for name in ["", "a", "web-0.default", "A_1", "0123", &long[1..]] {
            assert_eq!(check_name("name", name), Ok(()));
        }
        for path in ["../a", "a/../../b", "/a", "a\0b", ".."] {
            assert!(check_plain("log_path", path, false).is_err(), "{path:?}");
        }
        for path in ["", "a.log", "a/0.log", "a..b/0.log"] {
            assert_eq!(check_plain("log_path", path, false), Ok(()));
        }
        assert!(check_plain("log_directory", "var/log", true).is_err());
        assert_eq!(check_plain("log_directory", "/var/log/pods", true), Ok(()));
    }

    #[test]
    fn a_sandbox_that_asks_for_what_cannot_be_is_refused() {
        let options = |network: NamespaceMode, pid: NamespaceMode| {
            Some(NamespaceOption { network: network.into(), pid: pid.into(), ..Default::default() })
        };
        let (pod, own) = (NamespaceMode::Pod, NamespaceMode::Container);
        let base = LinuxSandboxSecurityContext::default;
        assert_eq!(check_sandbox(&sandbox(base())), Ok(()));
        let good = LinuxSandboxSecurityContext { namespace_options: options(pod, own), ..base() };
        assert_eq!(check_sandbox(&sandbox(good)), Ok(()));
        let number = |value| Some(Int64Value { value });
        let bad = [
            LinuxSandboxSecurityContext { namespace_options: options(own, pod), ..base() },
            LinuxSandboxSecurityContext { namespace_options: options(pod, NamespaceMode::Target), ..base() },
            LinuxSandboxSecurityContext { run_as_group: number(1), ..base() },
            LinuxSandboxSecurityContext { run_as_user: number(-1), ..base() },
            LinuxSandboxSecurityContext { supplemental_groups: vec![1 << 31], ..base() },
            LinuxSandboxSecurityContext { apparmor: profile(ProfileType::Localhost, "mine"), ..base() },
            LinuxSandboxSecurityContext {
                selinux_options: Some(SeLinuxOption { level: "s0:c1".into(), ..Default::default() }),
                ..base()
            },
        ];
        for context in bad {
            assert!(check_sandbox(&sandbox(context.clone())).is_err(), "{context:?}");
        }
    }

    #[test]
    fn a_container_that_asks_for_what_cannot_be_is_refused() {
        let base = LinuxContainerSecurityContext::default;
        let pod = sandbox(LinuxSandboxSecurityContext::default());
        let mode = |pid: NamespaceMode, target_id: &str| {
            Some(NamespaceOption { pid: pid.into(), target_id: target_id.to_owned(), ..Default::default() })
        };
        let good = [
            base(),
            LinuxContainerSecurityContext { namespace_options: mode(NamespaceMode::Target, "a"), ..base() },
            LinuxContainerSecurityContext { apparmor: profile(ProfileType::RuntimeDefault, ""), ..base() },
            LinuxContainerSecurityContext { selinux_options: Some(SeLinuxOption::default()), ..base() },
        ];
        for context in good {
            assert_eq!(check_container(&pod, &container(context.clone())), Ok(()), "{context:?}");
        }
        let bad = [
            LinuxContainerSecurityContext { privileged: true, ..base() },
            LinuxContainerSecurityContext { supplemental_groups_policy: 7, ..base() },
            LinuxContainerSecurityContext { namespace_options: mode(NamespaceMode::Target, ""), ..base() },
            LinuxContainerSecurityContext { namespace_options: mode(NamespaceMode::Node, ""), ..base() },
            LinuxContainerSecurityContext { masked_paths: vec!["proc/kcore".into()], ..base() },
            LinuxContainerSecurityContext { apparmor: profile(ProfileType::Localhost, "mine"), ..base() },
            LinuxContainerSecurityContext { apparmor: profile(ProfileType::RuntimeDefault, "mine"), ..base() },
        ];
        for context in bad {
            assert!(check_container(&pod, &container(context.clone())).is_err(), "{context:?}");
        }
        let device = CdiDevice { name: "vendor.com/gpu=0".into() };
        let config = ContainerConfig { cdi_devices: vec![device], ..Default::default() };
        assert!(check_container(&pod, &config).is_err());
    }
}
