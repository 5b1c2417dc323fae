use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{Mode, OFlags, mkdirat, openat};

use super::*;

/// Directories in each other, so many that no path leads to the last, and a file of 64 KiB in that.
fn deep(top: &Path, depth: usize) {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(top, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, c"d", Mode::RWXU).unwrap();
        at = openat(&at, c"d", flags, Mode::empty()).unwrap();
    }
    let file = openat(&at, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
    rustix::io::write(&file, &vec![1; 64 << 10]).unwrap();
}

/// What a walk finds in steps of one entry.
fn walked(top: &Path) -> Holding {
    let mut walk = Walk::new(top).unwrap();
    while !walk.advance(1) {}
    walk.holding()
}

#[test]
fn trees_of_any_depth_and_directories_of_any_size_are_removed() {
    let root = tempfile::tempdir().unwrap();
    let top = root.path().join("top");
    fs::create_dir(&top).unwrap();
    deep(&top, 5_000);
    fs::create_dir_all(top.join(".podbus-removing-1/left")).unwrap();
    fs::create_dir(top.join("wide")).unwrap();
    for number in 0..5000 {
        fs::File::create(top.join("wide").join(number.to_string())).unwrap();
    }
    remove(&top).unwrap();
    assert!(!top.exists());
    remove(&top).unwrap();
    remove(&top.join("beneath what is gone")).unwrap();
}

#[test]
fn a_link_is_removed_and_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let outside = root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "").unwrap();
    let top = root.path().join("top");
    fs::create_dir(&top).unwrap();
    symlink(&outside, top.join("link")).unwrap();
    symlink(&top, root.path().join("top-link")).unwrap();
    remove(&root.path().join("top-link")).unwrap();
    assert!(top.join("link").is_symlink());
    remove(&top).unwrap();
    assert!(!top.exists() && outside.join("precious").exists());
}

#[test]
fn what_lies_deeper_than_a_path_can_tell_is_counted() {
    let root = tempfile::tempdir().unwrap();
    let top = root.path().join("top");
    fs::create_dir(&top).unwrap();
    deep(&top, 5_000);
    for name in ["before", "zz"] {
        fs::create_dir_all(top.join(name).join("x/y")).unwrap();
    }
    let held = walked(&top);
    assert_eq!(held.inodes, 5_000 + 1 + 6);
    assert!(held.bytes >= 64 << 10, "{held:?}");
    remove(&top).unwrap();
}

#[test]
fn a_file_with_two_names_counts_once_and_no_link_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/a"), vec![1; 64 << 10]).unwrap();
    fs::hard_link(dir.path().join("sub/a"), dir.path().join("b")).unwrap();
    symlink(outside.path(), dir.path().join("link")).unwrap();
    let held = walked(dir.path());
    assert_eq!(held.inodes, 3);
    assert!((64 << 10..128 << 10).contains(&held.bytes), "{held:?}");
    assert!(Walk::new(&dir.path().join("none")).is_err());
}

#[test]
fn a_walk_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..100 {
        let sub = dir.path().join(n.to_string());
        fs::create_dir_all(sub.join("a/b")).unwrap();
        fs::write(sub.join("f"), "x").unwrap();
    }
    let mut walk = Walk::new(dir.path()).unwrap();
    assert!(!walk.advance(5));
    assert!(walk.advance(u64::MAX));
    assert_eq!(walk.holding().inodes, 400);
    assert_eq!(walked(dir.path()).inodes, 400);
}
