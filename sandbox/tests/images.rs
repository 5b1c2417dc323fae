//! The image store on a real file system: archives good and hostile, and pulls from a real registry on loopback.

mod collect;
mod crash;
mod hostile;
mod hostile_registry;
mod mirror;
pub(crate) mod pack;
mod registry;
mod rpc;
pub(crate) mod server;
mod tls;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use podbus_sandbox::image::{LoadError, ResolveError, Store, StoreError};
use tempfile::TempDir;

use self::pack::{Archive, Form, Layer, docker_archive, gzip, oci_archive, oci_archive_beside, sha256, zstd};

/// A store in a directory of its own.
struct Fixture {
    store: Store,
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Fixture { store: Store::open(&dir.path().join("images")).unwrap(), dir }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("images")
    }

    /// Loads one image of these layers as `localhost/test:latest` and returns the layers' directories.
    fn load(&self, layers: &[Layer]) -> Vec<std::path::PathBuf> {
        let archive = docker_archive("localhost/test:latest", layers);
        self.store.load(archive.as_slice(), None, |_| {}).unwrap();
        self.store.resolve("localhost/test").unwrap().layers
    }

    fn refuse(&self, archive: &[u8]) -> String {
        let error = self.store.load(archive, None, |_| {}).unwrap_err();
        self.assert_empty();
        chain(&error)
    }

    /// Nothing is left of a failed load.
    fn assert_empty(&self) {
        assert!(self.store.list().is_empty());
        for place in ["tmp", "layers", "blobs/sha256"] {
            let left: Vec<_> = fs::read_dir(self.path().join(place)).unwrap().map(|e| e.unwrap().path()).collect();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&dyn std::error::Error| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut value).is_ok_and(|length| value[..length] == *b"y")
}

#[test]
fn a_docker_archive_is_loaded_with_all_that_a_file_can_be() {
    let fixture = Fixture::new();
    let long_name = "d/".to_owned() + &"n".repeat(200);
    let layer = Archive::new()
        .directory("bin", 0o755)
        .owned_file("bin/su", b"#!", 0o4755, 0, 42)
        .hard_link("bin/also", "bin/su")
        .symlink("lib", "/usr/lib")
        .symlink("outside", "../../../etc/passwd")
        .device("null", 1, 3)
        .fifo("pipe")
        .directory("tmp", 0o1777)
        .file(&long_name, b"long")
        .file_with_xattr("with-xattr", "user.color", b"blue")
        .layer();
    let root = fixture.load(&[layer]).remove(0);
    assert_eq!(mode(&root.join("bin/su")), 0o4755);
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.uid(), su.gid(), su.nlink(), su.mtime()), (0, 42, 2, 1_000_000_000));
    assert_eq!(su.ino(), fs::metadata(root.join("bin/also")).unwrap().ino());
    assert_eq!(fs::read_link(root.join("lib")).unwrap(), Path::new("/usr/lib"));
    assert_eq!(fs::read_link(root.join("outside")).unwrap(), Path::new("../../../etc/passwd"));
    let null = fs::symlink_metadata(root.join("null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
    assert!(fs::symlink_metadata(root.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(mode(&root.join("tmp")), 0o1777);
    assert_eq!(fs::read(root.join(&long_name)).unwrap(), b"long");
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(root.join("with-xattr"), "user.color", &mut value), Ok(4));
}

#[test]
fn all_forms_of_one_image_are_the_same_image() {
    let layers = [Archive::new().file("a", b"1").layer(), Archive::new().file("b", b"2").layer()];
    let plain = docker_archive("localhost/one:latest", &layers);
    let fixture = Fixture::new();
    let archives = [
        plain.clone(),
        gzip(&plain),
        zstd(&plain),
        oci_archive("localhost/two:latest", &layers, Form::Plain),
        oci_archive("localhost/three:latest", &layers, Form::Gzip),
        oci_archive("localhost/four:latest", &layers, Form::Zstd),
    ];
    for archive in archives {
        fixture.store.load(archive.as_slice(), None, |_| {}).unwrap();
    }
    let image = fixture.store.resolve("localhost/one").unwrap();
    let names = ["localhost/four:latest", "localhost/one:latest", "localhost/three:latest", "localhost/two:latest"];
    assert_eq!(image.references, names);
    assert_eq!(fixture.store.list().len(), 1);
    assert_eq!(fs::read(image.layers[0].join("a")).unwrap(), b"1");
    assert_eq!(fs::read(image.layers[1].join("b")).unwrap(), b"2");
    assert_eq!(image.config.cmd, ["sh"]);
    let by_id = fixture.store.resolve(&image.id).unwrap();
    assert_eq!(by_id.references, image.references);
    assert_eq!(fixture.store.resolve(&image.id[7..]).unwrap().id, image.id);
    assert_eq!(fixture.store.resolve(&image.id[..19]).unwrap().id, image.id);
}

#[test]
fn of_several_platforms_side_by_side_ours_is_loaded() {
    let fixture = Fixture::new();
    let other = |os: &str, architecture: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(os.as_bytes()), "size": 1,
            "platform": {"os": os, "architecture": architecture},
        })
    };
    let others = [other("linux", "s390x"), other("unknown", "unknown")];
    let layer = Archive::new().file("a", b"1").layer();
    let archive = oci_archive_beside("localhost/x:1", &[layer], Form::Plain, &others);
    assert_eq!(fixture.store.load(archive.as_slice(), None, |_| {}).unwrap(), ["localhost/x:1"]);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": others});
    let foreign = Archive::new().file("index.json", index.to_string().as_bytes()).finish();
    let error = Fixture::new().refuse(&foreign);
    assert!(error.ends_with("only for linux/s390x"), "{error}");
}

#[test]
fn whiteouts_hide_what_is_below_wherever_they_stand() {
    let fixture = Fixture::new();
    let lower =
        Archive::new().file("gone", b"").file("dir/old", b"").file("again/old", b"").file("kept/old", b"").layer();
    let upper = Archive::new()
        .file(".wh.gone", b"")
        .directory("dir", 0o755)
        .file("dir/new", b"")
        .file("dir/.wh..wh..opq", b"")
        .directory("again", 0o755)
        .file("again/new", b"")
        .file(".wh.again", b"")
        .file("kept/.wh..wh.plnk", b"")
        .file(".wh.file", b"")
        .file("file", b"new")
        .layer();
    let layers = fixture.load(&[lower, upper]);
    let upper = &layers[1];
    assert!(is_whiteout(&upper.join("gone")));
    assert!(is_opaque(&upper.join("dir")) && upper.join("dir/new").exists());
    assert!(is_opaque(&upper.join("again")) && upper.join("again/new").exists());
    assert!(!is_opaque(upper) && !upper.join("kept").exists());
    assert_eq!(fs::read(upper.join("file")).unwrap(), b"new");
    let marks = fs::read_dir(upper)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b".wh."));
    assert_eq!(marks.count(), 0);
}

#[test]
fn overlayfs_shows_the_layers_as_one() {
    let fixture = Fixture::new();
    let lower = Archive::new().file("gone", b"").file("dir/old", b"").file("stays", b"1").layer();
    let upper = Archive::new().file(".wh.gone", b"").file("dir/.wh..wh..opq", b"").file("dir/new", b"").layer();
    let layers = fixture.load(&[lower, upper]);
    let seen = std::thread::spawn(move || {
        // A mount namespace that ends with this thread.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(none, "/", none, private, none).unwrap();
        let at = TempDir::new().unwrap();
        let options = format!("lowerdir={}:{}", layers[1].display(), layers[0].display());
        let read_only = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some("overlay"), at.path(), Some("overlay"), read_only, Some(options.as_str())).unwrap();
        let list = |path: &Path| -> Vec<String> {
            let mut names: Vec<_> =
                fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let seen = (list(at.path()), list(&at.path().join("dir")));
        // Lazily: a child of another test may hold our descriptors until it is another program.
        nix::mount::umount2(at.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        seen
    });
    assert_eq!(seen.join().unwrap(), (vec!["dir".to_owned(), "stays".into()], vec!["new".to_owned()]));
}

#[test]
fn a_name_that_moves_takes_its_images_place() {
    let fixture = Fixture::new();
    let first = fixture.load(&[Archive::new().file("a", b"1").layer()]);
    fixture.store.sweep().unwrap();
    let held = fixture.store.resolve("localhost/test").unwrap();
    let second = fixture.load(&[Archive::new().file("a", b"2").layer()]);
    assert_eq!(fixture.store.list().len(), 1);
    fixture.store.sweep().unwrap();
    assert!(first[0].exists() && second[0].exists(), "a container may have the old layer mounted");
    drop(held);
    fixture.store.sweep().unwrap();
    assert!(!first[0].exists() && second[0].exists());
}

#[test]
fn removing_an_image_takes_all_its_names_and_what_only_it_needed() {
    let fixture = Fixture::new();
    let shared = Archive::new().file("shared", b"1").layer();
    for (name, own) in [("localhost/a:1", "a"), ("localhost/b:1", "b")] {
        let archive = docker_archive(name, &[shared.clone(), Archive::new().file(own, b"").layer()]);
        fixture.store.load(archive.as_slice(), None, |_| {}).unwrap();
    }
    let (a, b) = (fixture.store.resolve("localhost/a:1").unwrap(), fixture.store.resolve("localhost/b:1").unwrap());
    let (layers_a, layers_b) = (a.layers.clone(), b.layers.clone());
    drop((a, b));
    fixture.store.sweep().unwrap();
    fixture.store.remove("localhost/a:1").unwrap();
    fixture.store.remove("localhost/a:1").unwrap();
    assert!(matches!(fixture.store.resolve("localhost/a:1"), Err(ResolveError::NotFound(_))));
    assert!(layers_a[0].exists() && !layers_a[1].exists() && layers_b[1].exists());
    fixture.store.remove("localhost/b:1").unwrap();
    fixture.assert_empty();
}

#[test]
fn before_the_first_sweep_nothing_is_removed_and_a_hold_by_path_keeps_a_layer() {
    let fixture = Fixture::new();
    let layers = fixture.load(&[Archive::new().file("a", b"1").layer()]);
    fixture.store.remove("localhost/test").unwrap();
    assert!(layers[0].exists(), "a container of before the restart may use it");
    let hold = fixture.store.hold(&layers);
    fixture.store.sweep().unwrap();
    assert!(layers[0].exists());
    drop(hold);
    fixture.store.sweep().unwrap();
    assert!(!layers[0].exists());
}

#[test]
fn a_store_that_opens_again_knows_its_images_and_forgets_what_was_unfinished() {
    let fixture = Fixture::new();
    fixture.load(&[Archive::new().file("a", b"1").layer()]);
    let before = fixture.store.resolve("localhost/test").unwrap();
    let Fixture { store, dir } = fixture;
    let path = dir.path().join("images");
    assert!(matches!(Store::open(&path), Err(StoreError::Locked(_))), "one process at a time");
    drop((store, before));
    fs::create_dir(path.join("tmp/layer-half")).unwrap();
    fs::create_dir(path.join("layers").join("0".repeat(64))).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(fs::read_dir(path.join("tmp")).unwrap().count(), 0);
    let image = store.resolve("localhost/test").unwrap();
    assert_eq!(fs::read(image.layers[0].join("a")).unwrap(), b"1");
    assert!(image.size > 0);
    store.sweep().unwrap();
    assert_eq!(fs::read_dir(path.join("layers")).unwrap().count(), 1);
}

#[test]
fn nobody_else_can_look_into_the_store() {
    let fixture = Fixture::new();
    fixture.load(&[Archive::new().file("a", b"1").layer()]);
    assert_eq!(mode(&fixture.path()), 0o700);
}

#[test]
fn a_catalog_of_a_newer_podbus_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("images.json"), r#"{"version":2,"images":[]}"#).unwrap();
    let error = Store::open(dir.path()).err().unwrap().to_string();
    assert!(error.ends_with("has format 2, and this podbus knows 1: use a newer podbus"), "{error}");
    fs::write(dir.path().join("images.json"), r#"{"version":1,"images":["#).unwrap();
    assert!(Store::open(dir.path()).err().unwrap().to_string().ends_with("is damaged"));
}

#[test]
fn an_archive_without_a_name_takes_the_given_one() {
    let fixture = Fixture::new();
    let archive = docker_archive("", &[Archive::new().file("a", b"1").layer()]);
    let error = fixture.refuse(&archive);
    assert_eq!(error, "the archive does not name its image: give a name with it");
    let names = fixture.store.load(archive.as_slice(), Some("localhost/given:1"), |_| {}).unwrap();
    assert_eq!(names, ["localhost/given:1"]);
}

#[test]
fn many_loads_of_one_image_at_once_all_succeed() {
    let fixture = Fixture::new();
    let layers: Vec<Layer> = (0..6).map(|n| Archive::new().file("a", &[n; 10]).layer()).collect();
    let archive = docker_archive("localhost/many:latest", &layers);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| fixture.store.load(archive.as_slice(), None, |_| {}).unwrap());
        }
    });
    assert_eq!(fixture.store.resolve("localhost/many").unwrap().layers.len(), 6);
}

#[test]
fn the_example_image_is_loaded_from_its_script() {
    let dir = TempDir::new().unwrap();
    let archive = dir.path().join("busybox.tar");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/build-busybox-image.sh");
    let built = std::process::Command::new("sh").arg(script).arg(&archive).status().unwrap();
    assert!(built.success(), "apt-get install busybox-static");
    let fixture = Fixture::new();
    let names = fixture.store.load(fs::File::open(&archive).unwrap(), None, |_| {}).unwrap();
    assert_eq!(names, ["localhost/busybox:latest"]);
    let image = fixture.store.resolve("localhost/busybox").unwrap();
    let root = &image.layers[0];
    let page =
        std::process::Command::new("chroot").arg(root).args(["/bin/cat", "/var/www/index.html"]).output().unwrap();
    assert_eq!(page.stdout, b"<h1>busybox</h1>\n");
    for applet in ["bin/sh", "usr/bin/wget", "usr/sbin/httpd", "bin/nc", "usr/bin/env"] {
        assert!(root.join(applet).exists() || root.join("usr").join(applet).exists(), "{applet}");
    }
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    let archive = docker_archive("localhost/big:latest", &[Archive::new().file("big", &vec![7; 3 << 20]).layer()]);
    let result = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(none, "/", none, private, none).unwrap();
        let at = TempDir::new().unwrap();
        nix::mount::mount(none, at.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=4m")).unwrap();
        let store = Store::open(at.path()).unwrap();
        let error = store.load(archive.as_slice(), None, |_| {}).unwrap_err();
        let left = fs::read_dir(at.path().join("tmp")).unwrap().count()
            + fs::read_dir(at.path().join("layers")).unwrap().count();
        drop(store);
        // Lazily: a child of another test may hold our descriptors until it is another program.
        nix::mount::umount2(at.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        (chain(&error), left)
    });
    let (error, left) = result.join().unwrap();
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(left, 0);
}

#[test]
fn a_wrong_digest_anywhere_is_refused() {
    let fixture = Fixture::new();
    let layer = Archive::new().file("a", b"1").layer();
    let whole = oci_archive("localhost/x:1", std::slice::from_ref(&layer), Form::Plain);
    // One byte of the layer's content, which stands in the archive as it is.
    let at = whole.windows(layer.bytes.len()).position(|window| window == layer.bytes).unwrap();
    let mut corrupt = whole;
    corrupt[at + 512] ^= 1;
    let error = fixture.refuse(&corrupt);
    assert!(error.starts_with("the archive is corrupt: blobs/sha256/"), "{error}");

    let mut lying = layer.clone();
    lying.diff_id = sha256(b"something else");
    let error = fixture.refuse(&docker_archive("localhost/x:1", &[lying]));
    assert!(error.contains("is corrupt: its digest is"), "{error}");
}

#[test]
fn a_cut_archive_is_refused_wherever_it_is_cut() {
    let archive = docker_archive("localhost/x:1", &[Archive::new().file("a", &[1; 2000]).layer()]);
    let fixture = Fixture::new();
    for length in (0..archive.len() - 1024).step_by(300) {
        fixture.refuse(&archive[..length]);
    }
    assert!(matches!(fixture.store.load(&b"not an archive at all"[..], None, |_| {}), Err(LoadError::Archive(_))));
    assert!(fixture.refuse(&gzip(&archive)[..200]).starts_with("the archive is not readable"));
}
