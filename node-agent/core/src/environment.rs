//! The environment, command and arguments of a container: `$(NAME)` expansion as Kubernetes does it.

use podbus_common::model::{Container, Pod};

/// The variables of a container in order, expanded; of several with one name the last wins, in its own place.
///
/// A value may refer to variables before it. `HOSTNAME` and what the image sets are the runtime's business.
pub fn environment(container: &Container) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::with_capacity(container.env.len());
    for variable in &container.env {
        let value = expand(&variable.value, &variables);
        variables.retain(|(name, _)| *name != variable.name);
        variables.push((variable.name.clone(), value));
    }
    variables
}

/// Command or arguments with the container's whole environment in place.
pub fn expand_all(words: &[String], environment: &[(String, String)]) -> Vec<String> {
    words.iter().map(|word| expand(word, environment)).collect()
}

/// The pod's hostname: `hostname`, else its name, cut to 63 characters without a trailing `-` or `.`.
pub fn hostname(pod: &Pod) -> String {
    const CHARACTERS_MAX: usize = 63;
    let asked = if pod.spec.hostname.is_empty() { &pod.metadata.name } else { &pod.spec.hostname };
    match asked.char_indices().nth(CHARACTERS_MAX) {
        None => asked.clone(),
        Some((end, _)) => asked[..end].trim_end_matches(['-', '.']).to_owned(),
    }
}

/// The kubelet's /etc/hosts for a pod with the address `ip`.
pub fn etc_hosts(hostname: &str, ip: &str) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n"
        .to_owned();
    if !ip.is_empty() {
        text.push_str(&format!("{ip}\t{hostname}\n"));
    }
    text
}

/// `$(NAME)` becomes the value, `$$` becomes `$`; what is unknown or unfinished stays as it is written.
fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match (after.strip_prefix('$'), name) {
            (Some(after), _) => {
                out.push('$');
                rest = after;
            }
            (None, Some((name, after))) => {
                match variables.iter().rev().find(|(n, _)| n == name) {
                    Some((_, value)) => out.push_str(value),
                    None => out.push_str(&format!("$({name})")),
                }
                rest = after;
            }
            (None, None) => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use podbus_common::model::EnvVar;
    use proptest::prelude::*;

    use super::*;

    fn container(env: &[(&str, &str)]) -> Container {
        let env = env.iter().map(|(name, value)| EnvVar { name: (*name).into(), value: (*value).into() }).collect();
        Container { env, ..Container::default() }
    }

    #[test]
    fn references_are_expanded_as_kubernetes_does() {
        let known = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
        let cases = [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(X)", "$(X)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("$$", "$"),
            ("$(B)", "$(A)"), // no recursion
            ("$($(A))", "$($(A))"),
            ("$()", "$()"),
            ("ü$(A)ü", "ü1ü"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn a_variable_sees_those_before_it_and_the_last_of_a_name_wins() {
        let env = environment(&container(&[("A", "1"), ("B", "$(A)$(C)"), ("C", "3"), ("A", "$(A)2")]));
        let pairs: Vec<_> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("B", "1$(C)"), ("C", "3"), ("A", "12")]);
        assert_eq!(expand_all(&["$(B)-$(A)".into()], &env), ["1$(C)-12"]);
    }

    #[test]
    fn a_long_hostname_is_cut_and_ends_in_a_letter() {
        let named = |name: &str| {
            let mut pod = crate::fixtures::pod(&["a"]);
            pod.metadata.name = name.into();
            hostname(&pod)
        };
        assert_eq!(named("web"), "web");
        assert_eq!(named(&"a".repeat(80)), "a".repeat(63));
        assert_eq!(named(&format!("{}-.b", "a".repeat(61))), "a".repeat(61));
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_is_never_changed(text in "[^$]*") {
            prop_assert_eq!(expand(&text, &[("A".into(), "1".into())]), text);
        }

        #[test]
        fn expansion_never_panics(text in "[$()A-Cü]*") {
            expand(&text, &[("A".into(), "$(B)".into())]);
        }
    }
}
