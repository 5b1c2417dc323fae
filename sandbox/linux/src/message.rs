//! What daemon and shim say to each other over the pod's socket: one message a packet, little-endian.
//!
//! A message is its kind (`u32`), a sequence number (`u32`) by which an answer finds its request, two numbers (`u64`,
//! `i32` twice) and text. Fields are only ever appended, and a reader takes what it knows.

/// The version of the protocol. A daemon speaks every version up to its own.
pub const VERSION: u64 = 1;
/// The longest message.
pub const BYTES_MAX: usize = 1024;
/// The bytes of a cookie.
pub const COOKIE_BYTES: usize = 32;
/// The bytes of an id in hexadecimal digits.
pub const ID_BYTES: usize = 64;

const HEADER_BYTES: usize = 32;

/// What a message is. Numbers are never used again.
pub mod kind {
    /// To the shim, first: `number` is the version, `text` the id and the cookie.
    pub const HELLO: u32 = 1;
    /// To the shim: make the sandbox (plan and descriptors).
    pub const SETUP: u32 = 2;
    /// To the shim: start the container whose id is the text (plan and descriptors).
    pub const START: u32 = 3;
    /// To the shim: send signal `a` to the first process of the container whose id is the text.
    pub const SIGNAL: u32 = 4;
    /// To the shim: run a process in a container (plan and descriptors); `number` names it.
    pub const EXEC: u32 = 5;
    /// To the shim: kill the exec that `number` names.
    pub const EXEC_KILL: u32 = 6;
    /// To the shim: go on with this log (descriptor) for the container whose id is the text.
    pub const REOPEN: u32 = 7;
    /// To the shim: kill all, then end.
    pub const SHUTDOWN: u32 = 8;
    /// To the shim: copy output of the container whose id is the text to the pipes that come along, as the
    /// `ATTACH_*` in `a` say; the answer carries its terminal or input, where that is asked for and open.
    pub const ATTACH: u32 = 9;
    /// To the shim: let go of the standard input of the container whose id is the text.
    pub const CLOSE_STDIN: u32 = 10;
    /// To the shim: make a stream socket of address family `a` in the pod's network; the answer carries it.
    pub const SOCKET: u32 = 11;
    /// To the shim, before SETUP: make the namespaces of the plan, what is in them, and pause, where the plan has it, for
    /// a pod that nobody has asked for yet.
    pub const PREPARE: u32 = 13;
    /// To the shim, before SETUP: make a user namespace with the ids of the plan, and in it the pod's other namespaces;
    /// the answer carries it and the network namespace. Later: the answer carries it again.
    pub const USER_NAMESPACE: u32 = 12;
    /// To the shim: run a command of a runtime handler on the node (plan and descriptors); `number` names it as an
    /// exec's does.
    pub const RUN: u32 = 30;
    /// To the shim: the process `a`, an orphan that such a command left, is the first of the container whose id is the
    /// text (plan and descriptors).
    pub const ADOPT: u32 = 31;
    /// To the shim: the process `a`, an orphan that such a command left, is the exec that `number` names (plan and
    /// descriptors).
    pub const ADOPT_EXEC: u32 = 32;
    /// From the shim: done. `number` and descriptors as the request has it.
    pub const DONE: u32 = 16;
    /// From the shim: failed. `a` is the error number, the text says where; `b` is the exit code of a program that
    /// could not be run, else 0.
    pub const FAILED: u32 = 17;
    /// From the shim, unasked: the exit of the container whose id is the text stands in its record.
    pub const EXITED: u32 = 18;
    /// From the shim, unasked: pause is dead; its record says so.
    pub const PAUSE_EXITED: u32 = 19;
    /// From the shim, unasked: the exec that `number` names ended with code `a`, signal `b`.
    pub const EXEC_EXITED: u32 = 20;
}

/// ATTACH: standard input, or the terminal, is asked for.
pub const ATTACH_INPUT: i32 = 1;
/// ATTACH: the first pipe takes standard output.
pub const ATTACH_STDOUT: i32 = 2;
/// ATTACH: the next pipe takes standard error.
pub const ATTACH_STDERR: i32 = 4;

/// A message, borrowed from its packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message<'a> {
    /// One of [`kind`].
    pub kind: u32,
    /// The request's number; 0 for what was not asked for.
    pub sequence: u32,
    /// As the kind says.
    pub number: u64,
    /// As the kind says.
    pub a: i32,
    /// As the kind says.
    pub b: i32,
    /// As the kind says.
    pub text: &'a [u8],
}

impl<'a> Message<'a> {
    /// Writes it; text that is too long is cut. Returns the length.
    pub fn encode(&self, buffer: &mut [u8; BYTES_MAX]) -> usize {
        let text = &self.text[..self.text.len().min(BYTES_MAX - HEADER_BYTES)];
        buffer[0..4].copy_from_slice(&self.kind.to_le_bytes());
        buffer[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        buffer[8..16].copy_from_slice(&self.number.to_le_bytes());
        buffer[16..20].copy_from_slice(&self.a.to_le_bytes());
        buffer[20..24].copy_from_slice(&self.b.to_le_bytes());
        let length = u32::try_from(text.len()).unwrap_or(0);
        buffer[24..28].copy_from_slice(&length.to_le_bytes());
        buffer[28..32].copy_from_slice(&[0; 4]);
        buffer[HEADER_BYTES..HEADER_BYTES + text.len()].copy_from_slice(text);
        HEADER_BYTES + text.len()
    }

    /// Reads one; `None` where it is not one.
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        let header = packet.first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let length = u32::from_le_bytes(word(24)) as usize;
        Some(Self {
            kind: u32::from_le_bytes(word(0)),
            sequence: u32::from_le_bytes(word(4)),
            number: u64::from(u32::from_le_bytes(word(8))) | u64::from(u32::from_le_bytes(word(12))) << 32,
            a: i32::from_le_bytes(word(16)),
            b: i32::from_le_bytes(word(20)),
            text: packet.get(HEADER_BYTES..HEADER_BYTES + length)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_as_it_was_written_and_a_cut_one_not_at_all() {
        let sent = Message { kind: kind::START, sequence: 3, number: u64::MAX, a: -1, b: 9, text: b"web" };
        let mut buffer = [0; BYTES_MAX];
        let length = sent.encode(&mut buffer);
        let read = Message::decode(&buffer[..length]).unwrap();
        assert_eq!(
            (read.kind, read.sequence, read.number, read.a, read.b, read.text),
            (kind::START, 3, u64::MAX, -1, 9, &b"web"[..])
        );
        assert!(Message::decode(&buffer[..length - 1]).is_none());
    }
}
