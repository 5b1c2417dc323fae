//! The bus with keys: what nats-server lets each user do, and what it cannot see, which the scheduler refuses.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use futures::StreamExt as _;
use nkeys::KeyPair;
use podbus_common::access::{Role, User, accounts, inbox_prefix};
use podbus_common_bus::testing::NatsCluster;
use podbus_test_support::wait::until;
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// Who may publish to a subject, and who may subscribe to it.
const RIGHTS: [(&str, &[&str], &[&str]); 27] = [
    ("podbus.api.v1.team-a.pods.apply", &["admin", "team-a"], &["scheduler"]),
    ("podbus.api.v1.team-a.pods.delete", &["admin", "team-a"], &["scheduler"]),
    ("podbus.api.v1.team-a.pods.list", &["admin", "team-a", "viewer"], &["scheduler"]),
    ("podbus.api.v1.team-b.pods.get", &["admin", "viewer"], &["scheduler"]),
    ("podbus.api.v1._.pods.list", &["admin", "viewer"], &["scheduler"]),
    ("podbus.api.v1._.nodes.list", &["admin", "team-a", "viewer"], &["scheduler"]),
    ("podbus.api.v1._.nodes.apply", &["admin"], &["scheduler"]),
    ("podbus.node.n1.assign", &["scheduler"], &["n1"]),
    ("podbus.node.n1.sync", &["n1"], &["scheduler"]),
    ("podbus.node.n1.heartbeat", &["n1"], &["scheduler", "admin", "team-a", "viewer"]),
    ("podbus.status.n1", &["n1"], &["scheduler"]),
    ("podbus.node.n1.team-a.exec", &["admin", "team-a"], &["n1"]),
    ("podbus.node.n1.team-a.attach", &["admin", "team-a"], &["n1"]),
    ("podbus.node.n1.team-a.portforward", &["admin", "team-a"], &["n1"]),
    ("podbus.node.n1.team-a.logs", &["admin", "team-a", "viewer"], &["n1"]),
    ("podbus.node.n1.team-b.exec", &["admin"], &["n1"]),
    ("podbus.node.n1.team-b.attach", &["admin"], &["n1"]),
    ("podbus.node.n1.team-b.portforward", &["admin"], &["n1"]),
    ("podbus.node.n1.team-b.stats", &["admin", "viewer"], &["n1"]),
    ("podbus.node.n1._.images", &["admin"], &["n1"]),
    ("podbus.events.team-a.web.Started", &["scheduler"], &["admin", "team-a", "viewer"]),
    ("podbus.events.team-b.web.Started", &["scheduler"], &["admin", "viewer"]),
    ("$KV.podbus.pods.team-a.web", &["scheduler"], &[]),
    ("$JS.API.STREAM.DELETE.KV_podbus", &["scheduler"], &[]),
    ("$JS.API.DIRECT.GET.KV_podbus", &["scheduler"], &[]),
    ("$JS.API.CONSUMER.CREATE.KV_podbus.x.>", &["scheduler"], &[]),
    ("$JS.API.CONSUMER.CREATE.PODBUS_EVENTS.x.podbus.events.team-b.>", &["scheduler", "admin", "viewer"], &[]),
];

#[test]
fn each_user_may_do_what_its_role_needs_and_nothing_else() {
    let roles = [
        ("scheduler", Role::Scheduler),
        ("n1", Role::Node("n1".into())),
        ("n2", Role::Node("n2".into())),
        ("admin", Role::Admin("alice".into())),
        ("team-a", Role::Team("team-a".into())),
        ("viewer", Role::Viewer("grafana".into())),
    ];
    let keys: Vec<_> = roles.iter().map(|_| KeyPair::new_user()).collect();
    let user = |((_, role), key): (&(&str, Role), &KeyPair)| User { role: role.clone(), key: key.public_key() };
    let users: Vec<_> = roles.iter().zip(&keys).map(user).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, accounts(&users)).unwrap();
    let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
    let servers = NatsCluster::start_with(1, &program, file.path());
    let address = servers.urls().trim_start_matches("nats://").to_owned();

    let other = KeyPair::new_user();
    assert!(Wire::connect(&address, &other).is_err(), "a key that nobody has given rights");
    for (index, (name, _)) in roles.iter().enumerate() {
        let mut wire = Wire::connect(&address, &keys[index]).unwrap();
        for (subject, publishers, subscribers) in RIGHTS {
            assert_eq!(
                wire.may(&format!("PUB {subject} 0\r\n")),
                publishers.contains(name),
                "{name} publishes {subject}"
            );
            assert_eq!(
                wire.may(&format!("SUB {subject} 1")),
                subscribers.contains(name),
                "{name} subscribes to {subject}"
            );
        }
        for (key, (whose, _)) in keys.iter().zip(&roles) {
            let inbox = format!("SUB {}.> 1", inbox_prefix(&key.public_key()));
            assert_eq!(wire.may(&inbox), whose == name, "{name} reads the answers of {whose}");
        }
        for all in ["SUB > 1", "SUB _INBOX.> 1", "SUB podbus.> 1", "SUB $KV.podbus.> 1"] {
            assert!(!wire.may(all), "{name}: {all}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_wanted_elsewhere_than_in_an_inbox_is_none() {
    let cluster = Cluster::start().await;
    let (client, forged) = (cluster.bus.client(), "podbus.node.node-1.assign");
    let mut heard = client.subscribe(forged).await.unwrap();
    let get = serde_json::to_vec(&json!({"name": "node-1"})).unwrap();
    for reply in [forged, "$KV.podbus.pods.default.forged"] {
        client.publish_with_reply("podbus.api.v1._.nodes.get", reply, get.clone().into()).await.unwrap();
    }
    let watch: Result<Value, _> = until("a watch into the store is refused", async || {
        let request = json!({"inbox": "$KV.podbus.pods.default.forged"}).to_string();
        let answer = client.request("podbus.api.v1.default.pods.watch", request.into()).await.ok()?;
        Some(serde_json::from_slice(&answer.payload))
    })
    .await;
    assert_eq!(watch.unwrap()["code"], 400);
    // What was asked later is answered: the answers to the others would have come before.
    client.publish(forged, "the first".into()).await.unwrap();
    assert_eq!(heard.next().await.unwrap().payload, "the first");
    assert!(!cluster.keys().await.contains(&"pods.default.forged".to_owned()));
}

/// A connection whose answers are read one by one: what the server refuses comes before its next `PONG`.
struct Wire {
    reader: BufReader<TcpStream>,
}

impl Wire {
    fn connect(address: &str, key: &KeyPair) -> Result<Self, String> {
        let mut wire = Self { reader: BufReader::new(TcpStream::connect(address).unwrap()) };
        let info: Value = serde_json::from_str(wire.line().strip_prefix("INFO ").unwrap()).unwrap();
        let signature = key.sign(info["nonce"].as_str().unwrap().as_bytes()).unwrap();
        let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(signature);
        let login = json!({"verbose": false, "pedantic": false, "nkey": key.public_key(), "sig": signature});
        match wire.ask(&format!("CONNECT {login}")) {
            None => Ok(wire),
            Some(error) => Err(error),
        }
    }

    fn may(&mut self, command: &str) -> bool {
        match self.ask(command) {
            None => true,
            Some(error) if error.contains("Permissions Violation") => false,
            Some(error) => panic!("{command:?}: {error}"),
        }
    }

    /// What the server has against it.
    fn ask(&mut self, command: &str) -> Option<String> {
        self.reader.get_mut().write_all(format!("{command}\r\nPING\r\n").as_bytes()).unwrap();
        let mut error = None;
        loop {
            match self.line() {
                line if line == "PONG" || line.is_empty() => return error,
                line if line.starts_with("-ERR") => error = error.or(Some(line)),
                _ => {}
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}
