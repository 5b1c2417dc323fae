//! Users and groups, as the image's own files name them.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::process::Invalid;

/// The longest `/etc/passwd` or `/etc/group` that is read: an image's files are nobody's to trust.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A user that the image does not have, or a text that names none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    #[error("no user {0:?} in the image's /etc/passwd")]
    UnknownUser(String),
    #[error("no group {0:?} in the image's /etc/group")]
    UnknownGroup(String),
    #[error("{0} is not a user or group id: those are 0 to {ID_MAX}")]
    NoId(String),
}

/// The kernel could take more, but programs hold ids in signed numbers, where they wrap (CVE-2024-40635).
const ID_MAX: u32 = i32::MAX.cast_unsigned();

/// A number of a request as an id.
pub(crate) fn id(number: i64) -> Result<u32, Invalid> {
    let id = u32::try_from(number).ok().filter(|id| *id <= ID_MAX);
    id.ok_or_else(|| Invalid(UserError::NoId(number.to_string()).to_string()))
}

/// What is written as a number is one, never a name: an image's files must not decide who that is (CVE-2016-3697).
fn number(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse::<u32>().ok().filter(|id| *id <= ID_MAX);
    id.map(Some).ok_or_else(|| UserError::NoId(text.to_owned()))
}

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct User {
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// The groups that list the user, and the primary one.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// The image's `/etc/passwd` and `/etc/group`.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads both from unpacked layers, lowest first; what is not there is empty.
    pub(crate) fn read<P: AsRef<Path>>(layers: &[P]) -> Self {
        let text = |path| String::from_utf8_lossy(&read_upper(layers, path).unwrap_or_default()).into_owned();
        Self { passwd: text("etc/passwd"), group: text("etc/group") }
    }

    /// Finds `user` (a name or a number; empty: root) and `group` (the same; `None`: the user's own).
    pub(crate) fn find(&self, user: &str, group: Option<&str>) -> Result<User, UserError> {
        let user = if user.is_empty() { "0" } else { user };
        let number = number(user)?;
        let entry = match number {
            Some(_) => rows(&self.passwd).find(|row| field(row, 2) == number),
            None => rows(&self.passwd).find(|row| row.first() == Some(&user)),
        };
        let Some(id) = number.or_else(|| entry.as_ref().and_then(|row| field(row, 2))) else {
            return Err(UserError::UnknownUser(user.to_owned()));
        };
        let name = entry.as_ref().and_then(|row| row.first()).copied();
        let primary = match group.filter(|group| !group.is_empty()) {
            Some(group) => self.group(group)?,
            None => entry.as_ref().and_then(|row| field(row, 3)).unwrap_or(0),
        };
        let mut groups = vec![primary];
        for row in rows(&self.group) {
            let is_member =
                name.is_some_and(|name| row.get(3).is_some_and(|list| list.split(',').any(|it| it == name)));
            if let Some(id) = field(&row, 2).filter(|id| is_member && !groups.contains(id)) {
                groups.push(id);
            }
        }
        let home = entry.as_ref().and_then(|row| row.get(5)).filter(|home| !home.is_empty()).unwrap_or(&"/");
        Ok(User { user: id, group: primary, groups, home: (*home).to_owned() })
    }

    fn group(&self, group: &str) -> Result<u32, UserError> {
        if let Some(number) = number(group)? {
            return Ok(number);
        }
        let found = rows(&self.group).find(|row| row.first() == Some(&group)).and_then(|row| field(&row, 2));
        found.ok_or_else(|| UserError::UnknownGroup(group.to_owned()))
    }
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(':').collect())
}

fn field(row: &[&str], at: usize) -> Option<u32> {
    row.get(at)?.parse().ok().filter(|id| *id <= ID_MAX)
}

/// Reads `path` as an overlay of the layers would show it.
fn read_upper<P: AsRef<Path>>(layers: &[P], path: &str) -> Option<Vec<u8>> {
    for layer in layers.iter().rev() {
        let root =
            rustix::fs::open(layer.as_ref(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if let Ok(fd) = rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
            let stat = rustix::fs::fstat(&fd).ok()?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return None; // a whiteout, or nothing to read from
            }
            let mut bytes = Vec::new();
            std::fs::File::from(fd).take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
            return Some(bytes);
        }
        // A whiteout is a device that does not open; a directory may hide all beneath it.
        if let Ok(fd) = rustix::fs::openat2(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
            && rustix::fs::fstat(&fd)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice)
        {
            return None;
        }
        let mut value = [0; 1];
        let hides = rustix::fs::getxattr(layer.as_ref().join("etc"), "trusted.overlay.opaque", &mut value);
        if hides.is_ok() && value == *b"y" {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/false\n".into(),
            group: "root:x:0:\nweb:x:102:\nlog:x:200:web,root\n".into(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups() {
        let web = User { user: 101, group: 102, groups: vec![102, 200], home: "/srv".into() };
        assert_eq!(accounts().find("web", None), Ok(web.clone()));
        assert_eq!(accounts().find("101", None), Ok(web.clone()));
        assert_eq!(accounts().find("web", Some("log")), Ok(User { group: 200, groups: vec![200], ..web }));
        assert_eq!(accounts().find("", None).unwrap().home, "/root");
        assert_eq!(accounts().find("4242", None), Ok(User { user: 4242, group: 0, groups: vec![0], home: "/".into() }));
        assert_eq!(accounts().find("nobody", None), Err(UserError::UnknownUser("nobody".into())));
        assert_eq!(accounts().find("0", Some("x")), Err(UserError::UnknownGroup("x".into())));
    }

    #[test]
    fn a_number_is_never_taken_for_a_name_and_never_wraps() {
        let hostile = "0 1 1:1 2147483648 4294967295 4294967296 99999999999 -1 0x0 root:0 +1";
        let passwd = hostile.split(' ').map(|name| format!("{name}:x:0:0::/:/bin/sh\n")).collect::<String>();
        let accounts = Accounts { passwd, group: "7:x:0:\n2147483648:x:0:\n".into() };
        assert_eq!(accounts.find("1", None).map(|user| user.user), Ok(1));
        assert_eq!(accounts.find("1", Some("7")).map(|user| user.group), Ok(7));
        for user in ["2147483648", "4294967295", "4294967296", "99999999999"] {
            assert_eq!(accounts.find(user, None), Err(UserError::NoId(user.into())));
        }
        assert_eq!(accounts.find("1", Some("2147483648")), Err(UserError::NoId("2147483648".into())));
        for user in ["1:1", "root:0"] {
            assert_eq!(accounts.find(user, None), Err(UserError::UnknownUser(user.into())));
        }
        for number in [-1, 1 << 31, 1 << 32, i64::MAX] {
            assert!(id(number).is_err(), "{number}");
        }
        assert_eq!(id(2_147_483_647), Ok(2_147_483_647));
    }
}
