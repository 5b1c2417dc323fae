//! What a person sees with a NATS client that is not ours: here a socket and the protocol's text, nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use podbus_test_support::wait::PATIENCE;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::life::sleeper;

#[test]
fn any_nats_client_sees_the_whole_life_of_a_pod_as_json() {
    let cluster = Cluster::start(1);
    let mut client = Client::connect(cluster.url());
    client.send("SUB podbus.events.> 1\r\nPING\r\n");
    client.line_starting("PONG");
    cluster.apply(&sleeper("watched", "Always", "sleep 4001"));
    cluster.wait_running("watched");

    let value = client.request("$JS.API.DIRECT.GET.KV_podbus.$KV.podbus.pods.default.watched", "");
    let pod: Value = serde_json::from_str(&value).unwrap();
    assert_eq!(pod["kind"], "Pod");
    assert_eq!(pod["spec"]["containers"][0]["name"], "main");
    assert!(!value.contains('\n'), "it is one line, as of `kubectl get --raw`: {value}");

    cluster.ok(&["delete", "pod", "watched"]);
    let mut expected = ["Scheduled", "Created", "Started", "Killing"].into_iter().peekable();
    while let Some(reason) = expected.peek() {
        let (subject, payload) = client.message();
        let event: Value = serde_json::from_str(&payload).unwrap_or_else(|e| panic!("{subject}: {e}: {payload}"));
        assert_eq!(event["kind"], "Event", "{payload}");
        if event["reason"] == **reason && event["involvedObject"]["name"] == "watched" {
            assert_eq!(subject, format!("podbus.events.default.watched.{reason}"));
            expected.next();
        }
    }
}

struct Client {
    reader: BufReader<TcpStream>,
    /// Messages that came while something else was awaited.
    early: Vec<(String, String)>,
}

impl Client {
    fn connect(url: &str) -> Self {
        let (token, address) = url.strip_prefix("nats://").unwrap().split_once('@').unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self { reader: BufReader::new(stream), early: Vec::new() };
        let options =
            json!({"verbose": false, "pedantic": false, "auth_token": token, "headers": true, "no_responders": true});
        client.send(&format!("CONNECT {options}\r\n"));
        client
    }

    fn send(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the server closed the connection");
        line.trim_end().to_owned()
    }

    fn line_starting(&mut self, prefix: &str) {
        while !self.line().starts_with(prefix) {}
    }

    /// The next message: subject and payload, headers dropped.
    fn message(&mut self) -> (String, String) {
        if self.early.is_empty() { self.read_message() } else { self.early.remove(0) }
    }

    fn read_message(&mut self) -> (String, String) {
        loop {
            let line = self.line();
            if line == "PING" {
                self.send("PONG\r\n");
                continue;
            }
            let fields: Vec<_> = line.split(' ').collect();
            let (header, total) = match fields[0] {
                "MSG" => (0, fields[fields.len() - 1].parse().unwrap()),
                "HMSG" => (fields[fields.len() - 2].parse().unwrap(), fields[fields.len() - 1].parse().unwrap()),
                _ => continue,
            };
            let mut bytes = vec![0; total + 2];
            self.reader.read_exact(&mut bytes).unwrap();
            let payload = String::from_utf8(bytes[header..total].to_vec()).unwrap();
            return (fields[1].to_owned(), payload);
        }
    }

    fn request(&mut self, subject: &str, payload: &str) -> String {
        let inbox = format!("_INBOX.foreign.{}", std::process::id());
        self.send(&format!("SUB {inbox} 2\r\nPUB {subject} {inbox} {}\r\n{payload}\r\n", payload.len()));
        loop {
            let (to, reply) = self.read_message();
            if to == inbox {
                return reply;
            }
            self.early.push((to, reply));
        }
    }
}
