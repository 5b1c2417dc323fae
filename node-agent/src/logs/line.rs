//! One line of a log as CRI writes it: `2026-01-02T03:04:05.678901234Z stdout F some text`.

use podbus_common::model::Timestamp;

/// A parsed line. Its newline is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// As written.
    pub(super) time: &'a [u8],
    pub(super) stderr: bool,
    /// What the process wrote goes on in the next line.
    pub(super) partial: bool,
    pub(super) content: &'a [u8],
}

impl<'a> Line<'a> {
    /// `None`: not in the format. It was torn by a power cut, or written by something else.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = field(line)?;
        let (stream, rest) = field(rest)?;
        // Content may be absent with its blank.
        let (tags, content) = field(rest).unwrap_or((rest, b""));
        let stderr = match stream {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let partial = match tags.split(|byte| *byte == b':').next()? {
            b"F" => false,
            b"P" => true,
            _ => return None,
        };
        Some(Self { time, stderr, partial, content })
    }

    /// When it was written.
    pub(super) fn timestamp(&self) -> Option<Timestamp> {
        str::from_utf8(self.time).ok()?.parse().ok()
    }
}

fn field(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = text.iter().position(|byte| *byte == b' ')?;
    Some((&text[..blank], &text[blank + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_streams_are_parsed_whole_or_partial() {
        type Parsed<'a> = Option<(bool, bool, &'a [u8])>;
        let cases: [(&[u8], Parsed<'_>); 9] = [
            (b"2026-01-02T03:04:05Z stdout F hello world", Some((false, false, b"hello world"))),
            (b"2026-01-02T03:04:05Z stderr P hel", Some((true, true, b"hel"))),
            (b"2026-01-02T03:04:05Z stdout F ", Some((false, false, b""))),
            (b"2026-01-02T03:04:05Z stdout F", Some((false, false, b""))),
            (b"2026-01-02T03:04:05Z stdout F:x  y", Some((false, false, b" y"))),
            (b"2026-01-02T03:04:05Z stdout X y", None),
            (b"2026-01-02T03:04:05Z stdin F y", None),
            (b"torn", None),
            (b"", None),
        ];
        for (text, expected) in cases {
            let parsed = Line::parse(text).map(|l| (l.stderr, l.partial, l.content));
            assert_eq!(parsed, expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn the_time_is_read_with_its_fraction() {
        let line = Line::parse(b"2025-11-24T16:00:00.250999999Z stdout F x").unwrap();
        assert_eq!(line.timestamp().map(|t| t.unix_ms), Some(1_764_000_000_250));
    }
}
