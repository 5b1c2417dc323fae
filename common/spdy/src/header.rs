//! Header blocks: names and values, compressed with one zlib stream for each direction of a connection.

use std::fmt;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;
use super::frame::Error;

/// The longest block, unpacked. What Kubernetes' clients send has some 60 bytes.
const BLOCK_BYTES_MAX: usize = 32 << 10;

/// The headers of a stream: names in lower case, and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(Vec<u8>, Vec<u8>)>);

impl Headers {
    /// Headers of text.
    pub fn new(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect())
    }

    /// The first value of a header, where it is text.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name.as_bytes())?;
        let first = value.split(|byte| *byte == 0).next()?; // several are joined by NUL
        std::str::from_utf8(first).ok()
    }

    fn parse(block: &[u8]) -> Option<Self> {
        let (count, mut rest) = number(block)?;
        let mut text = || {
            let (length, after) = number(rest)?;
            let (value, after) = after.split_at_checked(length as usize)?;
            rest = after;
            Some(value.to_vec())
        };
        // Each takes 8 bytes at least, so that a count that lies costs nothing.
        let pairs = (0..count).map(|_| Some((text()?, text()?))).collect::<Option<Vec<_>>>()?;
        rest.is_empty().then_some(Self(pairs))
    }

    fn block(&self) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut block = u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&length(text));
            block.extend_from_slice(text);
        }
        block
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

/// Unpacks the blocks of one direction, in order.
pub(super) struct Unpacker(Decompress);

impl Default for Unpacker {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    pub(super) fn unpack(&mut self, packed: &[u8]) -> Result<Headers, Error> {
        let mut block = Vec::with_capacity(512);
        let mut rest = packed;
        loop {
            let before = (self.0.total_in(), block.len());
            let status = self.0.decompress_vec(rest, &mut block, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before.0).unwrap_or(rest.len());
            rest = rest.get(taken..).ok_or(Error::Headers)?;
            match status {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(dictionary()).map_err(|_| Error::Headers)?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(Error::Headers),
                Ok(Status::Ok | Status::BufError) => {}
            }
            if block.len() > BLOCK_BYTES_MAX {
                return Err(Error::Headers);
            }
            if block.len() < block.capacity() {
                // All that came is unpacked: what is left would be no part of the block.
                return if rest.is_empty() {
                    Headers::parse(&block).ok_or(Error::Headers)
                } else {
                    Err(Error::Headers)
                };
            }
            block.reserve(block.len());
        }
    }
}

/// Packs the blocks of one direction, in order.
pub(super) struct Packer(Compress);

impl Default for Packer {
    fn default() -> Self {
        Self(Compress::new(Compression::fast(), true))
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    pub(super) fn pack(&mut self, headers: &Headers) -> Vec<u8> {
        if self.0.total_in() == 0 && self.0.total_out() == 0 {
            // Fails only once the stream has begun.
            let _ = self.0.set_dictionary(dictionary());
        }
        let block = headers.block();
        let mut rest = &block[..];
        let mut packed = Vec::with_capacity(block.len() + 64);
        loop {
            let before = self.0.total_in();
            let _ = self.0.compress_vec(rest, &mut packed, FlushCompress::Sync); // never fails with a valid flush
            rest = &rest[usize::try_from(self.0.total_in() - before).unwrap_or(rest.len())..];
            if rest.is_empty() && packed.len() < packed.capacity() {
                return packed;
            }
            packed.reserve(64 + rest.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_connection_are_unpacked_in_order() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        for kind in ["error", "stdin", "stdout", "resize"] {
            let headers = Headers::new(&[("streamtype", kind), ("port", "")]);
            let packed = packer.pack(&headers);
            assert_eq!(unpacker.unpack(&packed).unwrap(), headers);
        }
        assert_eq!(unpacker.unpack(b"no zlib at all"), Err(Error::Headers));
    }

    #[test]
    fn a_block_that_grows_without_end_is_refused() {
        let bomb = Headers(vec![(b"x".to_vec(), vec![0; 2 << 20])]);
        let packed = Packer::default().pack(&bomb);
        assert!(packed.len() < BLOCK_BYTES_MAX, "{}", packed.len());
        assert_eq!(Unpacker::default().unpack(&packed), Err(Error::Headers));
    }

    #[test]
    fn the_block_of_another_implementation_is_understood() {
        // As zlib.compressobj(zdict=...) of Python 3 packs {"streamtype": "error"}, flushed with Z_SYNC_FLUSH.
        let packed = include_bytes!("testdata/streamtype_error.bin");
        assert_eq!(Unpacker::default().unpack(packed).unwrap(), Headers::new(&[("streamtype", "error")]));
    }

    #[test]
    fn of_several_values_the_first_counts() {
        let headers = Headers(vec![(b"port".to_vec(), b"80\x0081".to_vec()), (b"odd".to_vec(), vec![0xff])]);
        assert_eq!((headers.get("port"), headers.get("odd"), headers.get("none")), (Some("80"), None, None));
    }
}
