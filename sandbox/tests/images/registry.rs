//! Pulls from the registry program of the distribution project, on loopback.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podbus_common_cri::runtime::image_service_server::ImageService as _;
use podbus_common_cri::runtime::{
    AuthConfig, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest, PullImageRequest,
    RemoveImageRequest,
};
use podbus_common_cri::sandbox::image_archive_server::ImageArchive as _;
use podbus_common_cri::sandbox::{PullRequest, PullResponse};
use podbus_sandbox::image::service::{ImageArchive, ImageService};
use tempfile::TempDir;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

use super::Fixture;
use super::pack::{Archive, Form, Layer, oci_archive};

/// A registry with a storage of its own; it ends with the value.
pub(super) struct Registry {
    child: Child,
    address: String,
    dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok(); // it may have ended by itself
        self.child.wait().ok();
    }
}

impl Registry {
    pub(super) fn start() -> Self {
        Self::start_with("")
    }

    /// `section` is a part of the registry's configuration; `DIR` in it is its directory.
    fn start_with(section: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::start_at(&format!("127.0.0.1:{port}"), section)
    }

    pub(super) fn start_at(address: &str, section: &str) -> Self {
        let (dir, address) = (TempDir::new().unwrap(), address.to_owned());
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {0}/data\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n{1}",
            dir.path().display(),
            section.replace("DIR", &dir.path().display().to_string()),
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("docker-registry: {error} (apt-get install docker-registry)"));
        let lines = BufReader::new(child.stderr.take().unwrap());
        let mut listening = false;
        let mut rest = lines.lines();
        for line in rest.by_ref() {
            if line.unwrap().contains("listening on") {
                listening = true;
                break;
            }
        }
        assert!(listening, "the registry did not start");
        std::thread::spawn(move || rest.for_each(drop)); // so that its pipe never fills
        Registry { child, address, dir }
    }

    /// Copies an image from an archive into the registry.
    pub(super) fn push(&self, name: &str, archive: &[u8], options: &[&str]) {
        let file = self.dir.path().join("push.tar");
        fs::write(&file, archive).unwrap();
        let copied = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .args(options)
            .arg(format!("oci-archive:{}", file.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output();
        let copied = copied.unwrap_or_else(|error| panic!("skopeo: {error} (apt-get install skopeo)"));
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    }

    pub(super) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }
}

/// The user `pod` with the password `secret`, by bcrypt.
const HTPASSWD: &str = "pod:$2b$05$6ukCYqE7Rt3EeJi7qfY3COATLEYnN8YqbZgmqqKhs5tJor/gWmkdy\n";

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() })
}

fn service(fixture: &Fixture) -> ImageService {
    ImageService::new(fixture.store.clone())
}

pub(super) async fn pull(service: &ImageService, image: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
    let request = PullImageRequest { image: spec(image), auth, sandbox_config: None };
    Ok(service.pull_image(Request::new(request)).await?.into_inner().image_ref)
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

fn three_layers(mark: &str) -> Vec<Layer> {
    (0..3).map(|n| Archive::new().file(&format!("file{n}"), format!("{mark} {n}").as_bytes()).layer()).collect()
}

#[test]
fn an_image_is_pulled_listed_and_removed() {
    let registry = Registry::start();
    registry.push("app:1", &oci_archive("app:1", &three_layers("app"), Form::Gzip), &[]);
    let fixture = Fixture::new();
    block_on(async {
        let (service, name) = (service(&fixture), registry.name("app:1"));
        let id = pull(&service, &name, None).await.unwrap();
        assert_eq!(pull(&service, &name, None).await.unwrap(), id, "pulling again is fine");
        let list = service.list_images(Request::new(ListImagesRequest::default())).await.unwrap().into_inner().images;
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].id.clone(), list[0].repo_tags.clone()), (id.clone(), vec![name.clone()]));
        let by_digest = list[0].repo_digests[0].clone();
        assert!(by_digest.starts_with(&format!("{}@sha256:", registry.name("app"))), "{by_digest}");
        for reference in [&id, &name, &by_digest] {
            let request = ImageStatusRequest { image: spec(reference), verbose: false };
            let status = service.image_status(Request::new(request)).await.unwrap().into_inner().image;
            assert_eq!(status.as_ref(), Some(&list[0]), "{reference}");
        }
        let info = service.image_fs_info(Request::new(ImageFsInfoRequest {})).await.unwrap().into_inner();
        let (images, writable) = (&info.image_filesystems[0], &info.container_filesystems[0]);
        assert_eq!(images.fs_id.as_ref().unwrap().mountpoint, fixture.path().display().to_string());
        assert_eq!(images.inodes_used.unwrap().value, 3, "a file in each of three layers");
        let bytes = images.used_bytes.unwrap().value;
        assert!(bytes >= 3 * 512 && bytes.is_multiple_of(512), "whole blocks: {bytes}");
        assert_eq!((writable.fs_id.as_ref(), writable.used_bytes.unwrap().value), (images.fs_id.as_ref(), 0));
        let image = fixture.store.resolve(&name).unwrap();
        assert_eq!(fs::read(image.layers[2].join("file2")).unwrap(), b"app 2");
        fixture.store.sweep().unwrap();
        drop(image);
        for _ in 0..2 {
            service.remove_image(Request::new(RemoveImageRequest { image: spec(&id) })).await.unwrap();
        }
        fixture.assert_empty();
        let gone = service.image_status(Request::new(ImageStatusRequest { image: spec(&name), verbose: false })).await;
        assert_eq!(gone.unwrap().into_inner().image, None);
        let by_digest_id = pull(&service, &by_digest, None).await.unwrap();
        assert_eq!(by_digest_id, id);
        let pulled = fixture.store.resolve(&id).unwrap();
        assert_eq!((pulled.references, pulled.digests), (Vec::new(), vec![by_digest]));
    });
}

#[test]
fn a_pull_beside_cri_tells_how_far_it_is() {
    let registry = Registry::start();
    registry.push("app:1", &oci_archive("app:1", &three_layers("app"), Form::Plain), &[]);
    let fixture = Fixture::new();
    block_on(async {
        let archive = ImageArchive::new(fixture.store.clone());
        let request = |image: String| Request::new(PullRequest { image });
        let answers = archive.pull(request(registry.name("app:1"))).await.unwrap().into_inner();
        let answers: Vec<PullResponse> = answers.collect::<Result<_, _>>().await.unwrap();
        let last = answers.last().unwrap();
        assert_eq!(last.image_ref, fixture.store.list()[0].id);
        assert!(last.bytes > 0 && last.bytes == last.bytes_total, "{last:?}");
        assert!(answers[..answers.len() - 1].iter().all(|answer| answer.image_ref.is_empty()));
        let again: Vec<_> = archive.pull(request(registry.name("app:1"))).await.unwrap().into_inner().collect().await;
        assert_eq!(again.last().unwrap().as_ref().unwrap().bytes_total, 0, "nothing was missing");
        let missing: Vec<_> =
            archive.pull(request(registry.name("none:1"))).await.unwrap().into_inner().collect().await;
        assert_eq!(missing.last().unwrap().as_ref().unwrap_err().code(), Code::NotFound);
        assert_eq!(archive.pull(request("Not A Name".into())).await.err().unwrap().code(), Code::InvalidArgument);
    });
}

#[test]
fn docker_manifests_are_pulled_too() {
    let registry = Registry::start();
    registry.push("v2:1", &oci_archive("v2:1", &three_layers("v2"), Form::Plain), &["--format", "v2s2"]);
    let fixture = Fixture::new();
    block_on(pull(&service(&fixture), &registry.name("v2:1"), None)).unwrap();
    assert_eq!(fixture.store.list()[0].layers.len(), 3);
}

#[test]
fn two_pulls_at_once_both_succeed_and_share_layers() {
    let registry = Registry::start();
    let layers = three_layers("shared");
    registry.push("a:1", &oci_archive("a:1", &layers, Form::Zstd), &[]);
    registry.push("b:1", &oci_archive("b:1", &layers[..2], Form::Zstd), &[]);
    let fixture = Fixture::new();
    block_on(async {
        let service = service(&fixture);
        let (a, b) = (registry.name("a:1"), registry.name("b:1"));
        let (one, two, three) =
            tokio::join!(pull(&service, &a, None), pull(&service, &a, None), pull(&service, &b, None));
        assert_eq!(one.unwrap(), two.unwrap());
        three.unwrap();
    });
    assert_eq!(fs::read_dir(fixture.path().join("layers")).unwrap().count(), 3);
    assert_eq!(fs::read_dir(fixture.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn credentials_are_used_and_wrong_ones_are_refused_in_words() {
    let registry = Registry::start_with("auth:\n  htpasswd:\n    realm: test\n    path: DIR/htpasswd\n");
    registry.push(
        "private:1",
        &oci_archive("private:1", &three_layers("p"), Form::Gzip),
        &["--dest-creds", "pod:secret"],
    );
    let fixture = Fixture::new();
    let name = registry.name("private:1");
    block_on(async {
        let service = service(&fixture);
        let with = |username: &str, password: &str| {
            Some(AuthConfig { username: username.into(), password: password.into(), ..AuthConfig::default() })
        };
        let error = pull(&service, &name, None).await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        let error = pull(&service, &name, with("pod", "wrong")).await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        assert!(!error.message().contains("wrong"), "a password in an error: {error}");
        let elsewhere =
            AuthConfig { server_address: "https://example.com/v1/".into(), ..with("pod", "secret").unwrap() };
        assert!(pull(&service, &name, Some(elsewhere)).await.is_err(), "credentials of another registry were sent");
        pull(&service, &name, with("pod", "secret")).await.unwrap();
        let encoded = AuthConfig { auth: "cG9kOnNlY3JldA==".into(), ..AuthConfig::default() };
        pull(&service, &name, Some(encoded)).await.unwrap();
    });
}

#[test]
fn what_is_missing_unreachable_or_local_is_said_in_words() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    block_on(async {
        let service = service(&fixture);
        let missing = pull(&service, &registry.name("none:1"), None).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
        assert!(missing.message().contains("none:1 is not in its registry"), "{missing}");
        let local = pull(&service, "localhost/busybox", None).await.unwrap_err();
        assert_eq!(local.code(), Code::NotFound);
        assert_eq!(local.message(), "localhost/busybox:latest is local: load it with `podbus image load`");
        let invalid = pull(&service, "Not A Name", None).await.unwrap_err();
        assert_eq!(invalid.code(), Code::InvalidArgument);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let unreachable = pull(&service, &format!("127.0.0.1:{port}/x:1"), None).await.unwrap_err();
        assert_eq!(unreachable.code(), Code::Unknown);
        assert!(unreachable.message().starts_with("RegistryUnavailable: cannot pull"), "{unreachable}");
        assert!(unreachable.message().contains("refused"), "{unreachable}");
    });
    fixture.assert_empty();
}

#[test]
fn a_registry_that_sends_other_bytes_is_caught() {
    let registry = Registry::start();
    registry.push("bad:1", &oci_archive("bad:1", &three_layers("bad"), Form::Plain), &[]);
    // The registry serves what is in its files, and believes their names.
    let largest = files_below(&registry.data())
        .into_iter()
        .filter(|path| path.ends_with("data"))
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    let largest = largest.unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let fixture = Fixture::new();
    let error = block_on(pull(&service(&fixture), &registry.name("bad:1"), None)).unwrap_err();
    assert!(matches!(error.code(), Code::InvalidArgument | Code::Unknown), "{error}");
    assert!(error.message().to_lowercase().contains("digest"), "{error}");
    assert!(fixture.store.list().is_empty());
    assert_eq!(fs::read_dir(fixture.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_client_that_leaves_ends_the_pull() {
    // A registry that takes the connection and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("127.0.0.1:{}/x:1", silent.local_addr().unwrap().port());
    let fixture = Fixture::new();
    block_on(async {
        let service = service(&fixture);
        let ended = tokio::time::timeout(Duration::from_millis(100), pull(&service, &name, None)).await;
        assert!(ended.is_err());
    });
    fixture.assert_empty();
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
