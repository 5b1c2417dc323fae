//! Frames: control frames whole, data as it comes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::header::{Headers, Packer, Unpacker};

/// The longest control frame. Those of Kubernetes' clients have some 100 bytes.
const CONTROL_BYTES_MAX: usize = 64 << 10;
/// The longest piece of data that is handed out, and the longest data frame that is written.
pub(crate) const DATA_BYTES_MAX: usize = 32 << 10;
const HEADER_BYTES: usize = 8;
const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
/// Stream ids have 31 bits.
const ID_MASK: u32 = CONTROL - 1;
const FLAG_FIN: u8 = 1;

mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
}

/// Why the bytes of a peer are not SPDY/3.1. The connection cannot go on after any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A control frame of another version.
    #[error("a frame of SPDY version {0}, not 3")]
    Version(u16),
    /// A control frame that is too long, or too short for what it is.
    #[error("a control frame of type {kind} has {length} bytes")]
    Length {
        /// Its type.
        kind: u16,
        /// Without its first 8 bytes.
        length: usize,
    },
    /// Headers that cannot be unpacked, or unpack into too much.
    #[error("headers cannot be unpacked")]
    Headers,
}

/// A frame. What is not listed (SETTINGS, WINDOW_UPDATE, unknown types) is skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "stream: its id; fin: no more comes from this side; the rest is the protocol's own")]
pub enum Frame {
    /// A new stream.
    SynStream { stream: u32, fin: bool, headers: Headers },
    /// The other side's yes to a stream.
    SynReply { stream: u32, fin: bool, headers: Headers },
    /// The end of a stream, in both directions.
    RstStream { stream: u32, status: u32 },
    /// Sent back as it is.
    Ping { id: u32 },
    /// No new streams after `last`.
    GoAway { last: u32, status: u32 },
    /// More headers.
    Headers { stream: u32, fin: bool, headers: Headers },
    /// A part of the data; one frame of the wire may be handed out in several.
    Data { stream: u32, fin: bool, bytes: Bytes },
}

/// Bytes to frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    unpacker: Unpacker,
    data: Option<OpenData>,
}

/// A data frame that has not come to its end.
#[derive(Debug, Clone, Copy)]
struct OpenData {
    stream: u32,
    fin: bool,
    left: usize,
}

impl Decoder {
    /// Takes what came.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None` until more bytes come.
    pub fn frame(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(data) = self.data {
                return Ok(self.data_piece(data));
            }
            let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
            let flags = header[4];
            let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
            let fin = flags & FLAG_FIN != 0;
            if first & CONTROL == 0 {
                self.buffer.advance(HEADER_BYTES);
                self.data = Some(OpenData { stream: first, fin, left: length });
                continue;
            }
            let [version, kind] =
                [(first & ID_MASK) >> 16, first & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
            if version != VERSION {
                return Err(Error::Version(version));
            }
            if length > CONTROL_BYTES_MAX {
                return Err(Error::Length { kind, length });
            }
            if self.buffer.len() < HEADER_BYTES + length {
                return Ok(None);
            }
            self.buffer.advance(HEADER_BYTES);
            let body = self.buffer.split_to(length);
            if let Some(frame) = self.control(kind, fin, &body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn data_piece(&mut self, mut data: OpenData) -> Option<Frame> {
        let count = data.left.min(self.buffer.len()).min(DATA_BYTES_MAX);
        if count == 0 && data.left > 0 {
            return None;
        }
        data.left -= count;
        self.data = (data.left > 0).then_some(data);
        let bytes = self.buffer.split_to(count).freeze();
        Some(Frame::Data { stream: data.stream, fin: data.fin && data.left == 0, bytes })
    }

    fn control(&mut self, kind: u16, fin: bool, body: &[u8]) -> Result<Option<Frame>, Error> {
        let word = |at: usize| -> Result<u32, Error> {
            let bytes = body.get(at..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(Error::Length { kind, length: body.len() })
        };
        let id = |at: usize| word(at).map(|word| word & ID_MASK);
        let mut headers = |at: usize| self.unpacker.unpack(body.get(at..).unwrap_or_default());
        Ok(Some(match kind {
            // Between id and headers: the stream it belongs to, its priority, a slot; nobody uses them.
            kind::SYN_STREAM => Frame::SynStream { stream: word(6).and(id(0))?, fin, headers: headers(10)? },
            kind::SYN_REPLY => Frame::SynReply { stream: id(0)?, fin, headers: headers(4)? },
            kind::HEADERS => Frame::Headers { stream: id(0)?, fin, headers: headers(4)? },
            kind::RST_STREAM => Frame::RstStream { stream: id(0)?, status: word(4)? },
            kind::PING => Frame::Ping { id: word(0)? },
            kind::GOAWAY => Frame::GoAway { last: id(0)?, status: word(4)? },
            _ => return Ok(None),
        }))
    }
}

/// Frames to bytes.
#[derive(Debug, Default)]
pub struct Encoder {
    packer: Packer,
}

impl Encoder {
    /// Adds a frame to `out`. Data goes out in frames of at most 32 KiB.
    pub fn encode(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        match frame {
            Frame::SynStream { stream, fin, headers } => {
                let block = self.packer.pack(headers);
                let mut body = id(*stream).to_vec();
                body.extend_from_slice(&[0; 6]);
                body.extend_from_slice(&block);
                control(out, kind::SYN_STREAM, *fin, &body);
            }
            Frame::SynReply { stream, fin, headers } => {
                let body = [&id(*stream)[..], &self.packer.pack(headers)].concat();
                control(out, kind::SYN_REPLY, *fin, &body);
            }
            Frame::Headers { stream, fin, headers } => {
                let body = [&id(*stream)[..], &self.packer.pack(headers)].concat();
                control(out, kind::HEADERS, *fin, &body);
            }
            Frame::RstStream { stream, status } => {
                control(out, kind::RST_STREAM, false, &[id(*stream), status.to_be_bytes()].concat());
            }
            Frame::Ping { id } => control(out, kind::PING, false, &id.to_be_bytes()),
            Frame::GoAway { last, status } => {
                control(out, kind::GOAWAY, false, &[id(*last), status.to_be_bytes()].concat());
            }
            Frame::Data { stream, fin, bytes } => encode_data(*stream, *fin, bytes, out),
        }
    }
}

fn id(stream: u32) -> [u8; 4] {
    (stream & ID_MASK).to_be_bytes()
}

fn control(out: &mut Vec<u8>, kind: u16, fin: bool, body: &[u8]) {
    out.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    finish(out, fin, body);
}

fn encode_data(stream: u32, fin: bool, bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    loop {
        let (piece, after) = rest.split_at(rest.len().min(DATA_BYTES_MAX));
        rest = after;
        out.extend_from_slice(&id(stream));
        finish(out, fin && rest.is_empty(), piece);
        if rest.is_empty() {
            return;
        }
    }
}

/// Flags, length and body.
fn finish(out: &mut Vec<u8>, fin: bool, body: &[u8]) {
    let length = u32::try_from(body.len()).unwrap_or(0); // a body has less than 2^24 bytes
    out.put_u32(u32::from(if fin { FLAG_FIN } else { 0 }) << 24 | length);
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let stream = 1..=ID_MASK;
        let text = || prop::collection::vec(any::<u8>(), 0..40);
        let headers = || prop::collection::vec((text(), text()), 0..6).prop_map(Headers);
        prop_oneof![
            (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynStream {
                stream,
                fin,
                headers
            }),
            (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
                stream,
                fin,
                headers
            }),
            (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
                stream,
                fin,
                headers
            }),
            (stream.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            (stream.clone(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (stream, any::<bool>(), prop::collection::vec(any::<u8>(), 0..5000))
                .prop_map(|(stream, fin, bytes)| Frame::Data { stream, fin, bytes: bytes.into() }),
        ]
    }

    /// Joins the pieces of data that one frame was handed out in.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut list: Vec<Frame> = Vec::new();
        for frame in frames {
            match (list.last_mut(), frame) {
                (
                    Some(Frame::Data { stream: open, fin: ended @ false, bytes: sofar }),
                    Frame::Data { stream, fin, bytes },
                ) if *open == stream => {
                    *sofar = [sofar.as_ref(), &bytes].concat().into();
                    *ended = fin;
                }
                (_, frame) => list.push(frame),
            }
        }
        list
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_bytes(
            sent in prop::collection::vec(frames(), 1..20),
            cuts in prop::collection::vec(1_usize..200, 1..20),
        ) {
            let (mut encoder, mut wire) = (Encoder::default(), Vec::new());
            sent.iter().for_each(|frame| encoder.encode(frame, &mut wire));
            let (mut decoder, mut seen, mut rest) = (Decoder::default(), Vec::new(), &wire[..]);
            for cut in cuts.into_iter().cycle() {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                decoder.feed(piece);
                while let Some(frame) = decoder.frame().unwrap() {
                    seen.push(frame);
                }
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(joined(seen), joined(sent));
        }
    }

    #[test]
    fn what_is_too_long_or_of_another_version_is_refused_before_it_is_kept() {
        let mut decoder = Decoder::default();
        decoder.feed(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.frame(), Err(Error::Length { kind: 1, length: 0x00ff_ffff }));
        let mut decoder = Decoder::default();
        decoder.feed(&[0x80, 2, 0, 1, 0, 0, 0, 0]);
        assert_eq!(decoder.frame(), Err(Error::Version(2)));
    }

    #[test]
    fn a_large_data_frame_is_handed_out_as_it_comes() {
        let mut decoder = Decoder::default();
        decoder.feed(&[0, 0, 0, 5, 1, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.frame(), Ok(None));
        decoder.feed(b"abc");
        let piece = Frame::Data { stream: 5, fin: false, bytes: Bytes::from_static(b"abc") };
        assert_eq!(decoder.frame(), Ok(Some(piece)));
        assert_eq!(decoder.frame(), Ok(None));
    }

    #[test]
    fn settings_and_window_updates_are_skipped() {
        let mut bytes = Vec::new();
        control(&mut bytes, 4, false, &[0; 12]);
        control(&mut bytes, 9, false, &[0; 8]);
        let ping = Frame::Ping { id: 1 };
        Encoder::default().encode(&ping, &mut bytes);
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        assert_eq!(decoder.frame(), Ok(Some(ping)));
    }
}
