//! The slots of a record: 64 bytes with a CRC, preallocated, written in place by one `pwrite`.
//!
//! A record begins with four of them; what follows never changes. A slot that is empty or torn reads as `None`,
//! which means that what it would say has not happened.

/// The bytes of a slot: one cache line, and less than any disk's sector, so that a write is whole or absent.
pub const SLOT_BYTES: usize = 64;
/// Where in a record the part begins that never changes.
pub const BODY_OFFSET: u64 = 4096;

/// What a slot is for: its place in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// READY of a sandbox, RUNNING of a container: written by the shim.
    State = 0,
    /// The end: of the pause process, of a container.
    Exit = 1,
    /// A stop that was asked for: written before the signal.
    Stop = 2,
    /// CREATED of a container, or that a sandbox was stopped: written by the daemon.
    Daemon = 3,
}

impl Place {
    /// Where it is in the record.
    pub fn offset(self) -> u64 {
        self as u64 * SLOT_BYTES as u64
    }
}

/// Some process was killed for want of memory.
pub const FLAG_OOM: u32 = 1;
/// The end was not seen by the shim: the exit code is a guess.
pub const FLAG_UNKNOWN: u32 = 2;
/// It never ran.
pub const FLAG_START_FAILED: u32 = 4;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Slot {
    /// When, nanoseconds since 1970.
    pub time: i64,
    /// A deadline (nanoseconds since 1970), or another moment that goes with it.
    pub until: i64,
    /// The exit code.
    pub code: i32,
    /// The signal.
    pub signal: i32,
    /// `FLAG_*`.
    pub flags: u32,
    /// A process id, for people only: nobody signals it.
    pub pid: i32,
}

const MAGIC: u32 = 0x7053_6c74;

impl Slot {
    /// As it stands in the file.
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.time.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.until.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.code.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.signal.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.pid.to_le_bytes());
        let crc = crc32(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What the file says; `None` where nothing whole was written.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SLOT_BYTES)?;
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let long = |at: usize| {
            let (low, high) = (u32::from_le_bytes(word(at)), u32::from_le_bytes(word(at + 4)));
            (u64::from(low) | u64::from(high) << 32).cast_signed()
        };
        if u32::from_le_bytes(word(0)) != MAGIC || u32::from_le_bytes(word(60)) != crc32(&bytes[..60]) {
            return None;
        }
        Some(Self {
            flags: u32::from_le_bytes(word(4)),
            time: long(8),
            until: long(16),
            code: i32::from_le_bytes(word(24)),
            signal: i32::from_le_bytes(word(28)),
            pid: i32::from_le_bytes(word(32)),
        })
    }
}

/// The CRC-32 of IEEE 802.3, bit by bit: it runs over 60 bytes.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_reads_as_it_was_written_and_a_torn_one_as_nothing() {
        let slot = Slot { time: -5, until: i64::MAX, code: 137, signal: 9, flags: FLAG_OOM, pid: 42 };
        let mut bytes = slot.encode();
        assert_eq!(Slot::decode(&bytes), Some(slot));
        bytes[25] ^= 1;
        assert_eq!(Slot::decode(&bytes), None);
        assert_eq!(Slot::decode(&[0; SLOT_BYTES]), None);
    }

    #[test]
    fn the_crc_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
