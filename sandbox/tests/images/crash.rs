//! A loader that is killed at any moment leaves a store that works.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use podbus_sandbox::image::Store;
use tempfile::TempDir;

use super::pack::{Archive, Form, Layer, oci_archive};

const STORE: &str = "PODBUS_TEST_STORE";
const KILLS: u64 = 12;

/// What the test below runs as a process of its own: loads the archive beside the store, again and again.
#[test]
#[ignore = "a part of a_loader_killed_at_any_moment_leaves_whole_images_or_none"]
fn loads_until_killed() {
    let dir = PathBuf::from(std::env::var_os(STORE).unwrap());
    let store = Store::open(&dir.join("images")).unwrap();
    loop {
        for name in ["one.tar", "two.tar"] {
            store.load(fs::File::open(dir.join(name)).unwrap(), None, |_| {}).unwrap();
            store.sweep().unwrap();
        }
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
    let mut found = 0;
    for nth in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "images::crash::loads_until_killed"])
            .env(STORE, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Not a wait for something, but the moment of the kill: a different one each time.
        std::thread::sleep(Duration::from_millis(20 + 17 * nth));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(&path).unwrap();
        store.sweep().unwrap();
        assert_eq!(fs::read_dir(path.join("tmp")).unwrap().count(), 0);
        let Ok(image) = store.resolve("localhost/fought:1") else {
            assert_eq!(fs::read_dir(path.join("layers")).unwrap().count(), 0);
            continue;
        };
        found += 1;
        assert_eq!((store.list().len(), image.layers.len()), (1, 3));
        let marks: Vec<Vec<u8>> = image.layers.iter().map(|layer| fs::read(layer.join("mark")).unwrap()).collect();
        for (n, mark) in marks.iter().enumerate() {
            assert_eq!(mark, &vec![marks[0][0]; 40_000 + n], "a mixture of both images, or half a file");
        }
        assert_eq!(fs::read_dir(path.join("layers")).unwrap().count(), 3);
    }
    assert!(found > 0, "no load came to its end in any of the tries");
}
