//! A registry that does what a test tells it to, however strange that is.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::pack::{Archive, Layer, sha256};

/// A small HTTP server: what it answers by path, and which requests it got. It ends with the test process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    answers: Mutex<HashMap<String, Vec<Answer>>>,
    requests: Mutex<Vec<String>>,
    /// What a request without credentials is answered with.
    challenge: Mutex<Option<String>>,
}

#[derive(Clone)]
pub(crate) enum Answer {
    Body(&'static str, Vec<u8>),
    /// At most so many bytes of it at once, then the connection breaks; the rest to who asks for it.
    Parts(Vec<u8>, usize),
    /// The same to who asks for the whole; to who asks for a part, another part.
    WrongParts(Vec<u8>, usize),
    Redirect(String),
    /// A body without end.
    Endless,
    /// A status line's text, headers, and a body.
    Status(&'static str, &'static str, &'static str),
    /// Never answers.
    Silence,
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn blob_path(digest: &str) -> String {
    format!("/v2/app/blobs/{digest}")
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&server.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        server
    }

    /// Answers a path so from now on.
    pub(crate) fn put(&self, path: &str, answer: Answer) {
        self.put_each(path, vec![answer]);
    }

    /// Answers a path with one after the other, and then always with the last.
    pub(crate) fn put_each(&self, path: &str, answers: Vec<Answer>) {
        self.state.answers.lock().unwrap().insert(path.to_owned(), answers);
    }

    /// What it answers a path with.
    pub(crate) fn body(&self, path: &str) -> Vec<u8> {
        match &self.state.answers.lock().unwrap()[path][0] {
            Answer::Body(_, bytes) => bytes.clone(),
            _ => panic!("{path} is no body"),
        }
    }

    /// Asks who comes without credentials for some.
    pub(crate) fn challenge(&self, header: &str) {
        *self.state.challenge.lock().unwrap() = Some(header.to_owned());
    }

    /// All requests, each with its headers and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// The requests whose first line has this in it.
    pub(crate) fn requests_for(&self, path: &str) -> Vec<String> {
        self.requests().into_iter().filter(|it| it.lines().next().is_some_and(|line| line.contains(path))).collect()
    }

    /// Serves an image of one layer as `app:1`. Returns the layer's digest and bytes.
    pub(crate) fn serve_image(&self) -> (String, Vec<u8>) {
        let layer = Archive::new().file("a", &[1; 4000]).layer();
        self.serve_layers(std::slice::from_ref(&layer), |layer| layer.bytes.clone());
        (sha256(&layer.bytes), layer.bytes)
    }

    /// Serves an image as `app:1`, its layers packed.
    pub(crate) fn serve_layers(&self, layers: &[Layer], pack: impl Fn(&Layer) -> Vec<u8>) {
        let diff_ids: Vec<&String> = layers.iter().map(|layer| &layer.diff_id).collect();
        let config = serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
        let descriptor = |bytes: &[u8], kind: &str| serde_json::json!({"mediaType": kind, "digest": sha256(bytes), "size": bytes.len()});
        let packed: Vec<Vec<u8>> = layers.iter().map(pack).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(config.as_bytes(), "application/vnd.oci.image.config.v1+json"),
            "layers": packed.iter().map(|layer| descriptor(layer, "application/vnd.oci.image.layer.v1.tar")).collect::<Vec<_>>(),
        });
        self.put("/v2/app/manifests/1", Answer::Body(MANIFEST, manifest.to_string().into_bytes()));
        for blob in packed.into_iter().chain([config.into_bytes()]) {
            self.put(&blob_path(&sha256(&blob)), Answer::Body("application/octet-stream", blob));
        }
    }
}

fn serve(stream: TcpStream, state: &State) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head: Vec<String> =
            reader.by_ref().lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
        let header = |name: &str| {
            head.iter()
                .find_map(|line| line.to_lowercase().strip_prefix(name).map(|_| line[name.len()..].trim().to_owned()))
        };
        let Some(path) = head.first().and_then(|line| line.split([' ', '?']).nth(1)).map(str::to_owned) else { return };
        let range = header("range: bytes=").and_then(|range| range.trim_end_matches('-').parse().ok());
        let is_known = header("authorization:").is_some();
        let length: usize = header("content-length:").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        head.push(String::from_utf8(body).unwrap());
        state.requests.lock().unwrap().push(head.join("\n"));
        let challenge = state.challenge.lock().unwrap().clone().filter(|_| !is_known && path.starts_with("/v2/"));
        let answer = match challenge {
            Some(challenge) => {
                let _ = send(&mut stream, "401 Unauthorized", &format!("www-authenticate: {challenge}"), b"{}");
                continue;
            }
            None => next_answer(state, &path),
        };
        if answer.is_none_or(|answer| !give(&mut stream, answer, range)) {
            return;
        }
    }
}

fn next_answer(state: &State, path: &str) -> Option<Answer> {
    let mut answers = state.answers.lock().unwrap();
    let Some(left) = answers.get_mut(path) else {
        return Some(Answer::Status(
            "404 Not Found",
            "content-type: application/json",
            "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}",
        ));
    };
    if left.len() > 1 { Some(left.remove(0)) } else { left.first().cloned() }
}

/// False if the connection is over.
fn give(stream: &mut TcpStream, answer: Answer, range: Option<usize>) -> bool {
    match answer {
        Answer::Body(kind, bytes) => send(stream, "200 OK", &format!("content-type: {kind}"), &bytes).is_ok(),
        Answer::Parts(bytes, most) => {
            let start = range.unwrap_or(0);
            part(stream, &bytes, start, start, most)
        }
        Answer::WrongParts(bytes, most) => {
            part(stream, &bytes, range.unwrap_or(0), range.map_or(0, |start| start + 1), most)
        }
        Answer::Redirect(to) => send(stream, "307 Temporary Redirect", &format!("location: {to}"), b"").is_ok(),
        Answer::Endless => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
            while stream.write_all(&[b' '; 64 << 10]).is_ok() {}
            false
        }
        Answer::Status(status, header, body) => send(stream, status, header, body.as_bytes()).is_ok(),
        Answer::Silence => {
            let _ = stream.read(&mut [0]); // until the client leaves
            false
        }
    }
}

/// Sends `bytes` from `start` on, and calls it the part from `said` on; breaks off after `most` bytes.
fn part(stream: &mut TcpStream, bytes: &[u8], start: usize, said: usize, most: usize) -> bool {
    let rest = &bytes[start..];
    let head = match start {
        0 => "HTTP/1.1 200 OK".to_owned(),
        _ => format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {said}-{}/{}", bytes.len() - 1, bytes.len()),
    };
    let _ = write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n", rest.len());
    let _ = stream.write_all(&rest[..rest.len().min(most)]);
    rest.len() <= most
}

fn send(stream: &mut TcpStream, status: &str, header: &str, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\n{header}\r\ncontent-length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)
}
