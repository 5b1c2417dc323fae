//! Images that nothing uses go when the disk fills, and only those.

use std::time::Duration;

use podbus_sandbox::image::service::ImageService;
use podbus_sandbox::image::{GcRule, Image, Settings, Store, collect};
use tempfile::TempDir;

use super::pack::{Archive, Layer, docker_archive};
use super::registry::pull;
use super::server::Server;
use crate::runtime::host::wait_until;

const MEBIBYTE: usize = 1 << 20;

/// A layer that nobody else has.
fn layer(mark: u8) -> Layer {
    Archive::new().file("data", &vec![mark; MEBIBYTE - 4096]).layer()
}

/// Runs `test` on a disk of so many MiB, which only its thread can see.
fn on_disk_of<T: Send + 'static>(mebibytes: usize, test: impl FnOnce(&std::path::Path) -> T + Send + 'static) -> T {
    let work = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(none, "/", none, private, none).unwrap();
        let at = TempDir::new().unwrap();
        let size = format!("size={mebibytes}m");
        nix::mount::mount(none, at.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some(size.as_str())).unwrap();
        let result = test(at.path());
        // Lazily: a child of another test may hold our descriptors until it is another program.
        nix::mount::umount2(at.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        result
    };
    std::thread::spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn marks(images: &[Image]) -> Vec<u8> {
    let mut marks: Vec<u8> = images.iter().map(|it| std::fs::read(it.layers[0].join("data")).unwrap()[0]).collect();
    marks.sort_unstable();
    marks
}

#[test]
fn a_disk_that_fills_loses_the_images_that_nothing_uses_from_the_oldest_on() {
    let left = on_disk_of(14, |dir| {
        let registry = Server::start();
        let name = format!("{}/app:1", registry.address);
        let gc = GcRule { high: 70, low: 50, age_min: Duration::ZERO, unused_max: None };
        let settings = Settings { gc, pinned: [name.clone()].into(), ..Settings::default() };
        let store = Store::open_with(dir, settings).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let left = runtime.block_on(async {
            store.load(docker_archive("localhost/loaded:1", &[layer(0)]).as_slice(), None, |_| {}).unwrap();
            let service = ImageService::new(store.clone());
            let pull_next = async |mark| {
                registry.serve_layers(&[layer(mark)], |layer| layer.bytes.clone());
                pull(&service, &name, None).await.unwrap()
            };
            let used = pull_next(1).await;
            let used = store.resolve(&used).unwrap();
            for mark in 2..=10 {
                pull_next(mark).await;
            }
            let keeper = tokio::spawn(collect::keep(store.clone()));
            wait_until("there is room", || store.list().len() <= 6).await;
            // It is awake for each image that comes, and does no more than it has to.
            pull_next(11).await;
            keeper.abort();
            let _ = keeper.await; // told to end
            let left = marks(&store.list());
            drop(used);
            left
        });
        drop((runtime, store));
        left
    });
    // 11 MiB of 14 had to become less than 7: loaded (0) and used (1) stay, and what came last.
    assert_eq!(left, [0, 1, 7, 8, 9, 10, 11]);
}

#[test]
fn a_disk_with_room_loses_nothing() {
    let left = on_disk_of(12, |dir| {
        let registry = Server::start();
        let gc = GcRule { age_min: Duration::ZERO, ..GcRule::default() };
        let store = Store::open_with(dir, Settings { gc, ..Settings::default() }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let service = ImageService::new(store.clone());
            registry.serve_layers(&[layer(1)], |layer| layer.bytes.clone());
            pull(&service, &format!("{}/app:1", registry.address), None).await.unwrap();
            let keeper = tokio::spawn(collect::keep(store.clone()));
            // It has looked once when the layers that no image needs are gone.
            let stray = dir.join("layers").join("0".repeat(64));
            std::fs::create_dir(&stray).unwrap();
            registry.serve_layers(&[layer(2)], |layer| layer.bytes.clone());
            pull(&service, &format!("{}/app:1", registry.address), None).await.unwrap();
            wait_until("somebody looked", || !stray.exists()).await;
            keeper.abort();
            let _ = keeper.await; // told to end
        });
        let left = marks(&store.list());
        drop((runtime, store));
        left
    });
    assert_eq!(left, [1, 2]);
}
