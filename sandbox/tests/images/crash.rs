//! A loader that is killed at any moment leaves a store that works.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use podbus_sandbox::image::Store;
use tempfile::TempDir;

use super::pack::{Archive, Form, Layer, oci_archive};
use crate::crash::tracer::{Doom, Follow};

const STORE: &str = "PODBUS_TEST_STORE";
/// Of so many points one is tried: `crash::daemon::load` dies at each.
const STRIDE: usize = 7;

/// What the test below runs as a process of its own: loads the archives beside the store, once it is told to.
#[test]
#[ignore = "a part of a_loader_killed_at_any_moment_leaves_whole_images_or_none"]
fn loads_until_killed() {
    let dir = PathBuf::from(std::env::var_os(STORE).unwrap());
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let store = Store::open(&dir.join("images")).unwrap();
    for name in ["one.tar", "two.tar", "one.tar"] {
        store.load(fs::File::open(dir.join(name)).unwrap(), None, |_| {}).unwrap();
        store.sweep().unwrap();
    }
}

#[test]
fn a_loader_killed_at_any_moment_leaves_whole_images_or_none() {
    let dir = TempDir::new().unwrap();
    // Two images that fight for one name: the store changes all the time.
    for (file, mark) in [("one.tar", b'1'), ("two.tar", b'2')] {
        let layers: Vec<Layer> = (0..3).map(|n| Archive::new().file("mark", &vec![mark; 40_000 + n]).layer()).collect();
        fs::write(dir.path().join(file), oci_archive("localhost/fought:1", &layers, Form::Gzip)).unwrap();
    }
    let path = dir.path().join("images");
    for points in (0..).step_by(STRIDE) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "images::crash::loads_until_killed"])
            .env(STORE, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let doom = Doom::on(child.id().cast_signed(), points, Follow::Threads);
        let _ = child.stdin.take().unwrap().write_all(b"\n"); // fails where it is dead already
        // Not by a wait, which would take the tracer's news away: the pipe ends with the process.
        child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        let death = doom.call_off();
        let _ = child.wait(); // fails where the tracer has reaped it
        let store = Store::open(&path).unwrap();
        store.sweep().unwrap();
        assert_eq!(fs::read_dir(path.join("tmp")).unwrap().count(), 0);
        let Ok(image) = store.resolve("localhost/fought:1") else {
            assert_eq!(fs::read_dir(path.join("layers")).unwrap().count(), 0);
            assert!(death.is_some(), "no load came to its end");
            continue;
        };
        assert_eq!((store.list().len(), image.layers.len()), (1, 3));
        let marks: Vec<Vec<u8>> = image.layers.iter().map(|layer| fs::read(layer.join("mark")).unwrap()).collect();
        for (n, mark) in marks.iter().enumerate() {
            assert_eq!(mark, &vec![marks[0][0]; 40_000 + n], "a mixture of both images, or half a file");
        }
        assert_eq!(fs::read_dir(path.join("layers")).unwrap().count(), 3);
        if death.is_none() {
            assert!(points > STRIDE, "the loader did nothing");
            return;
        }
    }
}
