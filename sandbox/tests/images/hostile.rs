//! Archives that try to reach out of their layer, to mislead overlayfs, or to exhaust the node.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sha2::{Digest as _, Sha256};

use super::pack::{Archive, Form, Header, Layer, docker_archive, gzip, hex, oci_archive, pax_record, zstd};
use super::{Fixture, mode};

/// A directory beside the store that no layer may touch.
struct Canary {
    fixture: Fixture,
}

impl Canary {
    fn new() -> Self {
        let fixture = Fixture::new();
        let canary = fixture.dir.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("file"), "untouched").unwrap();
        fs::set_permissions(canary.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        Canary { fixture }
    }

    /// The canary's absolute path.
    fn path(&self) -> String {
        self.fixture.dir.path().join("canary").display().to_string()
    }

    /// The way from a layer's root to the canary, taken literally.
    fn relative(&self) -> String {
        format!("{}{}", "../".repeat(20), self.path().trim_start_matches('/'))
    }

    fn assert_untouched(&self) {
        let path = self.fixture.dir.path().join("canary");
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(fs::read(path.join("file")).unwrap(), b"untouched");
        assert_eq!((mode(&path.join("file")), mode(&path)), (0o600, 0o755));
    }

    fn refuse(&self, archive: Archive, reason: &str) {
        let error = self.fixture.refuse(&docker_archive("localhost/x:1", &[archive.layer()]));
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
        self.assert_untouched();
    }
}

#[test]
fn a_path_that_leaves_the_layer_is_refused() {
    let canary = Canary::new();
    for path in [canary.relative(), "a/../../b".into(), "..".into(), "./../x".into(), "a/..".into()] {
        canary.refuse(Archive::new().file(&path, b"bad"), "a path with `..` in it");
        canary.refuse(Archive::new().directory(&path, 0o777), "a path with `..` in it");
        canary.refuse(Archive::new().symlink(&path, "x"), "a path with `..` in it");
    }
}

#[test]
fn an_absolute_path_is_taken_from_the_layers_root() {
    let canary = Canary::new();
    let path = format!("{}/new", canary.path());
    let root = canary.fixture.load(&[Archive::new().file(&path, b"inside").layer()]).remove(0);
    assert_eq!(fs::read(root.join(path.trim_start_matches('/'))).unwrap(), b"inside");
    canary.assert_untouched();
}

#[test]
fn nothing_is_written_through_a_link_that_the_archive_made() {
    let canary = Canary::new();
    for target in [canary.path(), canary.relative()] {
        // Followed inside the layer, the link leads to nothing.
        let through = Archive::new().symlink("link", &target).file("link/new", b"bad");
        canary.refuse(through, "entry \"link/new\"");
        let chained = Archive::new().symlink("a", "b").symlink("b", &target).file("a/new", b"bad");
        canary.refuse(chained, "entry \"a/new\"");
        let directory = Archive::new().symlink("link", &target).directory("link/new", 0o777);
        canary.refuse(directory, "entry \"link/new\"");
        let whiteout = Archive::new().symlink("link", &target).file("link/.wh.file", b"");
        canary.refuse(whiteout, "link/file");
    }
}

#[test]
fn a_link_is_replaced_and_not_followed_by_a_later_entry_of_its_name() {
    let canary = Canary::new();
    let file = format!("{}/file", canary.path());
    let layer = Archive::new()
        .symlink("file", &file)
        .file("file", b"new")
        .symlink("dir", &canary.path())
        .directory("dir", 0o777)
        .file("dir/x", b"")
        .symlink("link", &file)
        .hard_link("same", "link")
        .layer();
    let root = canary.fixture.load(&[layer]).remove(0);
    assert_eq!(fs::read(root.join("file")).unwrap(), b"new");
    assert!(fs::symlink_metadata(root.join("dir")).unwrap().is_dir());
    assert!(fs::symlink_metadata(root.join("same")).unwrap().is_symlink());
    canary.assert_untouched();
}

#[test]
fn a_link_inside_the_layer_may_be_written_through() {
    let canary = Canary::new();
    for target in ["usr/lib", "/usr/lib", "../../usr/lib"] {
        let layer =
            Archive::new().directory("usr/lib", 0o755).symlink("lib", target).file("lib/x", target.as_bytes()).layer();
        let root = canary.fixture.load(&[layer]).remove(0);
        assert_eq!(fs::read(root.join("usr/lib/x")).unwrap(), target.as_bytes());
    }
}

#[test]
fn a_hard_link_to_what_is_not_in_the_layer_is_refused() {
    let canary = Canary::new();
    let file = format!("{}/file", canary.path());
    canary.refuse(Archive::new().hard_link("x", &file), "a hard link to a file that this layer does not have");
    canary.refuse(Archive::new().hard_link("x", &canary.relative()), "a path with `..` in it");
    canary.refuse(Archive::new().symlink("l", &canary.path()).hard_link("x", "l/file"), "a hard link to a file");
    canary.refuse(Archive::new().directory("d", 0o755).hard_link("x", "d"), "a hard link to a directory");
    canary.refuse(Archive::new().hard_link("x", "/"), "a hard link to the root");
}

#[test]
fn the_root_of_a_layer_stays_a_directory() {
    let canary = Canary::new();
    for root in [".", "./", "/"] {
        canary
            .refuse(Archive::new().symlink(root, &canary.path()).file("x", b""), "the root of a layer is a directory");
        canary.refuse(Archive::new().raw(b'6', root, b""), "the root of a layer is a directory");
    }
    let root = canary.fixture.load(&[Archive::new().directory("./", 0o700).layer()]).remove(0);
    assert_eq!(mode(&root), 0o700);
}

#[test]
fn what_means_something_to_overlayfs_is_not_taken_from_an_archive() {
    let canary = Canary::new();
    canary.refuse(Archive::new().device("x", 0, 0), "a character device 0:0");
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.."] {
        canary.refuse(Archive::new().file(name, b""), "a whiteout without a name");
    }
    let names = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.opaque",
        "security.selinux",
        "security.ima",
    ];
    let layer = names.iter().fold(Archive::new(), |archive, name| archive.file_with_xattr(name, name, b"y")).layer();
    let root = canary.fixture.load(&[layer]).remove(0);
    for name in names {
        let mut value = [0; 8];
        assert!(rustix::fs::getxattr(root.join(name), name, &mut value).is_err(), "{name} was kept");
    }
}

#[test]
fn names_that_no_file_system_holds_are_refused() {
    let canary = Canary::new();
    canary.refuse(Archive::new().file(&"n".repeat(256), b""), "a name of more than 255 bytes");
    canary.refuse(Archive::new().file(&"n/".repeat(2049), b""), "a path of more than 4096 bytes");
    let nul = pax_record("path", b"a\0b");
    canary.refuse(Archive::new().raw(b'x', "PaxHeader", &nul).file("x", b""), "a path with a NUL in it");
}

#[test]
fn an_archive_that_two_readers_would_read_differently_is_refused() {
    let canary = Canary::new();
    let hidden = Archive::new().file("hidden", b"x").finish();
    let two_sizes = pax_record("size", b"0");
    canary.refuse(Archive::new().raw(b'x', "PaxHeader", &two_sizes).file("x", &hidden), "two sizes for one entry");
    canary.refuse(Archive::new().raw(b'S', "sparse", b""), "a sparse file");
    let sparse = pax_record("GNU.sparse.major", b"1");
    canary.refuse(Archive::new().raw(b'x', "PaxHeader", &sparse).file("x", b""), "a sparse file");
    canary.refuse(Archive::new().raw(b'Z', "what", b""), "an entry of an unknown type");
    canary.refuse(Archive::new().raw(b'2', "link", b"data"), "data where none can be");
    canary.refuse(Archive::new().raw(b'x', "PaxHeader", b"9999 path=x\n").file("x", b""), "a damaged extended header");
    let mut header = Header { kind: b'0', ..Header::default() }.block("x", 0);
    header[0] ^= 1;
    canary.refuse(Archive::new().bytes(&header), "its check sum is wrong");
}

#[test]
fn an_extended_header_that_would_fill_the_memory_is_refused() {
    let canary = Canary::new();
    let header = Header { kind: b'x', ..Header::default() }.block("PaxHeader", 4 << 30);
    canary.refuse(Archive::new().bytes(&header), "an extended header that is too long");
    let longest = pax_record("comment", &vec![b'x'; (1 << 20) - 20]);
    let layer = Archive::new().raw(b'x', "PaxHeader", &longest).file("x", b"").layer();
    canary.fixture.load(&[layer]);
}

#[test]
fn a_bomb_stops_at_its_limit_and_leaves_nothing() {
    let fixture = Fixture::new();
    // 100 times its compressed size and 64 MiB more: zeros compress a thousand times.
    let error = fixture.refuse(&docker_archive("localhost/bomb:1", &[zeros(72, zstd)]));
    assert!(error.contains("out of proportion to its size"), "{error}");
    fixture.load(&[zeros(16, gzip)]);
}

/// A layer with one file of so many MiB of zeros, compressed piece by piece: both formats may be concatenated.
fn zeros(mebibytes: usize, pack: fn(&[u8]) -> Vec<u8>) -> Layer {
    let mebibyte = vec![0; 1 << 20];
    let header = Header { kind: b'0', ..Header::default() }.block("zeros", mebibytes << 20);
    let pieces = [pack(&header), pack(&mebibyte).repeat(mebibytes), pack(&[0; 1024])];
    let content = (0..mebibytes).fold(Sha256::new().chain_update(header), |hash, _| hash.chain_update(&mebibyte));
    Layer { bytes: pieces.concat(), diff_id: hex(&content.chain_update([0; 1024]).finalize()) }
}

#[test]
fn a_layer_as_deep_as_a_path_can_be_is_replaced_and_removed() {
    let canary = Canary::new();
    let deep = |archive: Archive| archive.directory(&"d/".repeat(2000), 0o755).file("d/file", b"");
    let layers = canary.fixture.load(&[deep(Archive::new()).file("d", b"a file now").layer()]);
    assert!(layers[0].join("d").is_file());
    // What fails at its end has been unpacked by then.
    Canary::new().refuse(deep(Archive::new()).hard_link("x", "none"), "x");
}

#[test]
fn a_document_that_is_no_document_is_refused() {
    let fixture = Fixture::new();
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("manifest.json", b"[{\"Config\":\"../../etc/passwd\",\"Layers\":[]}]".to_vec(), "../../etc/passwd is missing"),
        ("manifest.json", b"{}".to_vec(), "manifest.json is not readable"),
        (
            "index.json",
            b"{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"sha256:../../x\",\"size\":1}]}".to_vec(),
            "not readable",
        ),
        ("index.json", vec![b' '; (4 << 20) + 1], "more than 4194304 bytes"),
        ("other.json", b"{}".to_vec(), "neither an OCI layout (index.json) nor the output of `docker save`"),
    ];
    for (path, content, reason) in cases {
        let error = fixture.refuse(&Archive::new().file(path, &content).finish());
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    }
}

#[test]
fn an_archive_whose_own_names_are_hostile_writes_nothing_under_them() {
    let canary = Canary::new();
    let layer = Archive::new().file("a", b"1").layer();
    let good = oci_archive("localhost/x:1", &[layer], Form::Plain);
    let bad = Archive::new()
        .file(&canary.relative(), b"bad")
        .symlink("blobs", &canary.path())
        .file(&format!("{}/new", canary.path()), b"bad")
        .bytes(&good)
        .finish();
    canary.fixture.store.load(bad.as_slice(), None, |_| {}).unwrap();
    canary.assert_untouched();
}

#[test]
fn gnu_tar_and_podbus_see_the_same_files() {
    let source = tempfile::TempDir::new().unwrap();
    let at = |path: &str| source.path().join(path);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/file"), "content").unwrap();
    fs::write(at(&format!("a/{}", "long".repeat(50))), "long name").unwrap();
    fs::hard_link(at("a/b/file"), at("hard")).unwrap();
    std::os::unix::fs::symlink("a/b".repeat(60), at("soft")).unwrap();
    for format in ["gnu", "pax", "ustar", "v7"] {
        let names: &[&str] = if matches!(format, "gnu" | "pax") { &["."] } else { &["a/b", "hard"] };
        let tar = std::process::Command::new("tar")
            .args(["--create", "--format", format, "--directory"])
            .arg(source.path())
            .args(names)
            .output()
            .unwrap();
        assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
        let root = Fixture::new();
        let layer = root.load(&[Layer::new(tar.stdout)]).remove(0);
        assert_eq!(fs::read(layer.join("a/b/file")).unwrap(), b"content", "{format}");
        assert_eq!(fs::read(layer.join("hard")).unwrap(), b"content");
        if names == ["."] {
            let compare = std::process::Command::new("diff")
                .arg("-r")
                .arg("--no-dereference")
                .arg(source.path())
                .arg(&layer)
                .output()
                .unwrap();
            assert!(compare.status.success(), "{format}: {}", String::from_utf8_lossy(&compare.stdout));
        }
    }
}
