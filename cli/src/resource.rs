//! `po`, `pod`, `pods`, `pod/web`: how a person names kinds and objects.

use podbus_common::model::{Pod, Timestamp};

use crate::failure::{Failure, Outcome};

/// A kind that verbs know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Pods.
    Pod,
    /// Nodes.
    Node,
    /// Events; kept by the bus, not by the scheduler's API.
    Event,
}

impl Kind {
    /// `pods`: the token of the API, and of `No resources found`.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Node => "nodes",
            Self::Event => "events",
        }
    }

    /// `pod`, as in `pod/web`.
    pub(crate) fn singular(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Event => "event",
        }
    }

    /// Whether its objects live in namespaces.
    pub(crate) fn is_namespaced(self) -> bool {
        !matches!(self, Self::Node)
    }

    /// Singular, plural and short names are equal.
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        match text.to_ascii_lowercase().as_str() {
            "po" | "pod" | "pods" => Ok(Self::Pod),
            "no" | "node" | "nodes" => Ok(Self::Node),
            "ev" | "event" | "events" => Ok(Self::Event),
            _ => Err(Failure::local(format!("the server doesn't have a resource type \"{text}\""))
                .hint("podbus knows pods (po), nodes (no) and events (ev)")),
        }
    }
}

/// What a verb was pointed at: kinds as a whole, or objects by name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `get po,no`.
    Kinds(Vec<Kind>),
    /// `get pod web api`, `get pod/web node/node-1`.
    Objects(Vec<(Kind, String)>),
}

impl Target {
    /// Reads `TYPE[,TYPE] [NAME...]` or `TYPE/NAME...`.
    pub(crate) fn parse(words: &[String]) -> Outcome<Self> {
        let Some(first) = words.first() else {
            return Err(Failure::local("say what: pods (po), nodes (no) or events (ev)"));
        };
        if words.iter().any(|word| word.contains('/')) {
            return words.iter().map(|word| parse_slash(word)).collect::<Outcome<_>>().map(Self::Objects);
        }
        let kinds = first.split(',').map(Kind::parse).collect::<Outcome<Vec<_>>>()?;
        let names = &words[1..];
        match (kinds.as_slice(), names) {
            (_, []) => Ok(Self::Kinds(kinds)),
            ([kind], names) => Ok(Self::Objects(names.iter().map(|name| (*kind, name.clone())).collect())),
            (_, _) => Err(Failure::local("names need one type: write TYPE/NAME for several types")),
        }
    }

    /// Whether rows must say their kind.
    pub(crate) fn is_mixed(&self) -> bool {
        match self {
            Self::Kinds(kinds) => kinds.len() > 1,
            Self::Objects(objects) => objects.windows(2).any(|pair| pair[0].0 != pair[1].0),
        }
    }
}

fn parse_slash(word: &str) -> Outcome<(Kind, String)> {
    match word.split_once('/') {
        Some((kind, name)) if !name.is_empty() && !name.contains('/') => Ok((Kind::parse(kind)?, name.to_owned())),
        Some(_) => Err(Failure::local(format!(
            "arguments in resource/name form must have a single resource and name, not `{word}`"
        ))),
        None => Err(Failure::local(
            "there is no need to specify a resource type as a separate argument when passing arguments in \
             resource/name form (e.g. 'podbus get pod/<name>' instead of 'podbus get pod pod/<name>')",
        )),
    }
}

/// `web`, `pod/web`, `po/web`: for verbs about pods only.
pub(crate) fn pod_name(text: &str) -> Outcome<String> {
    if !text.contains('/') {
        return Ok(text.to_owned());
    }
    match parse_slash(text)? {
        (Kind::Pod, name) => Ok(name),
        (kind, _) => Err(Failure::local(format!("`{text}` is a {}, not a pod", kind.singular()))),
    }
}

/// The node of a pod, where there is one.
pub(crate) fn node_of(pod: &Pod) -> Outcome<&str> {
    let (name, node) = (&pod.metadata.name, &pod.spec.node_name);
    if node.is_empty() {
        return Err(Failure::local(format!("pod {name} runs on no node yet"))
            .hint(format!("`podbus describe pod {name}` says what it waits for")));
    }
    Ok(node)
}

/// What a list says that is empty; `None`: of all namespaces.
pub(crate) fn nothing_found(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("No resources found in {namespace} namespace."),
        None => "No resources found".to_owned(),
    }
}

/// The clock, read at the edge.
pub(crate) fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome<Target> {
        Target::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_type_and_names_can_be_written_in_every_form_of_kubectl() {
        let web = || Target::Objects(vec![(Kind::Pod, "web".into())]);
        for text in ["pod web", "po web", "pods web", "pod/web", "PO/web"] {
            assert_eq!(parse(text).unwrap(), web(), "{text}");
        }
        assert_eq!(parse("po,no").unwrap(), Target::Kinds(vec![Kind::Pod, Kind::Node]));
        let mixed = parse("pod/web no/node-1").unwrap();
        assert!(mixed.is_mixed());
        for text in ["", "deploy", "pod pod/web", "po,no web", "pod/"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_verb_about_pods_refuses_a_node() {
        assert_eq!(pod_name("pod/web").unwrap(), "web");
        assert_eq!(pod_name("web").unwrap(), "web");
        assert!(pod_name("node/web").is_err());
    }
}
