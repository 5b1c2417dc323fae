//! Who may do what on the bus: lists of subjects, which nats-server itself enforces.
//!
//! Only allow lists: what is not named is refused. Nobody has `allow_responses`, with which the reply subject of a
//! request is not checked: who answers may publish to inboxes, and reads none but its own.

use std::fmt;

use crate::subject::{self, PodStream, Verb, token};

/// What a user of the bus is for. `Display` and [`Role::parse`] are the two halves of a user's name: `node.node-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Schedulers, the only ones who write to the store.
    Scheduler,
    /// The agent of this node: its own subjects, and nothing stored.
    Node(String),
    /// A person who may do everything that the API and the nodes offer.
    Admin(String),
    /// Who works in this namespace alone.
    Team(String),
    /// Who reads, and changes nothing: dashboards, too.
    Viewer(String),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheduler => f.write_str("scheduler"),
            Self::Node(name) => write!(f, "node.{name}"),
            Self::Admin(name) => write!(f, "admin.{name}"),
            Self::Team(namespace) => write!(f, "team.{namespace}"),
            Self::Viewer(name) => write!(f, "viewer.{name}"),
        }
    }
}

/// What a user may publish and what it may subscribe to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// Subjects, with wildcards.
    pub publish: Vec<String>,
    /// Subjects, with wildcards.
    pub subscribe: Vec<String>,
}

/// One user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    /// What it is for.
    pub role: Role,
    /// The public half of its nkey: `U...`.
    pub key: String,
}

/// The subject beneath which a user has its inboxes.
pub fn inbox_prefix(key: &str) -> String {
    format!("{}{key}", subject::INBOX)
}

impl Role {
    /// Reads a user's name; `None` of what is none.
    pub fn parse(name: &str) -> Option<Self> {
        if name == "scheduler" {
            return Some(Self::Scheduler);
        }
        let (role, name) = name.split_once('.').filter(|(_, name)| !name.is_empty())?;
        let of = match role {
            "node" => Self::Node,
            "admin" => Self::Admin,
            "team" => Self::Team,
            "viewer" => Self::Viewer,
            _ => return None,
        };
        Some(of(name.to_owned()))
    }

    /// What it may do, beside its own inboxes.
    fn grants(&self) -> Grants {
        let any_inbox = format!("{}>", subject::INBOX);
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        match self {
            Self::Scheduler => Grants {
                publish: own(&["podbus.node.*.assign", subject::EVENTS_ALL, "$KV.podbus.>", "$JS.>", &any_inbox]),
                subscribe: own(&[
                    subject::API_ALL,
                    subject::STATUS_ALL,
                    subject::SYNC_ALL,
                    subject::HEARTBEAT_ALL,
                    "$SRV.>",
                ]),
            },
            Self::Node(node) => Grants {
                publish: vec![subject::sync(node), subject::heartbeat(node), subject::status(node), any_inbox],
                subscribe: PodStream::ALL
                    .map(|kind| subject::pod_stream_all(node, kind))
                    .into_iter()
                    .chain([subject::assign(node), subject::images(node)])
                    .collect(),
            },
            Self::Admin(_) => {
                let streams = PodStream::ALL.map(|kind| subject::pod_stream("*", "*", kind));
                person([vec![subject::API_ALL.to_owned(), subject::images("*")], streams.into()].concat(), None)
            }
            Self::Team(namespace) => {
                let streams = PodStream::ALL.map(|kind| subject::pod_stream("*", namespace, kind));
                let nodes = [Verb::Get, Verb::List, Verb::Watch].map(|verb| subject::api(None, "nodes", verb));
                let api = format!("podbus.api.v1.{}.>", token(namespace));
                person([vec![api], nodes.into(), streams.into()].concat(), Some(namespace))
            }
            Self::Viewer(_) => {
                let reads = [Verb::Get, Verb::List, Verb::Watch, Verb::Explain, Verb::Plan];
                let reads = reads.map(|verb| subject::api(Some("*"), "*", verb));
                let streams = [PodStream::Logs, PodStream::Stats].map(|kind| subject::pod_stream("*", "*", kind));
                person([reads.to_vec(), streams.into()].concat(), None)
            }
        }
    }
}

/// What each person may do beside `publish`: answer nodes, see who serves, and read the events of a namespace, or all.
fn person(mut publish: Vec<String>, namespace: Option<&str>) -> Grants {
    let stream = subject::EVENTS_STREAM;
    let events = subject::events_of(namespace);
    // The filter is part of the subject, so that a consumer sees no more than that.
    let consumer = namespace.map_or_else(|| ">".to_owned(), |_| format!("*.{events}"));
    publish.extend([
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
        format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
        "$SRV.>".to_owned(),
        format!("{}>", subject::INBOX),
    ]);
    Grants { publish, subscribe: vec![events, subject::HEARTBEAT_ALL.to_owned()] }
}

impl User {
    /// What it may do.
    pub fn grants(&self) -> Grants {
        let mut grants = self.role.grants();
        grants.subscribe.push(format!("{}.>", inbox_prefix(&self.key)));
        grants
    }
}

/// The accounts of a nats-server configuration in which only `users` may do anything: a file to `include`.
pub fn accounts(users: &[User]) -> String {
    let list = |subjects: &[String]| {
        let lines: Vec<_> = subjects.iter().map(|subject| format!("            {subject:?}\n")).collect();
        format!("[\n{}          ]", lines.concat())
    };
    let user = |user: &User| {
        let Grants { publish, subscribe } = user.grants();
        format!(
            "      # {}\n      {{\n        nkey: {}\n        permissions: {{\n          publish: {}\n          subscribe: {}\n        }}\n      }}\n",
            user.role,
            user.key,
            list(&publish),
            list(&subscribe)
        )
    };
    let users: String = users.iter().map(user).collect();
    format!(
        "# Written by `podbus keys`: run it again to change it, then let nats-server read it (SIGHUP).\n\
         accounts {{\n  PODBUS {{\n    jetstream: enabled\n    users: [\n{users}    ]\n  }}\n  SYS {{}}\n}}\nsystem_account: SYS\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_name_reads_back_as_what_it_was_made_from() {
        let roles = [
            Role::Scheduler,
            Role::Node("a.example".into()),
            Role::Admin("alice".into()),
            Role::Team("team-a".into()),
            Role::Viewer("grafana".into()),
        ];
        for role in roles {
            assert_eq!(Role::parse(&role.to_string()), Some(role));
        }
        for bad in ["", "node", "node.", "root.alice", "scheduler.x"] {
            assert_eq!(Role::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn nobody_reads_the_inbox_of_another_and_only_schedulers_write_to_the_store() {
        let roles = [Role::Node("n".into()), Role::Admin("a".into()), Role::Team("t".into()), Role::Viewer("v".into())];
        for role in roles {
            let grants = User { role, key: "UKEY".into() }.grants();
            assert!(grants.subscribe.contains(&"_INBOX.UKEY.>".to_owned()));
            assert!(!grants.subscribe.iter().any(|subject| subject.starts_with("_INBOX.>") || subject == ">"));
            assert!(!grants.publish.iter().any(|subject| subject.starts_with("$KV") || subject.ends_with(".assign")));
        }
    }

    #[test]
    fn a_team_opens_every_stream_of_its_namespace_and_a_viewer_only_reads() {
        let streams = |role: Role| -> Vec<String> {
            let publish = User { role, key: "UKEY".into() }.grants().publish;
            publish.into_iter().filter(|subject| subject.starts_with("podbus.node.")).collect()
        };
        let of = |namespace: &str, kinds: &[&str]| -> Vec<String> {
            kinds.iter().map(|kind| format!("podbus.node.*.{namespace}.{kind}")).collect()
        };
        let all = ["logs", "exec", "attach", "portforward", "stats"];
        assert_eq!(streams(Role::Team("team-a".into())), of("team-a", &all));
        assert_eq!(streams(Role::Viewer("v".into())), of("*", &["logs", "stats"]));
        let admin = streams(Role::Admin("a".into()));
        assert!(of("*", &all).iter().all(|subject| admin.contains(subject)), "{admin:?}");
        let node = User { role: Role::Node("n".into()), key: "UKEY".into() }.grants();
        assert!(all.iter().all(|kind| node.subscribe.contains(&format!("podbus.node.n.*.{kind}"))));
    }

    #[test]
    fn the_configuration_names_each_user_with_its_key() {
        let users = [User { role: Role::Node("node-1".into()), key: "UABC".into() }];
        let text = accounts(&users);
        assert!(text.contains("# node.node-1\n") && text.contains("nkey: UABC"), "{text}");
        assert!(text.contains("\"podbus.node.node-1.heartbeat\"") && text.contains("\"_INBOX.UABC.>\""), "{text}");
    }
}
