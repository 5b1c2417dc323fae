use podbus_common::proto::{self, chunk};
use podbus_common_bus::BusOptions;
use podbus_common_bus::testing::NatsServer;

use super::*;
use crate::runtime::fake::Fake;

#[tokio::test]
async fn a_request_that_asks_for_something_else_than_its_subject_is_refused() {
    let server = NatsServer::start();
    let bus = Bus::connect(&BusOptions { url: server.url(), ..Default::default() }).await.unwrap();
    let streams = Streams {
        node: "node-1".to_owned(),
        bus: bus.clone(),
        runtime: Fake::new(&[]),
        directory: Directory::default(),
        state_dir: Path::new("/nonexistent").into(),
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(streams.serve(stop.clone()));
    let exec = || proto::ExecRequest { namespace: "team-a".into(), pod: "web".into(), ..Default::default() };
    let mut forward = proto::PortForwardRequest { namespace: "team-a".into(), pod: "web".into(), ..Default::default() };
    forward.port = 80;
    let cases = [
        // A viewer may publish to logs and stats of all namespaces.
        ("team-a.logs", Request::Exec(exec()), 403),
        ("team-a.stats", Request::PortForward(forward.clone()), 403),
        // A team may publish to all streams of its namespace.
        ("team-b.exec", Request::Exec(exec()), 403),
        ("team-b.exec", Request::Image(proto::ImageRequest::default()), 403),
        ("team-a.exec", Request::Exec(exec()), 404),
        ("team-a.portforward", Request::PortForward(forward), 404),
    ];
    for (subject, request, code) in cases {
        let subject = format!("podbus.node.node-1.{subject}");
        let mut stream = loop {
            match stream::open(&bus, &subject, request.clone()).await {
                Ok(stream) => break stream,
                // It has not subscribed yet.
                Err(stream::OpenError::Request(podbus_common_bus::RequestError::NoResponders { .. })) => {}
                Err(error) => panic!("{error}"),
            }
        };
        let end = stream.next().await.unwrap().unwrap();
        assert_eq!((end.kind(), end.error.map(|error| error.code)), (chunk::Kind::End, Some(code)), "{subject}");
    }
    stop.cancel();
    serving.await.unwrap();
}
