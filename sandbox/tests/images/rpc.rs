//! Loading over the socket, as the node agent does it.

use std::path::Path;
use std::time::Duration;

use podbus_common_cri::sandbox::image_archive_client::ImageArchiveClient;
use podbus_common_cri::sandbox::image_archive_server::ImageArchiveServer;
use podbus_common_cri::sandbox::{LoadRequest, LoadResponse};
use podbus_sandbox::image::service::ImageArchive;
use tokio::net::UnixListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Fixture;
use super::pack::{Archive, docker_archive};
use crate::runtime::host::until;

/// Serves the fixture's store for as long as `test` runs.
fn with_client<F: Future<Output = ()>>(fixture: &Fixture, test: impl FnOnce(ImageArchiveClient<Channel>) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = fixture.dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let service = ImageArchiveServer::new(ImageArchive::new(fixture.store.clone()));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        test(client(&socket).await).await;
    });
}

async fn client(socket: &Path) -> ImageArchiveClient<Channel> {
    ImageArchiveClient::new(podbus_common_cri::connect(socket, Duration::from_secs(5)).await.unwrap())
}

fn requests(name: &str, archive: &[u8], chunk_bytes: usize) -> Vec<LoadRequest> {
    let start = LoadRequest { name: name.to_owned(), chunk: bytes::Bytes::new() };
    let pieces =
        archive.chunks(chunk_bytes).map(|chunk| LoadRequest { name: String::new(), chunk: chunk.to_vec().into() });
    std::iter::once(start).chain(pieces).collect()
}

async fn load(
    client: &mut ImageArchiveClient<Channel>,
    requests: Vec<LoadRequest>,
) -> Result<Vec<LoadResponse>, Status> {
    let answers = client.load(tokio_stream::iter(requests)).await?.into_inner();
    answers.collect::<Result<Vec<_>, _>>().await
}

#[test]
fn an_archive_comes_in_pieces_of_any_size() {
    let fixture = Fixture::new();
    let archive = docker_archive("", &[Archive::new().file("big", &vec![5; 20 << 20]).layer()]);
    with_client(&fixture, |mut client| async move {
        for chunk_bytes in [1 << 20, 7777] {
            let answers = load(&mut client, requests("localhost/rpc:1", &archive, chunk_bytes)).await.unwrap();
            let last = answers.last().unwrap();
            assert_eq!((last.names.clone(), last.bytes), (vec!["localhost/rpc:1".to_owned()], archive.len() as u64));
            assert!(answers.len() > 2, "no progress was reported");
        }
    });
    assert_eq!(fixture.store.resolve("localhost/rpc:1").unwrap().layers.len(), 1);
}

#[test]
fn a_bad_archive_is_an_invalid_argument_with_its_reason() {
    let fixture = Fixture::new();
    with_client(&fixture, |mut client| async move {
        let error =
            load(&mut client, requests("", b"no archive, but long enough to be one".repeat(20).as_slice(), 100)).await;
        let error = error.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("not a header of a tar archive"), "{error}");
        let error = load(&mut client, Vec::new()).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    });
    fixture.assert_empty();
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing_and_blocks_nobody() {
    let fixture = Fixture::new();
    let archive = docker_archive("localhost/rpc:1", &[Archive::new().file("big", &vec![5; 3 << 20]).layer()]);
    let store = fixture.store.clone();
    with_client(&fixture, |mut client| async move {
        // More of them than may load at a time, each waiting for more of an archive.
        let mut waiting = Vec::new();
        for _ in 0..4 {
            let (sender, receiver) = tokio::sync::mpsc::channel(4);
            sender.send(requests("", &archive, 1 << 20).remove(1)).await.unwrap();
            let answers = client.load(tokio_stream::wrappers::ReceiverStream::new(receiver)).await.unwrap();
            waiting.push((sender, answers));
        }
        let error = load(&mut client, requests("", &archive, 1 << 20)).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        drop(waiting);
        // Those who left have the places a little longer.
        until(async || load(&mut client, requests("", &archive, 1 << 20)).await).await;
        store.remove("localhost/rpc:1").unwrap();
        store.sweep().unwrap();
    });
    fixture.assert_empty();
}
