//! Streams with credits, for logs, exec, attach, port-forward, images and stats.
//!
//! The client sends [`OpenStream`](podbus_common::proto::OpenStream) with an inbox and a number of credits; the server
//! answers with a control subject. The server publishes chunks to the inbox, at most as many unacknowledged as there
//! are credits; the client publishes frames to the control subject, at most [`FRAMES_MAX`] unacknowledged. Both sides
//! say that they are there; 30 s of silence ends the stream. The last chunk carries an exit code or an error.

mod client;
mod server;

use std::time::Duration;

pub use client::{ClientReader, ClientStream, ClientWriter, OpenError, open};
use podbus_common::proto;
pub use server::{AcceptError, ServerReceiver, ServerSender, ServerStream, accept, refuse};

/// The largest chunk or frame, bytes.
pub const CHUNK_BYTES_MAX: usize = 128 << 10;
/// Chunks that the server may have unacknowledged.
pub const CREDITS: u32 = 32;
/// Frames that the client may have unacknowledged.
pub const FRAMES_MAX: usize = 16;
/// A side that heard nothing for so long takes the other for gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Each side says so often that it is there.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// Why a stream ended before its last chunk.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other side said nothing for 30 s.
    #[error("the other side of the stream went silent")]
    Silent,
    /// The bus dropped a chunk.
    #[error("the bus lost chunk {expected} of the stream")]
    Lost {
        /// The one that is missing.
        expected: u64,
    },
    /// The other side left, or the connection is closed.
    #[error("the stream is closed")]
    Closed,
    /// A message is of another schema.
    #[error("a message of the stream cannot be read")]
    Decode(#[from] prost::DecodeError),
}

/// An error to send to a client; `code` as HTTP has it.
pub fn error(code: u32, message: impl Into<String>) -> proto::StreamError {
    proto::StreamError { code, message: message.into() }
}

#[cfg(test)]
mod tests;
