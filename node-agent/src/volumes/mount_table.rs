//! What is mounted where, read from mountinfo.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;

/// Whether something is mounted exactly at `path`.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result?,
    };
    Ok(mount_points()?.contains(&path))
}

/// The mount points at or beneath `directory`, the innermost and newest first: the order to unmount them in.
pub(super) fn beneath(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut points: Vec<_> = mount_points()?.into_iter().filter(|point| point.starts_with(directory)).collect();
    points.reverse(); // mountinfo lists a mount after the one that it is on
    Ok(points)
}

fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/thread-self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(mount_point).collect())
}

/// The fifth field of a line.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    Some(PathBuf::from(OsString::from_vec(unescape(field))))
}

/// Blanks, tabs, line feeds and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_read_with_its_blanks() {
        let line = br"36 35 98:0 / /var/a\040b\134c rw,noatime shared:1 - ext4 /dev/sda1 rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/var/a b\c")));
        assert_eq!(mount_point(b""), None);
        assert_eq!(unescape(br"a\9"), br"a\9");
    }

    #[test]
    fn the_proc_file_system_is_a_mount_point_and_its_files_are_not() {
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(Path::new("/proc/self")).unwrap());
        assert!(!is_mount_point(Path::new("/nowhere")).unwrap());
    }
}
