//! One side of a connection: which streams are open, and what each frame means for them.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::frame::{Decoder, Encoder, Error, Frame};
use super::header::Headers;

/// How many streams may be open at once: 512 connections of a port-forward.
const STREAMS_MAX: usize = 1024;
const REFUSED_STREAM: u32 = 3;

/// What the other side did.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "stream is its id, the rest says itself")]
pub enum Event {
    /// It opened a stream, which has been accepted; or it accepted one of ours.
    Opened { stream: u32, headers: Headers },
    /// It sent data.
    Data { stream: u32, bytes: Bytes },
    /// It sends no more.
    Ended { stream: u32 },
}

/// Which sides of a stream still send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sides {
    ours: bool,
    theirs: bool,
}

/// The state of a connection.
#[derive(Debug)]
pub struct Connection {
    /// Only a client opens streams: a runtime has nothing to open.
    is_client: bool,
    decoder: Decoder,
    encoder: Encoder,
    streams: HashMap<u32, Sides>,
    /// Ids only ascend.
    newest: u32,
    events: VecDeque<Event>,
    out: Vec<u8>,
    failed: Option<Error>,
}

impl Connection {
    /// The side that accepts streams.
    pub fn server() -> Self {
        Self::new(false)
    }

    /// The side that opens streams.
    pub fn client() -> Self {
        Self::new(true)
    }

    fn new(is_client: bool) -> Self {
        Self {
            is_client,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            streams: HashMap::new(),
            newest: 0,
            events: VecDeque::new(),
            out: Vec::new(),
            failed: None,
        }
    }

    pub(super) fn is_client(&self) -> bool {
        self.is_client
    }

    /// Takes what the other side sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.decoder.feed(bytes);
        loop {
            match self.decoder.frame() {
                Ok(Some(frame)) => self.take(frame),
                Ok(None) => return,
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            }
        }
    }

    /// What happened next.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What has to be written; the caller empties it as it does.
    pub fn transmit(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Why the connection cannot go on.
    pub fn error(&self) -> Option<Error> {
        self.failed
    }

    /// Opens a stream: [`Event::Opened`] says that it was accepted, [`Event::Ended`] alone that it was not. Ids are odd
    /// and ascend.
    pub fn open(&mut self, stream: u32, headers: Headers) {
        self.streams.insert(stream, Sides { ours: true, theirs: true });
        self.encoder.encode(&Frame::SynStream { stream, fin: false, headers }, &mut self.out);
    }

    /// Sends data on a stream; the last of it with `fin`. What the stream's end came before is dropped.
    pub fn send(&mut self, stream: u32, bytes: Bytes, fin: bool) {
        let Some(sides) = self.streams.get_mut(&stream).filter(|sides| sides.ours) else { return };
        sides.ours = !fin;
        self.encoder.encode(&Frame::Data { stream, fin, bytes }, &mut self.out);
        self.forget_ended(stream);
    }

    /// Ends a stream in both directions.
    pub fn reset(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            self.refuse(stream);
        }
    }

    fn refuse(&mut self, stream: u32) {
        self.encoder.encode(&Frame::RstStream { stream, status: REFUSED_STREAM }, &mut self.out);
    }

    fn forget_ended(&mut self, stream: u32) {
        if self.streams.get(&stream) == Some(&Sides { ours: false, theirs: false }) {
            self.streams.remove(&stream);
        }
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { stream, fin, headers } => self.opened(stream, fin, headers),
            Frame::SynReply { stream, fin, headers } => {
                if self.is_client && self.streams.contains_key(&stream) {
                    self.events.push_back(Event::Opened { stream, headers });
                    if fin {
                        self.end(stream);
                    }
                }
            }
            Frame::Data { stream, fin, bytes } => {
                if self.streams.get(&stream).is_some_and(|sides| sides.theirs) {
                    if !bytes.is_empty() {
                        self.events.push_back(Event::Data { stream, bytes });
                    }
                    if fin {
                        self.end(stream);
                    }
                }
            }
            Frame::Headers { stream, fin: true, .. } => self.end(stream),
            Frame::RstStream { stream, .. } => {
                self.end(stream);
                self.streams.remove(&stream);
            }
            // An odd one is the client's, an even one the server's: the other side's comes back as it is.
            Frame::Ping { id } if (id % 2 == 1) != self.is_client => self.encoder.encode(&frame, &mut self.out),
            // After a GOAWAY open streams go on, and no more are opened.
            Frame::Ping { .. } | Frame::GoAway { .. } | Frame::Headers { .. } => {}
        }
    }

    fn opened(&mut self, stream: u32, fin: bool, headers: Headers) {
        if self.is_client || stream.is_multiple_of(2) || stream <= self.newest || self.streams.len() >= STREAMS_MAX {
            return self.refuse(stream);
        }
        self.newest = stream;
        self.streams.insert(stream, Sides { ours: true, theirs: true });
        let reply = Frame::SynReply { stream, fin: false, headers: Headers::default() };
        self.encoder.encode(&reply, &mut self.out);
        self.events.push_back(Event::Opened { stream, headers });
        if fin {
            self.end(stream);
        }
    }

    /// The other side sends no more.
    fn end(&mut self, stream: u32) {
        let Some(sides) = self.streams.get_mut(&stream).filter(|sides| sides.theirs) else { return };
        sides.theirs = false;
        self.events.push_back(Event::Ended { stream });
        self.forget_ended(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(frames: &[Frame]) -> Vec<u8> {
        let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
        frames.iter().for_each(|frame| encoder.encode(frame, &mut bytes));
        bytes
    }

    fn answers(connection: &mut Connection) -> Vec<Frame> {
        let mut decoder = Decoder::default();
        decoder.feed(connection.transmit());
        std::iter::from_fn(|| decoder.frame().unwrap()).collect()
    }

    fn events(connection: &mut Connection) -> Vec<Event> {
        std::iter::from_fn(|| connection.event()).collect()
    }

    fn opening(stream: u32) -> Frame {
        Frame::SynStream { stream, fin: false, headers: Headers::new(&[("streamtype", "stdin")]) }
    }

    fn data(stream: u32, bytes: &'static [u8], fin: bool) -> Frame {
        Frame::Data { stream, fin, bytes: Bytes::from_static(bytes) }
    }

    #[test]
    fn a_stream_is_accepted_carries_data_and_is_forgotten_when_both_sides_ended() {
        let mut connection = Connection::server();
        connection.receive(&wire(&[opening(1), data(1, b"in", true), data(1, b"late", false)]));
        let headers = Headers::new(&[("streamtype", "stdin")]);
        let bytes = Bytes::from_static(b"in");
        assert_eq!(
            events(&mut connection),
            [Event::Opened { stream: 1, headers }, Event::Data { stream: 1, bytes }, Event::Ended { stream: 1 }]
        );
        connection.send(1, Bytes::from_static(b"out"), true);
        connection.send(1, Bytes::from_static(b"late"), true);
        let accepted = Frame::SynReply { stream: 1, fin: false, headers: Headers::default() };
        assert_eq!(answers(&mut connection), [accepted, data(1, b"out", true)]);
        assert!(connection.streams.is_empty());
    }

    #[test]
    fn a_ping_comes_back_and_ids_only_ascend() {
        let mut connection = Connection::server();
        connection.receive(&wire(&[Frame::Ping { id: 7 }, Frame::Ping { id: 8 }, opening(3), opening(1), opening(4)]));
        let refused = |stream| Frame::RstStream { stream, status: REFUSED_STREAM };
        let accepted = Frame::SynReply { stream: 3, fin: false, headers: Headers::default() };
        assert_eq!(answers(&mut connection), [Frame::Ping { id: 7 }, accepted, refused(1), refused(4)]);
    }

    #[test]
    fn a_reset_ends_a_stream_and_more_streams_than_the_bound_are_refused() {
        let mut connection = Connection::server();
        let most = u32::try_from(STREAMS_MAX).unwrap();
        connection.receive(&wire(&(0..=most).map(|n| opening(2 * n + 1)).collect::<Vec<_>>()));
        assert_eq!(
            answers(&mut connection).last(),
            Some(&Frame::RstStream { stream: 2 * most + 1, status: REFUSED_STREAM })
        );
        events(&mut connection);
        connection.receive(&[]);
        let mut encoded = Vec::new();
        Encoder::default().encode(&Frame::RstStream { stream: 1, status: 5 }, &mut encoded);
        connection.receive(&encoded);
        assert_eq!(events(&mut connection), [Event::Ended { stream: 1 }]);
        assert_eq!(connection.streams.len(), STREAMS_MAX - 1);
    }

    #[test]
    fn a_client_opens_streams_that_the_server_accepts_or_refuses() {
        let (mut client, mut server) = (Connection::client(), Connection::server());
        client.open(1, Headers::new(&[("streamtype", "data")]));
        client.open(3, Headers::new(&[("streamtype", "nonsense")]));
        server.receive(client.transmit());
        client.transmit().clear();
        assert_eq!(events(&mut server).len(), 2);
        server.send(1, Bytes::from_static(b"hello"), true);
        server.reset(3);
        client.receive(server.transmit());
        let opened = |stream| Event::Opened { stream, headers: Headers::default() };
        let bytes = Bytes::from_static(b"hello");
        assert_eq!(
            events(&mut client),
            [
                opened(1),
                opened(3),
                Event::Data { stream: 1, bytes },
                Event::Ended { stream: 1 },
                Event::Ended { stream: 3 }
            ]
        );
        client.send(1, Bytes::from_static(b"half closed"), true);
        client.send(3, Bytes::from_static(b"into the void"), false);
        assert_eq!(answers(&mut client), [data(1, b"half closed", true)]);
        assert!(client.streams.is_empty());
        client.transmit().clear();
        client.receive(&wire(&[Frame::Ping { id: 2 }, Frame::Ping { id: 3 }]));
        assert_eq!(answers(&mut client), [Frame::Ping { id: 2 }]);
    }

    #[test]
    fn after_an_error_nothing_is_understood_any_more() {
        let mut connection = Connection::server();
        connection.receive(b"GET / HTTP/1.1\r\n\r\n");
        connection.receive(&[0x80, 9, 0, 1, 0, 0, 0, 0]);
        connection.receive(&wire(&[opening(1)]));
        assert_eq!(events(&mut connection), []);
    }
}
