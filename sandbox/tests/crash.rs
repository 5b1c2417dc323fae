//! What may die at any step, and what is there afterwards: all of it and right, or nothing.

mod daemon;
mod scene;
mod shim;
mod start;
pub(crate) mod tracer;
mod truth;

use self::scene::{Request, Scene};
use self::tracer::{Doom, Follow};
use self::truth::files;
use crate::runtime::host::Host;

/// Sends a request while `who` dies at the first step, again while it dies at the second, and so on until it lives to
/// the answer. After each death `check` has a look; it is told whether there was an answer.
async fn killed_at_every_step(
    mut host: Host,
    request: Request,
    follow: Follow,
    who: impl Fn(&Host) -> i32,
    check: impl AsyncFn(&mut Host, &mut Scene, bool),
) -> Host {
    let images = host.path("state/images");
    let before = files(&images);
    for points in 0.. {
        let mut scene = Scene::set(&mut host, request).await;
        host.wait_for_spares().await;
        let doom = Doom::on(who(&host), points, follow);
        let answer = scene.send(&mut host).await;
        let death = doom.call_off();
        eprintln!("{request:?}, point {points}: {}", death.as_deref().unwrap_or("after the answer"));
        check(&mut host, &mut scene, answer.is_ok()).await;
        scene.clear(&mut host).await;
        host.assert_nothing_is_left().await;
        let left: Vec<_> = files(&images).difference(&before).cloned().collect();
        assert!(left.is_empty(), "left in the image store: {left:?}");
        if death.is_none() {
            answer.unwrap();
            assert!(points > 0, "the request did nothing");
            return host;
        }
    }
    unreachable!("points without end")
}
