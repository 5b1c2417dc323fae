use bytes::Bytes;
use futures::StreamExt as _;
use podbus_common::proto::{ImageRequest, LogsRequest, OpenStream, StreamOpened, chunk, client_frame, open_stream};
use prost::Message as _;

use super::*;
use crate::testing::NatsServer;
use crate::{Bus, BusOptions};

async fn bus(server: &NatsServer) -> Bus {
    Bus::connect(&BusOptions { url: server.url(), ..Default::default() }).await.unwrap()
}

#[tokio::test]
async fn more_chunks_than_credits_arrive_in_order_and_whole() {
    let server = NatsServer::start();
    let bus = bus(&server).await;
    let mut requests = bus.client().subscribe("logs").await.unwrap();
    let serving = bus.clone();
    tokio::spawn(async move {
        let (_, stream) = accept(&serving, requests.next().await.unwrap()).await.unwrap();
        for n in 0..1000_u32 {
            stream.sender.send(chunk::Kind::Stdout, Bytes::copy_from_slice(&n.to_le_bytes())).await.unwrap();
        }
        let large = Bytes::from(vec![7; CHUNK_BYTES_MAX + 1]);
        stream.sender.send(chunk::Kind::Stderr, large).await.unwrap();
        stream.sender.eof().await.unwrap();
        stream.sender.finish(3, None).await;
    });
    let mut stream = open(&bus, "logs", open_stream::Request::Logs(LogsRequest::default())).await.unwrap();
    for n in 0..1000_u32 {
        assert_eq!(stream.next().await.unwrap().unwrap().data, n.to_le_bytes().as_slice());
    }
    assert_eq!(stream.next().await.unwrap().unwrap().data.len(), CHUNK_BYTES_MAX);
    assert_eq!(stream.next().await.unwrap().unwrap().data.len(), 1);
    assert_eq!(stream.next().await.unwrap().unwrap().kind(), chunk::Kind::Eof);
    let end = stream.next().await.unwrap().unwrap();
    assert_eq!((end.kind(), end.exit_code), (chunk::Kind::End, 3));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn more_frames_than_may_wait_arrive_in_order_and_whole() {
    let server = NatsServer::start();
    let bus = bus(&server).await;
    let mut requests = bus.client().subscribe("images").await.unwrap();
    let serving = bus.clone();
    let received = tokio::spawn(async move {
        let (_, mut stream) = accept(&serving, requests.next().await.unwrap()).await.unwrap();
        let mut bytes = 0;
        while let Some(frame) = stream.receiver.recv().await {
            match frame.kind() {
                client_frame::Kind::Data => bytes += frame.data.len(),
                _ => break,
            }
        }
        stream.sender.finish(0, None).await;
        bytes
    });
    let stream = open(&bus, "images", open_stream::Request::Image(ImageRequest::default())).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    writer.data(Bytes::from(vec![1; 10 << 20])).await.unwrap();
    writer.eof().await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().kind(), chunk::Kind::End);
    assert_eq!(received.await.unwrap(), 10 << 20);
}

#[tokio::test]
async fn a_stream_goes_to_an_inbox_and_nowhere_else() {
    let server = NatsServer::start();
    let bus = bus(&server).await;
    let mut requests = bus.client().subscribe("logs").await.unwrap();
    let mut forged = bus.client().subscribe("podbus.status.node-1").await.unwrap();
    let open_to = |inbox: &str| {
        let request = Some(open_stream::Request::Logs(LogsRequest::default()));
        OpenStream { inbox: inbox.to_owned(), credits: 1, request }.encode_to_vec()
    };
    let reply = bus.client().new_inbox();
    let mut answers = bus.client().subscribe(reply.clone()).await.unwrap();
    bus.client().publish_with_reply("logs", reply, open_to("podbus.status.node-1").into()).await.unwrap();
    assert!(matches!(accept(&bus, requests.next().await.unwrap()).await, Err(AcceptError::Malformed)));
    let answer = StreamOpened::decode(answers.next().await.unwrap().payload).unwrap();
    assert_eq!(answer.error.unwrap().code, 400);

    let inbox = bus.client().new_inbox();
    bus.client().publish_with_reply("logs", "podbus.status.node-1", open_to(&inbox).into()).await.unwrap();
    assert!(matches!(accept(&bus, requests.next().await.unwrap()).await, Err(AcceptError::Malformed)));
    bus.client().publish("podbus.status.node-1", "the first".into()).await.unwrap();
    assert_eq!(forged.next().await.unwrap().payload, "the first");
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_and_a_refusal_is_an_error() {
    let server = NatsServer::start();
    let bus = bus(&server).await;
    let mut requests = bus.client().subscribe("logs").await.unwrap();
    let serving = bus.clone();
    let noticed = tokio::spawn(async move {
        for _ in ["is dropped", "leaves"] {
            let (_, stream) = accept(&serving, requests.next().await.unwrap()).await.unwrap();
            stream.sender.closed().await;
            assert!(stream.sender.send(chunk::Kind::Stdout, Bytes::from_static(b"x")).await.is_err());
        }
        refuse(&serving, &requests.next().await.unwrap(), 404, "no such pod").await;
    });
    let request = || open_stream::Request::Logs(LogsRequest::default());
    drop(open(&bus, "logs", request()).await.unwrap());
    open(&bus, "logs", request()).await.unwrap().leave().await;
    let refused = open(&bus, "logs", request()).await.unwrap_err();
    assert_eq!(refused.to_string(), "no such pod");
    noticed.await.unwrap();
}
