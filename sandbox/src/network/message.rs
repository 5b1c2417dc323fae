//! Netlink's wire format: building requests and reading replies. Pure.
//!
//! A message is a 16-byte header, a fixed header of its family, and attributes, each padded to four bytes
//! (`man 7 netlink`). Integers are in the host's order, except where nfnetlink wants network order.

/// `NLM_F_REQUEST`: every message to the kernel carries it.
pub(super) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: the kernel answers with an error message, of code 0 when all went well.
pub(super) const ACK: u16 = 0x4;
/// `NLM_F_REPLACE`: replace an existing object.
pub(super) const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: fail if the object exists.
pub(super) const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: make the object if it does not exist.
pub(super) const CREATE: u16 = 0x400;
/// `NLM_F_DUMP`: `NLM_F_ROOT | NLM_F_MATCH`, all objects.
pub(super) const DUMP: u16 = 0x300;

/// `NLMSG_ERROR`: an acknowledgement or an error.
pub(super) const KIND_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub(super) const KIND_DONE: u16 = 3;

/// `NLA_F_NESTED`; netfilter asks for it, routing ignores it.
const NESTED: u16 = 0x8000;
const HEADER_BYTES: usize = 16;
const ATTRIBUTE_BYTES: usize = 4;

/// A request under construction. The sequence number is written when it is sent.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of `kind` with the family's fixed `header`.
    pub(super) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]); // sequence and port
        bytes.extend_from_slice(header);
        pad(&mut bytes);
        Message { bytes }
    }

    /// Adds an attribute with these bytes as its value.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start)
    }

    /// Adds a 32-bit attribute in the host's order.
    pub(super) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds a 32-bit attribute in network order, as nfnetlink has them.
    pub(super) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds a string that ends in NUL.
    pub(super) fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start)
    }

    /// Adds raw bytes without an attribute around them: the fixed header inside `VETH_INFO_PEER`.
    pub(super) fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    /// Adds an attribute whose value is what `fill` adds.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.open(kind | NESTED);
        fill(self);
        self.close(start)
    }

    /// The finished bytes, with their length and `sequence`.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) -> &mut Self {
        // Requests here are a few hundred bytes; a length that does not fit is refused by the kernel.
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        pad(&mut self.bytes);
        self
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    /// Its type.
    pub(super) kind: u16,
    /// The sequence number of the request that it answers.
    pub(super) sequence: u32,
    /// What follows the netlink header.
    pub(super) payload: &'a [u8],
}

impl Reply<'_> {
    /// The error number of an error message, positive; 0 is an acknowledgement. None for other messages.
    pub(super) fn errno(&self) -> Option<i32> {
        if self.kind != KIND_ERROR {
            return None;
        }
        Some(u32_at(self.payload, 0).map_or(libc_eproto(), |code| -(code.cast_signed())))
    }
}

fn libc_eproto() -> i32 {
    nix::errno::Errno::EPROTO as i32
}

/// The messages in one datagram. A truncated message ends the iteration.
pub(super) fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        if length < HEADER_BYTES || length > bytes.len() {
            return None;
        }
        let reply =
            Reply { kind: u16_at(bytes, 4)?, sequence: u32_at(bytes, 8)?, payload: &bytes[HEADER_BYTES..length] };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(reply)
    })
}

/// The attributes in `bytes`, type and value; flags of the type are removed.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        if length < ATTRIBUTE_BYTES || length > bytes.len() {
            return None;
        }
        let item = (u16_at(bytes, 2)? & 0x3fff, &bytes[ATTRIBUTE_BYTES..length]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(item)
    })
}

/// The value of the first attribute of `kind`.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// Two bytes at `offset`, in the host's order.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// Four bytes at `offset`, in the host's order.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// A string that ends in NUL or with the slice.
pub(super) fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let mut message = Message::new(16, ACK, &[7; 5]);
        message.string(3, "eth0").u32(4, 1500).nest(18, |inner| {
            inner.string(1, "veth");
        });
        let bytes = message.finish(42);
        let reply = replies(&bytes).next().unwrap();
        assert_eq!((reply.kind, reply.sequence), (16, 42));
        let attributes_at = &reply.payload[8..];
        assert_eq!(text(find(attributes_at, 3).unwrap()), "eth0");
        assert_eq!(u32_at(find(attributes_at, 4).unwrap(), 0), Some(1500));
        assert_eq!(text(find(find(attributes_at, 18).unwrap(), 1).unwrap()), "veth");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn an_error_reply_carries_its_number() {
        let mut bytes = Message::new(KIND_ERROR, 0, &(-17i32).to_ne_bytes()).finish(1);
        assert_eq!(replies(&bytes).next().unwrap().errno(), Some(17));
        bytes.truncate(16);
        bytes[0..4].copy_from_slice(&16u32.to_ne_bytes());
        assert_ne!(replies(&bytes).next().unwrap().errno(), Some(0), "a cut reply is not an acknowledgement");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic_or_endless_loop(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for reply in replies(&bytes).take(200) {
                let _ = reply.errno();
                prop_assert!(attributes(reply.payload).count() <= 200);
            }
            prop_assert!(attributes(&bytes).count() <= 200);
        }
    }
}
