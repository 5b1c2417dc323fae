//! Images as volumes, images with very many layers, and images that are removed while something uses them.

use podbus_common_cri::runtime::image_service_client::ImageServiceClient;
use podbus_common_cri::runtime::*;
use tonic::Code;

use super::host::{Host, container, on_host};
use crate::images::pack::{Archive, Layer, docker_archive};

const DATA: &str = "localhost/data:1";

fn volume(image: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: "/data".into(),
        readonly: true,
        image: Some(ImageSpec { image: image.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

/// An image of two layers, the upper one with a whiteout.
fn data() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let lower = Archive::new().file("etc/app", b"old").file("gone", b"").owned_file("bin/echo", &busybox, 0o4755, 0, 0);
    let upper = Archive::new().file("etc/app", b"new").file(".wh.gone", b"").symlink("out", "/etc");
    docker_archive(DATA, &[lower.layer(), upper.layer()])
}

async fn refused(host: &mut Host, sandbox: &str, mount: Mount) -> tonic::Status {
    let config = ContainerConfig { mounts: vec![mount], ..container("refused", "true") };
    let request =
        CreateContainerRequest { pod_sandbox_id: sandbox.to_owned(), config: Some(config), sandbox_config: None };
    host.cri.create_container(request).await.unwrap_err()
}

#[test]
fn an_image_is_a_volume_whose_programs_run_and_which_nobody_writes_to() {
    on_host(|mut host| async move {
        host.load(&data()).await;
        let sandbox = host.run_pod("web").await;
        let script = "cat /data/etc/app; [ ! -e /data/gone ] || exit 1
            if touch /data/x; then exit 2; fi 2>/dev/null
            /data/bin/echo runs; grep ' /data ' /proc/self/mountinfo";
        let config = ContainerConfig { mounts: vec![volume(DATA, "")], ..container("a", script) };
        let seen = host.output_of(&sandbox, config).await;
        assert!(seen.starts_with("newruns\n"), "{seen}");
        assert!(seen.contains("nosuid") && seen.contains("nodev") && !seen.contains("noexec"), "{seen}");
        let config = ContainerConfig { mounts: vec![volume(DATA, "etc")], ..container("b", "cat /data/app") };
        assert_eq!(host.output_of(&sandbox, config).await, "new\n");
        // A link of the image leads to the image's own directory.
        let config = ContainerConfig { mounts: vec![volume(DATA, "out")], ..container("c", "ls /data") };
        assert_eq!(host.output_of(&sandbox, config).await, "app\n");
        host
    });
}

#[test]
fn an_image_volume_that_cannot_be_is_refused_when_the_container_is_created() {
    on_host(|mut host| async move {
        host.load(&data()).await;
        let sandbox = host.run_pod("web").await;
        let writable = refused(&mut host, &sandbox, Mount { readonly: false, ..volume(DATA, "") }).await;
        assert_eq!(writable.code(), Code::InvalidArgument, "{writable}");
        let missing = refused(&mut host, &sandbox, volume(DATA, "not/there")).await;
        assert_eq!(missing.code(), Code::Unknown);
        assert!(missing.message().starts_with("ImageVolumeMountFailed: "), "{missing}");
        let unknown = refused(&mut host, &sandbox, volume("localhost/none:1", "")).await;
        assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
        assert!(
            host.cri
                .list_containers(ListContainersRequest::default())
                .await
                .unwrap()
                .into_inner()
                .containers
                .is_empty()
        );
        host
    });
}

#[test]
fn an_image_in_use_can_be_removed_and_its_users_keep_its_files_across_a_restart_of_the_daemon() {
    on_host(|mut host| async move {
        host.load(&data()).await;
        let sandbox = host.run_pod("web").await;
        let script =
            "trap 'cat /data/etc/app /proc/self/mounts > /dev/null && exit 7' TERM; while :; do sleep 0.02; done";
        let config = ContainerConfig { mounts: vec![volume(DATA, "")], ..container("a", script) };
        let running = host.run_with(&sandbox, config).await;
        let config = ContainerConfig { mounts: vec![volume(DATA, "")], ..container("b", "cat /data/etc/app") };
        let created = host.create(&sandbox, config).await;
        let volumes = host.status(&running).await.mounts;
        let image_ref = volumes[0].image.clone().unwrap().image_ref;
        assert!(image_ref.starts_with("sha256:"), "{volumes:?}");

        let channel =
            podbus_common_cri::connect(&host.path("cri.sock"), std::time::Duration::from_secs(10)).await.unwrap();
        let image = Some(ImageSpec { image: image_ref.clone(), ..Default::default() });
        let mut images = ImageServiceClient::new(channel);
        images.remove_image(RemoveImageRequest { image: image.clone() }).await.unwrap();
        let request = ImageStatusRequest { image, verbose: false };
        assert!(images.image_status(request).await.unwrap().into_inner().image.is_none());

        host.kill_daemon();
        host.run_daemon().await;
        host.start_container(&created).await;
        assert_eq!(host.exit(&created).await.exit_code, 0);
        assert_eq!(host.log(&created).await[0].text, "new");
        host.stop(&running, 10).await;
        assert_eq!(host.exit(&running).await.exit_code, 7);
        let layers = host.path("state/images/layers");
        let count = || std::fs::read_dir(&layers).unwrap().count();
        assert_eq!(count(), 3);
        host.remove_pod(&sandbox).await;
        host.kill_daemon();
        host.run_daemon().await; // a start sweeps
        assert_eq!(count(), 1, "layers of an image that is gone are left");
        host
    });
}

#[test]
fn a_container_of_hundreds_of_layers_runs() {
    on_host(|mut host| async move {
        let busybox = std::fs::read("/bin/busybox").unwrap();
        let first = Archive::new()
            .owned_file("bin/busybox", &busybox, 0o755, 0, 0)
            .symlink("bin/sh", "busybox")
            .symlink("bin/cat", "busybox");
        let more = (1..500)
            .map(|n| Archive::new().file("which", n.to_string().as_bytes()).file(&format!("{n}"), b"x").layer());
        let layers: Vec<Layer> = std::iter::once(first.layer()).chain(more).collect();
        host.load(&docker_archive("localhost/many:1", &layers)).await;
        let sandbox = host.run_pod("web").await;
        let mut config = container("a", "cat /which /1");
        config.image = Some(ImageSpec { image: "localhost/many:1".into(), ..Default::default() });
        assert_eq!(host.output_of(&sandbox, config).await, "499x\n");
        host
    });
}
