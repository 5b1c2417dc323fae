//! A reader of tar archives that two readers cannot read differently: what is ambiguous is an error.
//!
//! It knows POSIX ustar and pax, GNU long names and base-256 numbers. Sparse files and unknown types are refused.
//! Memory is bounded: an extended header is at most `extension_bytes`, data is streamed.

use std::io::{self, Read};

const BLOCK: usize = 512;
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry's header, with extended headers applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The name as it stands in the archive.
    pub(super) path: Vec<u8>,
    /// The target of a link, else empty.
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) modified: i64,
    /// Bytes of data that follow.
    pub(super) size: u64,
    pub(super) major: u32,
    pub(super) minor: u32,
    /// Extended attributes, name and value.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source failed or ended early.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The archive says something that is wrong or that podbus does not take.
    #[error("{0} at byte {1}")]
    Invalid(&'static str, u64),
}

/// Reads entries one after another: [`Reader::next`], then the entry's data by [`Read`].
pub(super) struct Reader<R> {
    input: R,
    offset: u64,
    data_left: u64,
    padding: u64,
    extension_bytes_max: u64,
}

/// What extended headers said about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<i64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Reader<R> {
    /// Reads an uncompressed archive.
    pub(super) fn new(input: R, extension_bytes_max: u64) -> Self {
        Reader { input, offset: 0, data_left: 0, padding: 0, extension_bytes_max }
    }

    /// The next entry, None at the end of the archive. Data that was not read is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            self.check_sum(&block)?;
            let size = self.number(&block[124..136])?;
            match block[156] {
                b'x' => {
                    let records = self.extension(size)?;
                    self.apply_pax(&records, &mut extensions)?;
                }
                b'g' => drop(self.extension(size)?), // defaults for a whole archive: comments, in practice
                b'L' => extensions.path = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => extensions.link = Some(until_nul(&self.extension(size)?).to_vec()),
                _ => return self.entry(&block, size, extensions).map(Some),
            }
        }
    }

    /// Ends the reading and gives the source back, which may still hold what follows the archive.
    pub(super) fn into_inner(self) -> R {
        self.input
    }

    fn entry(&mut self, block: &[u8; BLOCK], header_size: u64, ext: Extensions) -> Result<Entry, TarError> {
        let path = ext.path.unwrap_or_else(|| header_path(block));
        let link = ext.link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec());
        let kind = match block[156] {
            b'0' | b'\0' if path.ends_with(b"/") => Kind::Directory, // as tar of Version 7 wrote them
            b'0' | b'\0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(self.invalid("a sparse file")),
            _ => return Err(self.invalid("an entry of an unknown type")),
        };
        let size = self.entry_size(kind, header_size, ext.size)?;
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let device = |this: &Self, range: std::ops::Range<usize>| {
            if is_device { this.number32(this.number(&block[range])?) } else { Ok(0) }
        };
        let (major, minor) = (device(self, 329..337)?, device(self, 337..345)?);
        let uid = self.number32(ext.uid.map_or_else(|| self.number(&block[108..116]), Ok)?)?;
        let gid = self.number32(ext.gid.map_or_else(|| self.number(&block[116..124]), Ok)?)?;
        let mode = self.number32(self.number(&block[100..108])? & 0o7777)?;
        let modified = ext.modified.map_or_else(|| self.time(&block[136..148]), Ok)?;
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(Entry { path, link, kind, mode, uid, gid, modified, size, major, minor, xattrs: ext.xattrs })
    }

    /// Header and pax must agree on the size: else one reader finds entries where another finds data.
    fn entry_size(&self, kind: Kind, header: u64, pax: Option<u64>) -> Result<u64, TarError> {
        const HEADER_MAX: u64 = 0o77_777_777_777; // what fits; larger sizes are in pax alone
        if let Some(pax) = pax
            && header != pax
            && header != 0
            && header != HEADER_MAX
        {
            return Err(self.invalid("two sizes for one entry"));
        }
        let size = pax.unwrap_or(header);
        match kind {
            Kind::File if size < 1 << 60 => Ok(size),
            Kind::HardLink => Ok(0), // some writers repeat the file's size; no data follows
            _ if size == 0 => Ok(0),
            Kind::File => Err(self.invalid("an impossible size")),
            _ => Err(self.invalid("data where none can be")),
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > self.extension_bytes_max {
            return Err(self.invalid("an extended header that is too long"));
        }
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(self.cut_off()) }
    }

    /// Records of the form `<length> <key>=<value>\n`.
    fn apply_pax(&self, mut records: &[u8], ext: &mut Extensions) -> Result<(), TarError> {
        const BAD: &str = "a damaged extended header";
        while !records.is_empty() {
            let space = records.iter().position(|&byte| byte == b' ').ok_or_else(|| self.invalid(BAD))?;
            let length = decimal(&records[..space]).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|&length| length > space + 1 && length <= records.len());
            let (record, rest) = records.split_at(length.ok_or_else(|| self.invalid(BAD))?);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(|| self.invalid(BAD))?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(|| self.invalid(BAD))?;
            self.apply_record(&record[..equals], &record[equals + 1..], ext)?;
            records = rest;
        }
        Ok(())
    }

    fn apply_record(&self, key: &[u8], value: &[u8], ext: &mut Extensions) -> Result<(), TarError> {
        let number = || decimal(value).ok_or_else(|| self.invalid("a number that is none in an extended header"));
        match key {
            b"path" => ext.path = Some(value.to_vec()),
            b"linkpath" => ext.link = Some(value.to_vec()),
            b"size" => ext.size = Some(number()?),
            b"uid" => ext.uid = Some(number()?),
            b"gid" => ext.gid = Some(number()?),
            b"mtime" => ext.modified = Some(seconds(value)),
            key if key.starts_with(b"GNU.sparse.") => return Err(self.invalid("a sparse file")),
            key => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    ext.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let left = self.data_left + self.padding;
        let skipped = io::copy(&mut (&mut self.input).take(left), &mut io::sink())?;
        self.offset += skipped;
        (self.data_left, self.padding) = (0, 0);
        if skipped == left { Ok(()) } else { Err(self.cut_off()) }
    }

    /// The next 512 bytes; None if the source ends here.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.cut_off()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    fn check_sum(&self, block: &[u8; BLOCK]) -> Result<(), TarError> {
        let as_spaces = |(index, byte): (usize, &u8)| if (148..156).contains(&index) { b' ' } else { *byte };
        let sum: u64 = block.iter().enumerate().map(|pair| u64::from(as_spaces(pair))).sum();
        if self.number(&block[148..156]).is_ok_and(|stated| stated == sum) {
            Ok(())
        } else {
            Err(self.invalid("not a header of a tar archive (its check sum is wrong)"))
        }
    }

    /// Octal digits between spaces and NULs, or, with the first bit set, a base-256 number.
    fn number(&self, field: &[u8]) -> Result<u64, TarError> {
        const BAD: &str = "a number that is none";
        if field[0] & 0x80 != 0 {
            let (zeros, value) = field.split_at(field.len().saturating_sub(8));
            let high_is_zero = zeros.iter().enumerate().all(|(at, &byte)| byte == if at == 0 { 0x80 } else { 0 });
            // In the 8-byte fields the mark shares a byte with the value.
            let mut bytes = [0; 8];
            bytes.copy_from_slice(value);
            if zeros.is_empty() {
                bytes[0] &= 0x7f;
            }
            return if high_is_zero { Ok(u64::from_be_bytes(bytes)) } else { Err(self.invalid(BAD)) };
        }
        let digits = field.trim_ascii_start();
        let end = digits.iter().position(|&byte| byte == 0 || byte == b' ').unwrap_or(digits.len());
        digits[..end].iter().try_fold(0u64, |value, &digit| match digit {
            b'0'..=b'7' => Ok(value * 8 + u64::from(digit - b'0')), // 12 digits at most: 36 bits
            _ => Err(self.invalid(BAD)),
        })
    }

    fn number32(&self, value: u64) -> Result<u32, TarError> {
        u32::try_from(value).map_err(|_| self.invalid("an id or a mode that is too large"))
    }

    /// A time before 1970, which some writers have in base 256, counts as 1970.
    fn time(&self, field: &[u8]) -> Result<i64, TarError> {
        if field[0] == 0xff {
            return Ok(0);
        }
        Ok(i64::try_from(self.number(field)?).unwrap_or(0))
    }

    fn invalid(&self, what: &'static str) -> TarError {
        TarError::Invalid(what, self.offset)
    }

    fn cut_off(&self) -> TarError {
        let text = format!("the archive is cut off after byte {}", self.offset);
        TarError::Read(io::Error::new(io::ErrorKind::UnexpectedEof, text))
    }
}

/// The data of the entry that [`Reader::next`] returned last.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buffer[..room])?;
        if read == 0 {
            let text = format!("the archive is cut off after byte {}", self.offset);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.data_left -= read as u64;
        self.offset += read as u64;
        Ok(read)
    }
}

fn header_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[0..100]);
    // GNU's magic has a space here, and other things in the prefix's place.
    let prefix = if &block[257..263] == b"ustar\0" { until_nul(&block[345..500]) } else { &[] };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

fn decimal(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// The whole seconds of `1700000000.123`; what is before 1970 or no number counts as 1970.
fn seconds(value: &[u8]) -> i64 {
    let whole = value.split(|&byte| byte == b'.').next().unwrap_or_default();
    decimal(whole).and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header with a right check sum.
    fn header(name: &str, kind: u8, size: &[u8; 12], uid: &[u8; 8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[108..116].copy_from_slice(uid);
        block[116..123].copy_from_slice(b"0000000");
        block[124..136].copy_from_slice(size);
        block[136..147].copy_from_slice(b"00000000017");
        block[148..156].fill(b' ');
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut reader = Reader::new(bytes, 1 << 20);
        let mut found = Vec::new();
        while let Some(entry) = reader.next()? {
            let mut data = Vec::new();
            reader.read_to_end(&mut data)?;
            found.push((entry, data));
        }
        Ok(found)
    }

    fn padded(data: &[u8]) -> Vec<u8> {
        let mut data = data.to_vec();
        data.resize(data.len().next_multiple_of(BLOCK), 0);
        data
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        let base_256 = *b"\x80\0\0\0\0\0\0\0\0\0\0\x03";
        let archive = [header("a", b'0', &base_256, b"\x80\0\0\0\0\x98\x96\x80"), padded(b"abc")].concat();
        let (entry, data) = read_all(&archive).unwrap().remove(0);
        assert_eq!((entry.uid, entry.modified, data.as_slice()), (10_000_000, 15, &b"abc"[..]));
        let negative = header("a", b'0', b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"0000000\0");
        assert!(read_all(&negative).is_err(), "a negative size");
        let letters = header("a", b'0', b"0000000000x\0", b"0000000\0");
        assert!(read_all(&letters).is_err());
    }

    #[test]
    fn data_that_is_not_read_is_skipped() {
        let archive = [
            header("a", b'0', b"00000000003\0", b"0000000\0"),
            padded(b"abc"),
            header("b", b'5', &[0; 12], b"0000000\0"),
        ];
        let archive = archive.concat();
        let mut reader = Reader::new(archive.as_slice(), 1 << 20);
        assert_eq!(reader.next().unwrap().unwrap().path, b"a");
        assert_eq!(reader.next().unwrap().unwrap().kind, Kind::Directory);
        assert!(reader.next().unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_change_of_an_archive_is_read_or_refused_and_never_more_than_it_holds(
            changes in proptest::collection::vec((0usize..4096, any::<u8>()), 0..12),
            cut in 0usize..4096,
        ) {
            let pax = b"30 mtime=1700000000.123456789\n12 path=abc\n";
            let mut archive = [
                header("PaxHeader", b'x', b"00000000052\0", b"0000000\0"), padded(pax),
                header("a", b'0', b"00000001000\0", b"0000000\0"), padded(&[7; BLOCK]),
                header("././@LongLink", b'L', b"00000000003\0", b"0000000\0"), padded(b"new"),
                header("b", b'2', &[0; 12], b"0000000\0"), vec![0; 2 * BLOCK],
            ].concat();
            for (at, byte) in changes {
                if let Some(place) = archive.get_mut(at) {
                    *place = byte;
                }
            }
            archive.truncate(cut.max(BLOCK));
            if let Ok(entries) = read_all(&archive) {
                let data: usize = entries.iter().map(|(_, data)| data.len()).sum();
                prop_assert!(data + entries.len() * BLOCK <= archive.len());
            }
        }
    }
}
