//! hostPath: the types, checked with the kubelet's words.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use fs_err as fs;

/// Checks that `path` is what `kind` says, and makes what may be made.
pub(super) fn check(path: &Path, kind: &str) -> io::Result<()> {
    match kind {
        // No check; runtimes make a directory of what is missing.
        "" => match exists(path)? {
            true => Ok(()),
            false => fs::create_dir_all(path),
        },
        "DirectoryOrCreate" => {
            if !exists(path)? {
                fs::create_dir_all(path)?;
                fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
            }
            must_be(path, "a directory", Metadata::is_dir)
        }
        "FileOrCreate" => {
            if !exists(path)? {
                fs::File::create(path)?.set_permissions(std::fs::Permissions::from_mode(0o644))?;
            }
            must_be(path, "a file", Metadata::is_file)
        }
        "Directory" => must_be(path, "a directory", Metadata::is_dir),
        "File" => must_be(path, "a file", Metadata::is_file),
        "Socket" => must_be(path, "a socket file", |m| m.file_type().is_socket()),
        "CharDevice" => must_be(path, "a character device", |m| m.file_type().is_char_device()),
        "BlockDevice" => must_be(path, "a block device", |m| m.file_type().is_block_device()),
        other => Err(io::Error::other(format!("hostPath type {other} is not known"))),
    }
}

/// Links are followed: the path is the node's, and so are they.
fn must_be(path: &Path, what: &str, is: impl Fn(&Metadata) -> bool) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if is(&metadata) => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Err(io::Error::other(format!("hostPath type check failed: {} is not {what}", path.display()))),
    }
}

fn exists(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
