//! Mounts below a directory, taken away before its files are removed: what is mounted there belongs to others.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::failure::{Failure, Outcome};

/// Unmounts everything below `directory`, the last mounted first.
///
/// # Errors
/// When something stays mounted: then nothing there may be removed.
pub(super) fn unmount_below(directory: &Path) -> Outcome {
    let mountinfo = fs_err::read_to_string("/proc/self/mountinfo")?;
    for point in below(&mountinfo, directory).into_iter().rev() {
        umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|error| Failure::local(format!("cannot unmount {}", point.display())).because(error))?;
    }
    Ok(())
}

/// Mount points below `directory`, in the order in which they were mounted.
fn below(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    let points =
        mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field)));
    points.filter(|point| point.starts_with(directory)).collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (escaped, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escaped, plain);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_is_named_and_in_order() {
        let mountinfo = "\
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 0:5 / /s/nodes/node-1/agent/v\\0401 rw - tmpfs tmpfs rw
3 2 0:6 / /s/nodes/node-1/agent/v\\0401/deep rw - tmpfs tmpfs rw
4 1 0:7 / /s/nodes-of-others rw - tmpfs tmpfs rw
";
        assert_eq!(
            below(mountinfo, Path::new("/s/nodes")),
            [PathBuf::from("/s/nodes/node-1/agent/v 1"), PathBuf::from("/s/nodes/node-1/agent/v 1/deep")]
        );
    }
}
