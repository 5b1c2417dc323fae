//! SPDY/3.1 as far as CRI needs it: both sides of the connections of exec, attach and port-forward.
//!
//! `kubectl`, `crictl` and the kubelet multiplex the streams of exec, attach and port-forward over one connection with
//! this protocol of 2012, long dead in browsers (draft-mbelshe-httpbis-spdy-00, "SPDY protocol - draft 3.1"). They
//! use no flow control: WINDOW_UPDATE and SETTINGS are read and ignored, back-pressure is that of TCP.
//!
//! [`Connection`] does no I/O: [`Connection::receive`] takes bytes, [`Connection::event`] hands out what they mean,
//! [`Connection::transmit`] what has to be written. [`Decoder`] and [`Encoder`] are the two directions alone, and
//! [`open`] is a connection over any bytes, moved by tokio.

mod connection;
mod dictionary;
mod frame;
mod header;
mod session;

pub use self::connection::{Connection, Event};
pub use self::frame::{Decoder, Encoder, Error, Frame};
pub use self::header::Headers;
pub use self::session::{LINGER, Order, Session, open};

/// For fuzzing (`tests/fuzz`): reads `bytes` in pieces that they themselves choose, and checks that what was understood
/// survives being written and read again. Says whether there was a frame.
pub fn fuzz(bytes: &[u8]) -> bool {
    let (mut decoder, mut connection) = (Decoder::default(), Connection::server());
    let (mut encoder, mut again) = (Encoder::default(), Decoder::default());
    let (mut rest, mut understood) = (bytes, false);
    while let Some((&first, _)) = rest.split_first() {
        let (piece, left) = rest.split_at(rest.len().min(usize::from(first) + 1));
        rest = left;
        connection.receive(piece);
        while connection.event().is_some() {}
        decoder.feed(piece);
        loop {
            match decoder.frame() {
                Ok(Some(frame)) => {
                    let mut written = Vec::new();
                    encoder.encode(&frame, &mut written);
                    again.feed(&written);
                    assert_eq!(again.frame(), Ok(Some(frame)), "a frame changed when it was written and read");
                    understood = true;
                }
                Ok(None) => break,
                Err(_) => return understood,
            }
        }
    }
    understood
}
