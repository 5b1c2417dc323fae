//! The first process of a container, as image and request make it. Pure, but for the image's account files.

use std::path::Path;

use podbus_common_cri::runtime::{ContainerConfig, LinuxContainerSecurityContext, Signal};

use crate::capability;
use crate::image::ImageConfig;
use crate::record::ProcessBody;
use crate::user::{Accounts, User, id};

/// As every runtime has it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGTERM: i32 = 15;

/// Why a request makes no process: the client's fault, in words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(pub(crate) String);

/// Makes the process of `config` on an image with these layers, lowest first.
pub(crate) fn of<P: AsRef<Path>>(
    config: &ContainerConfig,
    image: &ImageConfig,
    layers: &[P],
    hostname: &str,
) -> Result<ProcessBody, Invalid> {
    let context = security(config);
    let user = user(&context, image, &Accounts::read(layers))?;
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let invalid = |error: capability::CapabilityError| Invalid(error.to_string());
    let held = capability::held();
    let ambient = capability::union(&capabilities.add_ambient_capabilities).map_err(invalid)?;
    let ambient = capability::check(held, ambient).map_err(invalid)?;
    let (add, drop) = (&capabilities.add_capabilities, &capabilities.drop_capabilities);
    let given = if context.privileged { held } else { capability::apply(held, add, drop).map_err(invalid)? | ambient };
    let directory = [&config.working_dir, &image.working_dir].into_iter().find(|dir| !dir.is_empty());
    let body = ProcessBody {
        arguments: arguments(config, image)?,
        environment: environment(config, image, hostname, &user.home),
        directory: directory.cloned().unwrap_or_else(|| "/".to_owned()),
        user: user.user,
        group: user.group,
        groups: user.groups,
        capabilities: given,
        ambient,
        no_new_privileges: context.no_new_privs,
        terminal: config.tty,
        ..ProcessBody::default()
    };
    refuse_nul(&body)?;
    Ok(body)
}

/// The request's security context; absent is the default one.
pub(crate) fn security(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

fn refuse_nul(body: &ProcessBody) -> Result<(), Invalid> {
    let texts = body.arguments.iter().chain(&body.environment).map(Vec::as_slice);
    if texts.chain([body.directory.as_bytes()]).any(|text| text.contains(&0)) {
        return Err(Invalid("a NUL byte in command, arguments, environment or working directory".to_owned()));
    }
    Ok(())
}

fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<Vec<u8>>, Invalid> {
    let mut words: Vec<&String> = Vec::new();
    if config.command.is_empty() {
        words.extend(&image.entrypoint);
        words.extend(if config.args.is_empty() { &image.cmd } else { &config.args });
    } else {
        words.extend(&config.command);
        words.extend(&config.args);
    }
    if words.is_empty() {
        return Err(Invalid("no command: neither the container nor its image has one".to_owned()));
    }
    Ok(words.into_iter().map(|word| word.clone().into_bytes()).collect())
}

/// The image's variables, then ours, then the request's; the last of a name counts.
fn environment(config: &ContainerConfig, image: &ImageConfig, hostname: &str, home: &str) -> Vec<Vec<u8>> {
    let mut list: Vec<Vec<u8>> = Vec::new();
    let mut set = |entry: Vec<u8>| {
        let name_end = entry.iter().position(|byte| *byte == b'=').map_or(entry.len(), |at| at + 1);
        let found = list.iter_mut().find(|known| known.starts_with(&entry[..name_end]));
        match found {
            Some(known) => *known = entry,
            None => list.push(entry),
        }
    };
    set(DEFAULT_PATH.as_bytes().to_vec());
    set(format!("HOME={home}").into_bytes());
    for entry in image.env.iter().filter(|entry| entry.contains('=')) {
        set(entry.clone().into_bytes());
    }
    set(format!("HOSTNAME={hostname}").into_bytes());
    if config.tty {
        set(b"TERM=xterm".to_vec());
    }
    for variable in &config.envs {
        set([variable.key.as_bytes(), b"=", &variable.value].concat());
    }
    list
}

fn user(context: &LinuxContainerSecurityContext, image: &ImageConfig, accounts: &Accounts) -> Result<User, Invalid> {
    let group = context.run_as_group.map(|group| id(group.value)).transpose()?.map(|group| group.to_string());
    let named = (!context.run_as_username.is_empty()).then_some(context.run_as_username.as_str());
    let mut user = match (&context.run_as_user, named) {
        (Some(_), Some(_)) => return Err(Invalid("run_as_user and run_as_username are both set".to_owned())),
        (Some(user), None) => accounts.find(&id(user.value)?.to_string(), group.as_deref()),
        (None, Some(name)) => accounts.find(name, group.as_deref()),
        (None, None) if group.is_some() => return Err(Invalid("run_as_group is set without a user".to_owned())),
        (None, None) => {
            let (user, group) = image.user.split_once(':').map_or((image.user.as_str(), None), |(u, g)| (u, Some(g)));
            accounts.find(user, group)
        }
    }
    .map_err(|error| Invalid(error.to_string()))?;
    const STRICT: i32 = 1;
    if context.supplemental_groups_policy == STRICT {
        user.groups = vec![user.group];
    }
    for group in &context.supplemental_groups {
        let group = id(*group)?;
        if !user.groups.contains(&group) {
            user.groups.push(group);
        }
    }
    Ok(user)
}

/// The signal that stops a container: the request's, the image's, SIGTERM.
pub(crate) fn stop_signal(requested: i32, image: Option<&str>) -> i32 {
    let by_request = Signal::try_from(requested)
        .ok()
        .filter(|signal| *signal != Signal::RuntimeDefault)
        .and_then(|signal| number(signal.as_str_name().trim_start_matches("SIGNAL_")));
    by_request.or_else(|| number(image?)).unwrap_or(SIGTERM)
}

/// The CRI's number of a signal, for answers.
pub(crate) fn cri_signal(signal: i32) -> i32 {
    let all = (1..=65).filter_map(|value| Signal::try_from(value).ok());
    let found = all.into_iter().find(|it| number(it.as_str_name().trim_start_matches("SIGNAL_")) == Some(signal));
    found.map_or(0, |signal| signal as i32)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, and as CRI writes it, `SIGRTMINPLUS3`.
fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str, word: &str| -> Option<i32> {
        let text = text.strip_prefix(word).unwrap_or(text);
        if text.is_empty() { Some(0) } else { text.trim_start_matches(['+', '-']).parse().ok() }
    };
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        return Some(34 + offset(rest, "PLUS")?);
    }
    if let Some(rest) = bare.strip_prefix("RTMAX") {
        return Some(64 - offset(rest, "MINUS")?);
    }
    const NAMES: [(&str, i32); 35] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("IOT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("POLL", 29),
        ("PWR", 30),
        ("SYS", 31),
        ("UNUSED", 31),
    ];
    NAMES.iter().find(|(known, _)| *known == bare).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use podbus_common_cri::runtime::KeyValue;

    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn command_and_arguments_replace_those_of_the_image_as_kubernetes_has_it() {
        let image = ImageConfig { entrypoint: words(&["/e"]), cmd: words(&["c"]), ..ImageConfig::default() };
        let cases: [(&[&str], &[&str], &[&str]); 4] = [
            (&[], &[], &["/e", "c"]),
            (&[], &["a"], &["/e", "a"]),
            (&["x"], &[], &["x"]),
            (&["x"], &["a"], &["x", "a"]),
        ];
        for (command, args, expected) in cases {
            let config = ContainerConfig { command: words(command), args: words(args), ..Default::default() };
            let expected: Vec<Vec<u8>> = expected.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(arguments(&config, &image), Ok(expected));
        }
        assert!(arguments(&ContainerConfig::default(), &ImageConfig::default()).is_err());
    }

    #[test]
    fn the_last_variable_of_a_name_counts() {
        let image = ImageConfig { env: words(&["PATH=/bin", "A=1"]), ..ImageConfig::default() };
        let envs = vec![KeyValue { key: "A".into(), value: b"2=3".to_vec() }];
        let config = ContainerConfig { envs, ..Default::default() };
        let list = environment(&config, &image, "web", "/root");
        assert_eq!(list, [&b"PATH=/bin"[..], b"HOME=/root", b"A=2=3", b"HOSTNAME=web"]);
    }

    #[test]
    fn stop_signals_are_understood_in_every_spelling() {
        let cases = [("SIGQUIT", 3), ("quit", 3), ("3", 3), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGNONE", 15)];
        for (name, expected) in cases {
            assert_eq!(stop_signal(0, Some(name)), expected, "{name}");
        }
        assert_eq!(stop_signal(Signal::Sigrtminplus3 as i32, Some("SIGQUIT")), 37);
        assert_eq!(cri_signal(15), Signal::Sigterm as i32);
    }

    #[test]
    fn a_group_without_a_user_is_refused() {
        use podbus_common_cri::runtime::Int64Value;
        let context = LinuxContainerSecurityContext {
            run_as_group: Some(Int64Value { value: 5 }),
            ..LinuxContainerSecurityContext::default()
        };
        assert!(user(&context, &ImageConfig::default(), &Accounts::default()).is_err());
    }
}
