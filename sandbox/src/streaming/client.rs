//! The client of an exec or attach, whatever carries its streams.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::negotiate::Version;
use crate::runtime::lock;

/// Pieces on their way in each direction: a side that does not read stops the other, as a pipe would.
const PIECES_MAX: usize = 8;
/// The longest text of one change of the terminal's size.
const SIZE_BYTES_MAX: usize = 1024;

/// What a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// For standard input.
    Data(Bytes),
    /// Standard input ends.
    End,
    /// The terminal has a new size.
    Resize { columns: u16, rows: u16 },
}

/// What a client is sent.
#[derive(Debug)]
pub(super) enum Output {
    /// From standard output.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
    /// How it ended; nothing comes after it.
    Ended(Ended),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// The process ended with this code; 0 is success.
    Exited(i32),
    /// There is no exit code, because of this.
    Failed(String),
}

/// The streams that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// A client, as exec and attach see it.
pub(super) struct Client {
    /// Ends when the client has left.
    pub(super) input: mpsc::Receiver<Input>,
    /// Fails when the client has left.
    pub(super) output: mpsc::Sender<Output>,
}

/// A client, as its carrier sees it.
pub(super) struct Ends {
    pub(super) input: mpsc::Sender<Input>,
    pub(super) output: mpsc::Receiver<Output>,
}

impl Client {
    /// Both sides.
    pub(super) fn pair() -> (Self, Ends) {
        let (to_input, input) = mpsc::channel(PIECES_MAX);
        let (output, from_output) = mpsc::channel(PIECES_MAX);
        (Self { input, output }, Ends { input: to_input, output: from_output })
    }
}

impl Ended {
    /// As a client of `version` reads it; `None`: it reads nothing.
    pub(super) fn encode(&self, version: Version) -> Option<Bytes> {
        if version >= Version::V4 {
            return Some(self.status().to_string().into());
        }
        match self {
            Self::Exited(0) => None,
            Self::Exited(code) => Some(exit_text(*code).into()),
            Self::Failed(text) => Some(text.clone().into()),
        }
    }

    /// As `metav1.Status` of Kubernetes.
    fn status(&self) -> Value {
        match self {
            Self::Exited(0) => json!({ "metadata": {}, "status": "Success" }),
            Self::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": exit_text(*code),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Self::Failed(text) => json!({
                "metadata": {},
                "status": "Failure",
                "message": text,
                "reason": "InternalError",
                "details": { "causes": [{ "message": text }] },
                "code": 500,
            }),
        }
    }
}

fn exit_text(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit status {code}")
}

/// Changes of the terminal's size: JSON objects one after the other, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    text: Vec<u8>,
}

impl Sizes {
    /// Takes what came; the sizes that are whole by now. What is no size is dropped.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Input> {
        self.text.extend_from_slice(bytes);
        let mut objects = serde_json::Deserializer::from_slice(&self.text).into_iter::<Value>();
        let (mut sizes, mut used) = (Vec::new(), 0);
        let is_broken = loop {
            match objects.next() {
                Some(Ok(object)) => {
                    used = objects.byte_offset();
                    sizes.extend(size(&object));
                }
                Some(Err(error)) => break !error.is_eof(),
                None => break false,
            }
        };
        self.text.drain(..used);
        if is_broken || self.text.len() > SIZE_BYTES_MAX {
            self.text.clear();
        }
        sizes
    }
}

/// A size that a terminal can have.
fn size(object: &Value) -> Option<Input> {
    let number = |name: &str| object.get(name)?.as_u64().and_then(|value| u16::try_from(value).ok());
    let (columns, rows) = (number("Width")?, number("Height")?);
    (columns > 0 && rows > 0).then_some(Input::Resize { columns, rows })
}

/// When a connection last carried anything.
pub(super) struct Activity(Mutex<Instant>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// It carries something.
    pub(super) fn touch(&self) {
        *lock(&self.0) = Instant::now();
    }

    /// Waits until it has carried nothing for `limit`.
    pub(super) async fn silent_for(&self, limit: Duration) {
        loop {
            let until = *lock(&self.0) + limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_json_that_is_cut_anywhere() {
        let mut sizes = Sizes::default();
        let all =
            br#"{"Width":80,"Height":24} {"Width":0,"Height":1}{"Width":99999,"Height":1}{"Width":101,"Height":33}"#;
        let seen: Vec<Input> = all.chunks(5).flat_map(|piece| sizes.take(piece)).collect();
        assert_eq!(seen, [Input::Resize { columns: 80, rows: 24 }, Input::Resize { columns: 101, rows: 33 }]);
        assert_eq!(sizes.take(b"no json"), []);
        assert_eq!(sizes.take(br#"{"Width":7,"Height":8}"#), [Input::Resize { columns: 7, rows: 8 }]);
        assert_eq!(sizes.take(&[b'['; 5000]), []);
        assert!(sizes.text.is_empty());
    }

    #[test]
    fn the_end_is_a_status_since_v4_and_text_before() {
        let three = Ended::Exited(3);
        let status: Value = serde_json::from_slice(&three.encode(Version::V4).unwrap()).unwrap();
        assert_eq!(status["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "3" }));
        assert_eq!(Ended::Exited(0).encode(Version::V5).unwrap(), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(Ended::Exited(0).encode(Version::V3), None);
        assert_eq!(three.encode(Version::V1).unwrap(), exit_text(3));
        assert_eq!(Ended::Failed("gone".into()).encode(Version::V2).unwrap(), "gone");
    }
}
