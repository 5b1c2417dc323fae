//! A netlink socket: requests with their acknowledgements, dumps, and netfilter's batches.

use std::io;

use netlink_sys::{Socket, SocketAddr};

use super::message::{self, ACK, DUMP, KIND_DONE, Message};

/// A netlink socket of the network namespace in which it was opened, whichever thread uses it later.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket for links, addresses and routes in the calling thread's network namespace.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(netlink_sys::constants::NETLINK_ROUTE)
    }

    /// Opens a socket for netfilter in the calling thread's network namespace.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(netlink_sys::constants::NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?; // the kernel, and nobody else
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(super) fn request(&mut self, message: Message) -> io::Result<()> {
        let sequence = self.next_sequence();
        self.send(&message.finish(sequence))?;
        self.acknowledged(sequence)
    }

    /// Sends a dump or a get request and returns the payloads of the replies.
    pub(super) fn query(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.next_sequence();
        self.send(&message.finish(sequence))?;
        let mut found = Vec::new();
        loop {
            let datagram = self.receive()?;
            for reply in message::replies(&datagram).filter(|reply| reply.sequence == sequence) {
                match reply.errno() {
                    Some(0) => return Ok(found),
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    None if reply.kind == KIND_DONE => return Ok(found),
                    None => found.push(reply.payload.to_vec()),
                }
            }
        }
    }

    /// Sends `messages`, framed by `begin` and `end`, as one netfilter transaction: all of them or none.
    ///
    /// Each of them must ask for an acknowledgement. The socket is used up: after a failure it may hold replies.
    pub(super) fn transaction(mut self, begin: Message, messages: Vec<Message>, end: Message) -> io::Result<()> {
        let mut bytes = begin.finish(self.next_sequence());
        let mut waiting = messages.len();
        for message in messages {
            bytes.extend(message.finish(self.next_sequence()));
        }
        bytes.extend(end.finish(self.next_sequence()));
        self.send(&bytes)?;
        while waiting > 0 {
            let datagram = self.receive()?;
            for reply in message::replies(&datagram) {
                match reply.errno() {
                    Some(0) => waiting = waiting.saturating_sub(1),
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn acknowledged(&self, sequence: u32) -> io::Result<()> {
        loop {
            let datagram = self.receive()?;
            for reply in message::replies(&datagram).filter(|reply| reply.sequence == sequence) {
                match reply.errno() {
                    Some(0) => return Ok(()),
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    None => {}
                }
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => return Ok(datagram),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Flags of a dump request.
pub(super) const DUMP_ALL: u16 = DUMP | ACK;
