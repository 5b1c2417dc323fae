//! Ports inside a pod.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _};

use futures::{SinkExt as _, StreamExt as _};
use nix::sched::{CloneFlags, setns};
use podbus_common_cri::runtime::*;
use podbus_common_spdy::Frame;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tonic::Code;

use super::spdy::Client;
use crate::runtime::host::{Host, on_host, pod};

/// Echoes all that comes, then says `bye`. Dropping it ends it: its socket would keep the pod's network.
struct Echo {
    listener: TcpListener,
}

impl Echo {
    /// In the network of the process `pid`.
    fn start(pid: i32, address: &'static str) -> Self {
        let network = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let listener = std::thread::spawn(move || {
            setns(network.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(address).unwrap()
        });
        let listener = listener.join().unwrap();
        let accepting = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = accepting.accept() {
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        stream.write_all(&buffer[..count]).unwrap();
                    }
                    let _ = stream.write_all(b"bye");
                });
            }
        });
        Self { listener }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

async fn url(host: &mut Host, sandbox: &str) -> String {
    let request = PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: Vec::new() };
    host.cri.port_forward(request).await.unwrap().into_inner().url
}

/// Opens the two streams of a connection: error, data.
async fn open<T: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<T>, request: u32, port: u16) -> (u32, u32) {
    let (request, port) = (request.to_string(), port.to_string());
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request.as_str())];
    let error = client.open(&headers("error")).await;
    client.end(error).await;
    let data = client.open(&headers("data")).await;
    (error, data)
}

#[test]
fn connections_of_one_session_reach_the_pod_and_fail_alone() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let pause = host.pause_pid(&sandbox).await;
        let (echo, only_v6) = (Echo::start(pause, "127.0.0.1:0"), Echo::start(pause, "[::1]:0"));
        let (port, only_v6_port) = (echo.port(), only_v6.port());
        let mut client = Client::connect(&url(&mut host, &sandbox).await, "portforward.k8s.io").await;

        let (_, one) = open(&mut client, 0, port).await;
        let (_, two) = open(&mut client, 1, only_v6_port).await;
        client.send(one, "first").await;
        client.send(two, "second").await;
        client.until(|it| it.seen(one).text() == "first" && it.seen(two).text() == "second").await;

        let (error, refused) = open(&mut client, 2, 1).await;
        client.until(|it| it.seen(error).has_ended && it.seen(refused).has_ended).await;
        assert!(client.seen(error).text().contains("port 1 "), "{}", client.seen(error).text());

        // Half-closed by the client: the pod's last words come all the same.
        client.end(one).await;
        client.until(|it| it.seen(one).has_ended).await;
        assert_eq!(client.seen(one).text(), "firstbye");
        client.send_frame(Frame::Ping { id: 5 }).await;
        client.send(two, "!").await;
        client.until(|it| it.seen(two).text() == "second!" && it.pings == [5]).await;
        host
    });
}

#[test]
fn a_pod_with_the_nodes_network_is_reached_there() {
    on_host(|mut host| async move {
        host.enter_network();
        let mut config = pod("node");
        let options = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options);
        let sandbox = host.run_pod_with(config).await;
        let echo = Echo::start(host.pause_pid(&sandbox).await, "127.0.0.1:0");
        let port = echo.port();
        let mut client = Client::connect(&url(&mut host, &sandbox).await, "portforward.k8s.io").await;
        let (_, data) = open(&mut client, 0, port).await;
        client.send(data, "here").await;
        client.until(|it| it.seen(data).text() == "here").await;
        host
    });
}

#[test]
fn a_session_may_travel_in_a_websocket() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let echo = Echo::start(host.pause_pid(&sandbox).await, "127.0.0.1:0");
        let port = echo.port();
        let url = url(&mut host, &sandbox).await;
        let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io".parse().unwrap());
        let authority = request.uri().authority().unwrap().to_string();
        let stream = tokio::net::TcpStream::connect(authority).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let pump = async move {
            let mut buffer = [0; 100]; // frames are cut anywhere
            loop {
                tokio::select! {
                    read = theirs.read(&mut buffer) => match read {
                        Ok(count @ 1..) => socket.send(Message::binary(buffer[..count].to_vec())).await.unwrap(),
                        _ => return socket.close(None).await.unwrap(),
                    },
                    message = socket.next() => match message {
                        Some(Ok(Message::Binary(bytes))) => theirs.write_all(&bytes).await.unwrap(),
                        Some(Ok(_)) => {}
                        _ => return,
                    },
                }
            }
        };
        let user = async move {
            let mut client = Client::over(ours);
            let (_, data) = open(&mut client, 0, port).await;
            let text = "tunnelled".repeat(1000);
            client.send(data, &text).await;
            client.until(|it| it.seen(data).text() == text).await;
            client.end(data).await;
            client.until(|it| it.seen(data).has_ended).await;
        };
        tokio::join!(pump, user);
        host
    });
}

#[test]
fn channels_of_a_websocket_begin_with_the_port() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let echo = Echo::start(host.pause_pid(&sandbox).await, "127.0.0.1:0");
        let port = echo.port();
        let request = PortForwardRequest { pod_sandbox_id: sandbox, port: vec![port.into(), 1] };
        let url = host.cri.port_forward(request).await.unwrap().into_inner().url;
        let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().unwrap());
        let authority = request.uri().authority().unwrap().to_string();
        let stream = tokio::net::TcpStream::connect(authority).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        socket.send(Message::binary(&b"\0hello"[..])).await.unwrap();
        let mut channels = [const { Vec::new() }; 4];
        let is_done = |it: &[Vec<u8>; 4]| it[0].len() == 7 && it[1].len() == 2 && it[3].len() > 2;
        while !is_done(&channels) {
            let message = tokio::time::timeout(podbus_test_support::wait::PATIENCE, socket.next()).await.unwrap();
            if let Some(Ok(Message::Binary(bytes))) = message {
                channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
            }
        }
        assert_eq!(channels[0], [&port.to_le_bytes()[..], b"hello"].concat());
        assert_eq!(channels[3][..2], 1_u16.to_le_bytes());
        host
    });
}

#[test]
fn a_port_or_pod_that_cannot_be_is_refused() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        for port in [0, -1, 65536] {
            let request = PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![port] };
            assert_eq!(host.cri.port_forward(request).await.unwrap_err().code(), Code::InvalidArgument);
        }
        host.cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
        let request = PortForwardRequest { pod_sandbox_id: sandbox, port: Vec::new() };
        assert_eq!(host.cri.port_forward(request).await.unwrap_err().code(), Code::FailedPrecondition);
        let request = PortForwardRequest { pod_sandbox_id: "none".into(), port: Vec::new() };
        assert_eq!(host.cri.port_forward(request).await.unwrap_err().code(), Code::NotFound);
        host
    });
}
