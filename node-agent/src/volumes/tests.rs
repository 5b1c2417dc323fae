use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;

use podbus_common::model::{HostPathVolume, PodSpec, VolumeMount};
use tempfile::TempDir;

use super::*;

const NODE_MEMORY: i64 = 1 << 30;

/// Runs `test` in a mount namespace of its own; without the right to make one it says so and passes.
fn in_mount_namespace(test: impl FnOnce() + Send) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNS).is_err() {
                eprintln!("skipped: only root can make mount namespaces");
                return;
            }
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts made here stay here");
            test();
        });
        thread.join().expect("the test itself failed");
    });
}

fn pod(volumes: Vec<Volume>, mounts: Vec<VolumeMount>) -> Pod {
    let container = Container { name: "web".into(), volume_mounts: mounts, ..Container::default() };
    let spec = PodSpec { containers: vec![container], volumes, ..PodSpec::default() };
    let json = serde_json::json!({ "metadata": { "name": "web", "uid": "u-1" }, "spec": {} });
    let mut pod: Pod = serde_json::from_value(json).expect("a pod");
    pod.spec = spec;
    pod
}

fn empty_dir(medium: &str, size_limit: Option<&str>) -> Volume {
    let source = EmptyDirVolume { medium: medium.into(), size_limit: size_limit.map(str::to_owned) };
    Volume { name: "data".into(), empty_dir: Some(source), ..Volume::default() }
}

fn mount_at(path: &str, sub_path: &str) -> VolumeMount {
    VolumeMount { name: "data".into(), mount_path: path.into(), sub_path: sub_path.into(), ..VolumeMount::default() }
}

fn pod_dir(root: &TempDir) -> PathBuf {
    root.path().join("pods").join("u-1")
}

#[test]
fn an_empty_dir_is_writable_for_all_and_keeps_what_it_has() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod_dir(&root);
    let pod = pod(vec![empty_dir("", None)], vec![mount_at("data", "")]);
    prepare(&dir, &pod, NODE_MEMORY).unwrap();
    let mounts = mounts(&dir, &pod, &pod.spec.containers[0]).unwrap();
    let volume = dir.join("volumes/data");
    let expected = MountedVolume { container_path: "/data".into(), host_path: volume.clone(), read_only: false };
    assert_eq!(mounts, [expected]);
    assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o777);
    assert_eq!(
        fs::metadata(dir.join("volumes")).unwrap().mode() & 0o7777,
        0o700,
        "for others of the node it is closed"
    );
    fs::write(volume.join("page"), "x").unwrap();
    prepare(&dir, &pod, NODE_MEMORY).unwrap();
    assert!(volume.join("page").exists());
}

#[test]
fn one_in_memory_is_mounted_once_with_the_smallest_size_and_unmounted_with_the_pod() {
    in_mount_namespace(|| {
        let root = tempfile::tempdir().unwrap();
        let dir = pod_dir(&root);
        let mut pod = pod(vec![empty_dir("Memory", Some("1Mi"))], vec![]);
        pod.spec.containers[0].resources.limits.insert("memory".into(), "512Ki".into());
        prepare(&dir, &pod, NODE_MEMORY).unwrap();
        let volume = dir.join("volumes/data");
        fs::write(volume.join("page"), "x").unwrap();
        let stat = nix::sys::statvfs::statvfs(&volume).unwrap();
        assert_eq!(stat.blocks() * stat.fragment_size(), 512 << 10);
        prepare(&dir, &pod, NODE_MEMORY).unwrap();
        assert!(volume.join("page").exists(), "mounted over");
        assert_eq!(mount_table::beneath(&fs::canonicalize(&dir).unwrap()).unwrap().len(), 1);
        assert!(fs::write(volume.join("big"), vec![0; 600 << 10]).is_err(), "above its size");
        teardown(&dir).unwrap();
        assert!(!dir.exists());
    });
}

#[test]
fn host_paths_are_checked_with_the_kubelets_words() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("file"), "").unwrap();
    symlink(at("dir"), at("link")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let cases = [
        ("", "new/deep", None),
        ("Directory", "dir", None),
        ("Directory", "link", None),
        ("Directory", "file", Some("a directory")),
        ("Directory", "absent", Some("a directory")),
        ("DirectoryOrCreate", "made", None),
        ("DirectoryOrCreate", "file", Some("a directory")),
        ("File", "file", None),
        ("File", "dir", Some("a file")),
        ("FileOrCreate", "made-file", None),
        ("FileOrCreate", "dir", Some("a file")),
        ("Socket", "socket", None),
        ("Socket", "file", Some("a socket file")),
        ("CharDevice", "file", Some("a character device")),
        ("BlockDevice", "absent", Some("a block device")),
    ];
    for (kind, name, wrong) in cases {
        let path = at(name);
        let source = HostPathVolume { path: path.to_string_lossy().into_owned(), kind: kind.into() };
        let volume = Volume { name: "data".into(), host_path: Some(source), ..Volume::default() };
        let result = prepare(&pod_dir(&root), &pod(vec![volume], vec![]), NODE_MEMORY);
        let expected = wrong.map(|what| {
            let check = format!("hostPath type check failed: {} is not {what}", path.display());
            format!("MountVolume.SetUp failed for volume \"data\" : {check}")
        });
        assert_eq!(result.err().map(|e| e.to_string()), expected, "{kind} {name}");
    }
    assert!(at("new/deep").is_dir() && at("made").is_dir() && at("made-file").is_file());
    host_path::check(Path::new("/dev/null"), "CharDevice").unwrap();
}

#[test]
fn a_sub_path_is_made_with_the_volumes_mode_and_pinned() {
    in_mount_namespace(|| {
        let root = tempfile::tempdir().unwrap();
        let dir = pod_dir(&root);
        let pod = pod(vec![empty_dir("", None)], vec![mount_at("/a", "x/y"), mount_at("/b", "file")]);
        prepare(&dir, &pod, NODE_MEMORY).unwrap();
        let volume = dir.join("volumes/data");
        fs::write(volume.join("file"), "content").unwrap();
        let container = &pod.spec.containers[0];
        let first = mounts(&dir, &pod, container).unwrap();
        assert_eq!(fs::metadata(volume.join("x/y")).unwrap().mode() & 0o7777, 0o777);
        assert_eq!(fs::metadata(dir.join("volume-subpaths")).unwrap().mode() & 0o7777, 0o700);
        fs::write(first[0].host_path.join("seen"), "").unwrap();
        assert!(volume.join("x/y/seen").exists());
        assert_eq!(fs::read_to_string(&first[1].host_path).unwrap(), "content");

        assert_eq!(mounts(&dir, &pod, container).unwrap(), first);
        assert_eq!(mount_table::beneath(&fs::canonicalize(&dir).unwrap()).unwrap().len(), 2, "mounted again");
        // What was pinned stays when the container swaps it for something else; a restart takes the new one.
        fs::rename(volume.join("x/y"), volume.join("x/old")).unwrap();
        fs::create_dir(volume.join("x/y")).unwrap();
        assert!(first[0].host_path.join("seen").exists());
        let again = mounts(&dir, &pod, container).unwrap();
        assert!(!again[0].host_path.join("seen").exists());
        teardown(&dir).unwrap();
        assert!(!dir.exists());
    });
}

#[test]
fn a_sub_path_cannot_leave_its_volume() {
    in_mount_namespace(|| {
        let root = tempfile::tempdir().unwrap();
        let dir = pod_dir(&root);
        let attempts = ["absolute", "upwards", "absolute/etc", "upwards/x", "../data", "proc"];
        for sub_path in attempts {
            let pod = pod(vec![empty_dir("", None)], vec![mount_at("/a", sub_path)]);
            prepare(&dir, &pod, NODE_MEMORY).unwrap();
            let volume = dir.join("volumes/data");
            let _ = symlink("/", volume.join("absolute"));
            let _ = symlink("../../..", volume.join("upwards"));
            let _ = symlink("/proc/self/root", volume.join("proc"));
            let error = mounts(&dir, &pod, &pod.spec.containers[0]).expect_err(sub_path).to_string();
            let expected = "failed to prepare subPath for volumeMount \"data\" of container \"web\": ";
            assert!(error.starts_with(&format!("{expected}{sub_path}: ")), "{error}");
        }
        // A link that stays inside is fine.
        let volume = dir.join("volumes/data");
        fs::create_dir(volume.join("real")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        let pod = pod(vec![empty_dir("", None)], vec![mount_at("/a", "inside/new")]);
        mounts(&dir, &pod, &pod.spec.containers[0]).unwrap();
        assert!(volume.join("real/new").is_dir());
        teardown(&dir).unwrap();
    });
}

#[test]
fn teardown_follows_no_link_and_leaves_what_was_mounted_whole() {
    in_mount_namespace(|| {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "").unwrap();
        let dir = pod_dir(&root);
        let volume = dir.join("volumes/data");
        fs::create_dir_all(volume.join("mounted")).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        rustix::mount::mount_bind(&outside, volume.join("mounted")).unwrap();
        rustix::mount::mount_bind(&outside, volume.join("mounted")).unwrap();
        teardown(&dir).unwrap();
        assert!(!dir.exists());
        assert!(outside.join("precious").exists());
        teardown(&dir).unwrap();
    });
}

#[test]
fn what_a_volume_uses_is_blocks_of_disk_and_a_file_with_two_names_counts_once() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod_dir(&root);
    let limited = pod(vec![empty_dir("", Some("1Mi"))], vec![]);
    let used = || disk_use(&dir, &limited).unwrap().volumes["data"] >> 10;
    assert_eq!(used(), 0, "before it is made");
    prepare(&dir, &limited, NODE_MEMORY).unwrap();
    let volume = dir.join("volumes/data");
    fs::File::create(volume.join("sparse")).unwrap().set_len(1 << 40).unwrap();
    fs::create_dir(volume.join("deep")).unwrap();
    fs::write(volume.join("deep/file"), vec![1; 700 << 10]).unwrap();
    fs::hard_link(volume.join("deep/file"), volume.join("again")).unwrap();
    symlink("/", volume.join("link")).unwrap();
    assert!((700..760).contains(&used()), "{} KiB", used());
    fs::write(volume.join("more"), vec![1; 400 << 10]).unwrap();
    assert!(used() > 1024);
    assert!(disk_use(&dir, &pod(vec![empty_dir("", None)], vec![])).unwrap().volumes.is_empty(), "nobody asks");
}

#[test]
fn a_containers_logs_count_with_those_that_were_rotated_and_so_does_the_hosts_file() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod_dir(&root);
    let mut limited = pod(vec![], vec![]);
    limited.spec.containers[0].resources.limits.insert("ephemeral-storage".into(), "1Mi".into());
    let name = limited.spec.containers[0].name.clone();
    let used = || disk_use(&dir, &limited).unwrap().logs[&name] >> 10;
    assert_eq!(used(), 0, "before it is made");
    let log = crate::logs::path(&dir, &name, 0);
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    fs::write(&log, vec![1; 64 << 10]).unwrap();
    fs::write(log.with_extension("log.20261126-000000"), vec![1; 64 << 10]).unwrap();
    assert!((128..140).contains(&used()), "{} KiB", used());
    assert_eq!(disk_use(&dir, &limited).unwrap().hosts, 0, "before it is made");
    fs::write(write_etc_hosts(&dir, "web", "10.0.0.2").unwrap(), vec![1; 64 << 10]).unwrap();
    assert!(disk_use(&dir, &limited).unwrap().hosts >= 64 << 10);
}

#[test]
fn the_hosts_file_is_changed_in_place() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod_dir(&root);
    let path = write_etc_hosts(&dir, "web", "10.0.0.2").unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    assert!(fs::read_to_string(&path).unwrap().ends_with("10.0.0.2\tweb\n"));
    write_etc_hosts(&dir, "web", "10.0.0.3").unwrap();
    assert!(fs::read_to_string(&path).unwrap().ends_with("10.0.0.3\tweb\n"));
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "containers have the old one mounted");
}

#[test]
fn a_hosts_file_that_a_container_made_endless_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod_dir(&root);
    let path = write_etc_hosts(&dir, "web", "10.0.0.2").unwrap();
    // Holes: they take no disk, and would take all memory.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 43).unwrap();
    write_etc_hosts(&dir, "web", "10.0.0.2").unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 1000);
}

#[test]
fn what_lies_deeper_than_a_path_can_tell_counts_against_a_volumes_limit() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod_dir(&root);
    let limited = pod(vec![empty_dir("", Some("1Mi"))], vec![]);
    prepare(&dir, &limited, NODE_MEMORY).unwrap();
    let flags = rustix::fs::OFlags::DIRECTORY;
    let mut at = rustix::fs::open(dir.join("volumes/data"), flags, rustix::fs::Mode::empty()).unwrap();
    let name = "d".repeat(100);
    for _ in 0..60 {
        rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&at, "file", flags, rustix::fs::Mode::RWXU).unwrap();
    io::Write::write_all(&mut std::fs::File::from(file), &vec![1; 2 << 20]).unwrap();
    assert!(disk_use(&dir, &limited).unwrap().volumes["data"] > 1 << 20);
    teardown(&dir).unwrap();
}
