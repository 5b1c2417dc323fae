//! What a registry may make us do: its words are followed within bounds, and our credentials stay with it.

use std::time::Duration;

use podbus_common_cri::runtime::image_service_server::ImageService as _;
use podbus_common_cri::runtime::{AuthConfig, ImageSpec, PullImageRequest};
use podbus_sandbox::image::service::ImageService;
use podbus_sandbox::image::{Settings, Store};
use tempfile::TempDir;
use tonic::{Code, Request, Status};

use super::Fixture;
use super::pack::{Archive, Layer, gzip, sha256};
use super::registry::block_on;
use super::server::{Answer, MANIFEST, Server, blob_path};
use crate::runtime::host::wait_until;

fn pull_with(store: &Store, server: &Server, auth: AuthConfig) -> Result<String, Status> {
    let image = Some(ImageSpec { image: format!("{}/app:1", server.address), ..ImageSpec::default() });
    let request = PullImageRequest { image, auth: Some(auth), sandbox_config: None };
    let service = ImageService::new(store.clone());
    Ok(block_on(service.pull_image(Request::new(request)))?.into_inner().image_ref)
}

fn pull(fixture: &Fixture, server: &Server) -> Result<String, Status> {
    pull_with(&fixture.store, server, secret())
}

fn secret() -> AuthConfig {
    AuthConfig { username: "pod".into(), password: "secret".into(), ..AuthConfig::default() }
}

/// Of `pod` and `secret`.
const BASIC: &str = "authorization: Basic cG9kOnNlY3JldA==";

#[test]
fn a_redirect_to_another_server_is_followed_without_the_credentials() {
    let (registry, storage, fixture) = (Server::start(), Server::start(), Fixture::new());
    let (digest, layer) = registry.serve_image();
    registry.challenge("Basic realm=\"test\"");
    storage.put("/there", Answer::Body("application/octet-stream", layer));
    registry.put(&blob_path(&digest), Answer::Redirect(format!("http://{}/there", storage.address)));
    pull(&fixture, &registry).unwrap();
    assert!(registry.requests().iter().any(|request| request.contains(BASIC)), "{:?}", registry.requests());
    assert!(!registry.requests()[0].contains("authorization"), "before it was asked for");
    let elsewhere = storage.requests();
    assert!(
        !elsewhere.is_empty() && elsewhere.iter().all(|request| !request.contains("authorization")),
        "{elsewhere:?}"
    );
}

#[test]
fn a_token_is_got_with_the_credentials_and_only_it_is_shown_to_the_registry() {
    let (registry, tokens, fixture) = (Server::start(), Server::start(), Fixture::new());
    registry.serve_image();
    // It asks for more than a pull needs, and for another repository.
    let scope = "scope=\"repository:other:pull,push\"";
    registry.challenge(&format!("Bearer realm=\"http://{}/token\",service=\"a b\",{scope}", tokens.address));
    tokens.put("/token", Answer::Body("application/json", b"{\"access_token\":\"t0ken\"}".to_vec()));
    pull(&fixture, &registry).unwrap();
    let asked = tokens.requests();
    assert!(asked[0].starts_with("GET /token?service=a+b&scope=repository%3Aapp%3Apull HTTP/1.1"), "{asked:?}");
    assert!(asked[0].contains(BASIC), "{asked:?}");
    assert!(registry.requests().iter().all(|request| !request.contains("Basic")));
    assert!(registry.requests().last().unwrap().contains("authorization: Bearer t0ken"));
}

#[test]
fn an_identity_token_is_exchanged_and_a_registry_token_is_shown_as_it_is() {
    let (registry, tokens, fixture) = (Server::start(), Server::start(), Fixture::new());
    registry.serve_image();
    registry.challenge(&format!("Bearer realm=\"http://{}/token\"", tokens.address));
    tokens.put("/token", Answer::Body("application/json", b"{\"access_token\":\"t0ken\"}".to_vec()));
    let identity = AuthConfig { identity_token: "re/fresh".into(), ..AuthConfig::default() };
    pull_with(&fixture.store, &registry, identity).unwrap();
    let asked = tokens.requests().remove(0);
    assert!(asked.starts_with("POST /token HTTP/1.1"), "{asked}");
    let form = "scope=repository%3Aapp%3Apull&grant_type=refresh_token&refresh_token=re%2Ffresh&client_id=podbus";
    assert!(asked.ends_with(form), "{asked}");
    let registry_token = AuthConfig { registry_token: "known".into(), ..AuthConfig::default() };
    pull_with(&fixture.store, &registry, registry_token).unwrap();
    assert!(registry.requests().last().unwrap().contains("authorization: Bearer known"));
    assert_eq!(tokens.requests().len(), 1);
}

#[test]
fn documents_tokens_and_refusals_without_end_stop_at_their_bound() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    registry.put("/v2/app/manifests/1", Answer::Endless);
    let error = pull(&fixture, &registry).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("sent more than 4194304 bytes for the manifest 1"), "{error}");
    registry.challenge(&format!("Bearer realm=\"http://{}/token\"", registry.address));
    registry.put("/token", Answer::Endless);
    let error = pull(&fixture, &registry).unwrap_err();
    assert!(error.message().contains("sent more than 262144 bytes"), "{error}");
    fixture.assert_empty();
}

#[test]
fn a_token_that_would_smuggle_a_header_is_refused() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    registry.challenge(&format!("Bearer realm=\"http://{}/token\"", registry.address));
    registry.put("/token", Answer::Body("application/json", b"{\"token\":\"a\\r\\nx: y\"}".to_vec()));
    let error = pull(&fixture, &registry).unwrap_err();
    assert!(error.message().contains("characters that no header can hold"), "{error}");
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    let (digest, layer) = registry.serve_image();
    registry.put(&blob_path(&digest), Answer::Parts(layer.clone(), layer.len() / 2));
    pull(&fixture, &registry).unwrap();
    let asked = registry.requests_for(&digest);
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].contains(&format!("range: bytes={}-", layer.len() / 2)), "{asked:?}");
}

#[test]
fn a_server_that_knows_no_parts_begins_anew_and_one_that_sends_other_parts_is_refused() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    let (digest, layer) = registry.serve_image();
    let whole = Answer::Body("application/octet-stream", layer.clone());
    registry.put_each(&blob_path(&digest), vec![Answer::Parts(layer.clone(), 100), whole]);
    pull(&fixture, &registry).unwrap();
    let fixture = Fixture::new();
    registry.put(&blob_path(&digest), Answer::WrongParts(layer, 100));
    let error = pull(&fixture, &registry).unwrap_err();
    assert!(error.message().contains("another part than was asked for"), "{error}");
    fixture.assert_empty();
}

#[test]
fn a_large_download_over_a_bad_line_ends_whole_however_often_it_breaks() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    let layer = Archive::new().file("a", &(0..9_000_000_u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<u8>>()).layer();
    registry.serve_layers(std::slice::from_ref(&layer), |layer| layer.bytes.clone());
    registry.put(&blob_path(&layer.diff_id), Answer::Parts(layer.bytes.clone(), 1_500_000));
    pull(&fixture, &registry).unwrap();
    assert_eq!(registry.requests_for(&layer.diff_id).len(), layer.bytes.len().div_ceil(1_500_000));
}

#[test]
fn a_server_that_is_busy_is_asked_again_when_it_wants_to_be() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    let (digest, layer) = registry.serve_image();
    let whole = Answer::Body("application/octet-stream", layer);
    let busy = Answer::Status("429 Too Many Requests", "retry-after: 1", "slow down");
    let down = Answer::Status("503 Service Unavailable", "x: y", "");
    registry.put_each(&blob_path(&digest), vec![busy, down.clone(), whole]);
    let before = std::time::Instant::now();
    pull(&fixture, &registry).unwrap();
    assert!(before.elapsed() >= Duration::from_secs(1), "before the server wanted it");
    let fixture = Fixture::new();
    registry.put(&blob_path(&digest), down);
    let error = pull(&fixture, &registry).unwrap_err();
    assert_eq!(error.code(), Code::Unknown);
    assert!(error.message().starts_with("RegistryUnavailable: ") && error.message().contains("503"), "{error}");
    fixture.assert_empty();
}

#[test]
fn a_blob_without_end_stops_at_the_size_that_was_announced() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    let (digest, _) = registry.serve_image();
    registry.put(&blob_path(&digest), Answer::Endless);
    let error = pull(&fixture, &registry).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("sent more than"), "{error}");
    fixture.assert_empty();
}

#[test]
fn other_bytes_than_the_digest_says_are_refused() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    let (digest, mut layer) = registry.serve_image();
    layer[600] ^= 1;
    registry.put(&blob_path(&digest), Answer::Body("application/octet-stream", layer));
    let error = pull(&fixture, &registry).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("sent corrupt content"), "{error}");
    fixture.assert_empty();
    let pinned = format!("/v2/app/manifests/{}", sha256(b"what was asked for"));
    registry.put(&pinned, Answer::Body(MANIFEST, b"{}".to_vec()));
    let image = format!("{}/app@{}", registry.address, sha256(b"what was asked for"));
    let error = block_on(super::registry::pull(&ImageService::new(fixture.store.clone()), &image, None)).unwrap_err();
    assert!(error.message().contains("sent corrupt content"), "{error}");
}

#[test]
fn a_document_is_what_its_bytes_are_whatever_the_registry_calls_it() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    registry.serve_image();
    let bytes = registry.body("/v2/app/manifests/1");
    let types = [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "text/html",
    ];
    let ids: Vec<String> = types
        .into_iter()
        .chain([MANIFEST])
        .map(|kind| {
            registry.put("/v2/app/manifests/1", Answer::Body(kind, bytes.clone()));
            pull(&fixture, &registry).unwrap()
        })
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let text = String::from_utf8(bytes).unwrap();
    let both = text.replacen('{', "{\"manifests\":[],", 1);
    registry.put("/v2/app/manifests/1", Answer::Body(MANIFEST, both.into_bytes()));
    let error = pull(&fixture, &registry).unwrap_err();
    assert!(error.message().contains("neither clearly an index nor clearly a manifest"), "{error}");
}

#[test]
fn an_endless_chain_of_redirects_ends_in_an_error() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    let (digest, _) = registry.serve_image();
    registry.put(&blob_path(&digest), Answer::Redirect(blob_path(&digest)));
    let error = pull(&fixture, &registry).unwrap_err();
    assert_eq!(error.code(), Code::Unknown);
    assert!(error.message().contains("redirect"), "{error}");
    fixture.assert_empty();
}

#[test]
fn an_image_of_more_than_the_node_takes_is_refused_packed_or_unpacked() {
    let registry = Server::start();
    let dir = TempDir::new().unwrap();
    let settings = Settings { image_bytes_max: Some(1 << 20), ..Settings::default() };
    let store = Store::open_with(&dir.path().join("images"), settings).unwrap();
    let layers: Vec<Layer> = (0..3).map(|n| Archive::new().file("a", &vec![n; 500_000]).layer()).collect();
    registry.serve_layers(&layers, |layer| gzip(&layer.bytes)); // each alone would be fine
    let error = pull_with(&store, &registry, secret()).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("unpacks to more than 1048576 bytes"), "{error}");
    registry.serve_layers(&layers, |layer| layer.bytes.clone());
    let asked = registry.requests_for("/blobs/").len();
    let error = pull_with(&store, &registry, secret()).unwrap_err();
    assert!(error.message().contains("takes more than the 1048576 bytes"), "{error}");
    assert_eq!(registry.requests_for("/blobs/").len(), asked, "nothing was downloaded of it");
    assert!(store.list().is_empty());
    let archive = super::pack::docker_archive("localhost/bomb:1", &layers);
    let error = store.load(gzip(&archive).as_slice(), None, |_| {}).unwrap_err();
    assert!(error.to_string().contains("takes more than the 1048576 bytes"), "{error}");
}

#[test]
fn pulls_of_one_image_at_once_download_it_once() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    let (digest, _) = registry.serve_image();
    let image = format!("{}/app:1", registry.address);
    let service = ImageService::new(fixture.store.clone());
    let pulls = (0..4).map(|_| super::registry::pull(&service, &image, None));
    let pulled = block_on(futures::future::join_all(pulls));
    assert!(pulled.iter().all(Result::is_ok), "{pulled:?}");
    assert_eq!(registry.requests_for(&digest).len(), 1);
}

#[test]
fn a_pull_that_is_given_up_lets_the_next_one_go_on() {
    let (registry, fixture) = (Server::start(), Fixture::new());
    let (digest, layer) = registry.serve_image();
    let whole = Answer::Body("application/octet-stream", layer);
    registry.put_each(&blob_path(&digest), vec![Answer::Silence, whole]);
    let image = format!("{}/app:1", registry.address);
    let service = ImageService::new(fixture.store.clone());
    block_on(async {
        let asked = || wait_until("the layer is asked for", || !registry.requests_for(&digest).is_empty());
        let given_up = async {
            tokio::select! {
                _ = super::registry::pull(&service, &image, None) => panic!("the registry is silent"),
                () = asked() => {}
            }
        };
        let patient = async {
            asked().await;
            super::registry::pull(&service, &image, None).await.unwrap();
        };
        tokio::join!(given_up, patient);
    });
    assert_eq!(registry.requests_for(&digest).len(), 2);
}
