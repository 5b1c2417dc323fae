//! Digests of content: `sha256:` and 64 small hexadecimal digits. Pure.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::limits::Budget;

/// A sha256 digest. A file may be named after it: it has no other characters than hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Digest([u8; 32]);

/// The text is no digest that podbus knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest of the form sha256:<64 hexadecimal digits>")]
pub(super) struct InvalidDigest(String);

impl Digest {
    /// The digest of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits.
    pub(super) fn hex(&self) -> String {
        use std::fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}"); // a String takes every write
            text
        })
    }

    /// Reads 64 small hexadecimal digits.
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        let small = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != 64 || !hex.bytes().all(small) {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Digest(bytes))
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("sha256:").and_then(Digest::from_hex).ok_or_else(|| InvalidDigest(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes the digest of what passes through it.
#[derive(Clone)]
pub(super) struct Hasher {
    state: Sha256,
    bytes: u64,
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub(super) fn new() -> Self {
        Hasher { state: Sha256::new(), bytes: 0 }
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Bytes seen so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of all bytes.
    pub(super) fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

/// A reader that hashes what is read and fails beyond its limits.
pub(super) struct HashingReader<'a, R> {
    input: R,
    hasher: Hasher,
    bytes_max: u64,
    budget: &'a Budget,
}

impl<'a, R: Read> HashingReader<'a, R> {
    /// Hashes `input` and takes at most `bytes_max` bytes of it, and what `budget` has.
    pub(super) fn new(input: R, bytes_max: u64, budget: &'a Budget) -> Self {
        HashingReader { input, hasher: Hasher::new(), bytes_max, budget }
    }

    /// Reads to the end and returns the digest of everything and its length.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        let mut buffer = vec![0; 64 << 10];
        while self.read(&mut buffer)? > 0 {}
        let bytes = self.hasher.bytes();
        Ok((self.hasher.finish(), bytes))
    }
}

impl<R: Read> Read for HashingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        if !self.budget.take(read as u64) {
            let whole = self.budget.whole;
            let limit = format!("the image unpacks to more than {whole} bytes, which --image-bytes-max allows");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, limit));
        }
        if self.hasher.bytes() > self.bytes_max {
            let limit =
                format!("it unpacks to more than {} bytes, which is out of proportion to its size", self.bytes_max);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, limit));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(text.parse(), Ok(Digest::of(b"")));
    }

    #[test]
    fn a_digest_that_could_name_another_file_is_refused() {
        let long = format!("sha256:{}0", "0".repeat(64));
        let upper = format!("sha256:{}", "A".repeat(64));
        let multi = format!("sha256:{}", "é".repeat(32));
        for text in ["", "sha256:", "sha256:..", "md5:00", "sha256:/etc/passwd", &long, &upper, &multi] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_reader_stops_beyond_its_limit_and_not_at_it() {
        let read = |bytes_max, budget| HashingReader::new(&b"abcd"[..], bytes_max, &Budget::new(budget)).finish();
        assert_eq!(read(4, 4).unwrap(), (Digest::of(b"abcd"), 4));
        assert!(read(3, 4).is_err() && read(4, 3).is_err());
    }
}
