//! Mirrors: images are asked for by their own names and come from somewhere else.

use podbus_common_cri::runtime::AuthConfig;
use podbus_sandbox::image::service::ImageService;
use podbus_sandbox::image::{Registries, Settings, Store};
use tempfile::TempDir;
use tonic::Code;

use super::pack::{Archive, Form, oci_archive};

use super::registry::{Registry, block_on, pull};
use super::server::Server;

/// A store whose registries are what `yaml` says.
fn store(yaml: &str) -> (Store, TempDir) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("registries.yaml");
    std::fs::write(&file, yaml).unwrap();
    let settings = Settings { registries: Registries::read(&file).unwrap(), ..Settings::default() };
    (Store::open_with(&dir.path().join("images"), settings).unwrap(), dir)
}

fn all_from(address: &str) -> String {
    format!("mirrors:\n  \"*\":\n    endpoint: [http://{address}]\n    fallback: false\n")
}

#[test]
fn an_image_from_a_mirror_keeps_its_own_name() {
    let registry = Registry::start();
    registry.push("library/app:1", &oci_archive("app:1", &[Archive::new().file("a", b"1").layer()], Form::Gzip), &[]);
    let (store, _dir) = store(&all_from(&registry.name("")[..registry.name("").len() - 1]));
    let service = ImageService::new(store.clone());
    let id = block_on(pull(&service, "app:1", None)).unwrap();
    let image = store.resolve("docker.io/library/app:1").unwrap();
    assert_eq!((image.id, image.references), (id, vec!["docker.io/library/app:1".to_owned()]));
    assert!(image.digests[0].starts_with("docker.io/library/app@sha256:"), "{:?}", image.digests);
    let error = block_on(pull(&service, "quay.io/no/such:1", None)).unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "nothing outside is asked: {error}");
}

#[test]
fn a_mirror_that_fails_is_followed_by_the_next_one() {
    let (empty, full) = (Server::start(), Server::start());
    full.serve_image();
    let yaml = format!(
        "mirrors:\n  registry.example:\n    endpoint: [http://127.0.0.1:1, http://{}, http://{}]\n",
        empty.address, full.address
    );
    let (store, _dir) = store(&yaml);
    block_on(pull(&ImageService::new(store.clone()), "registry.example/app:1", None)).unwrap();
    assert!(empty.requests().iter().any(|request| request.contains("/manifests/1")));
    assert!(store.resolve("registry.example/app:1").is_ok());
}

#[test]
fn a_mirror_gets_its_own_credentials_and_never_those_of_the_registry() {
    let mirror = Server::start();
    mirror.serve_image();
    mirror.challenge("Basic realm=\"mirror\"");
    let yaml = all_from(&mirror.address.to_string());
    let auth = AuthConfig { username: "pod".into(), password: "secret".into(), ..AuthConfig::default() };
    let (plain, _dir) = store(&yaml);
    let error = block_on(pull(&ImageService::new(plain), "registry.example/app:1", Some(auth.clone()))).unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(mirror.requests().iter().all(|request| !request.contains("authorization")));
    let yaml = format!("{yaml}configs:\n  \"{}\":\n    auth: {{username: mirror, password: own}}\n", mirror.address);
    let (configured, _dir) = store(&yaml);
    block_on(pull(&ImageService::new(configured), "registry.example/app:1", Some(auth))).unwrap();
    let sent = "authorization: Basic bWlycm9yOm93bg=="; // mirror:own
    assert!(mirror.requests().iter().any(|request| request.contains(sent)), "{:?}", mirror.requests());
}
