//! One more process in a container, over SPDY and WebSockets.

use futures::{SinkExt as _, StreamExt as _};
use podbus_common_cri::runtime::*;
use podbus_test_support::wait::PATIENCE;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tonic::Code;

use super::spdy::{Command, Wants, upgrade};
use crate::runtime::host::{Host, is_alive, on_host, wait_until};

const PIPES: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
const TERMINAL: Wants = Wants { stdin: true, stdout: true, stderr: false, tty: true };

async fn url(host: &mut Host, id: &str, command: &[&str], wants: Wants) -> String {
    let Wants { stdin, stdout, stderr, tty } = wants;
    let cmd = command.iter().map(ToString::to_string).collect();
    let request = ExecRequest { container_id: id.to_owned(), cmd, tty, stdin, stdout, stderr };
    host.cri.exec(request).await.unwrap().into_inner().url
}

async fn exec(host: &mut Host, id: &str, script: &str, protocol: &str, wants: Wants) -> Command {
    let url = url(host, id, &["sh", "-c", script], wants).await;
    Command::open(&url, protocol, wants).await
}

#[test]
fn an_exec_over_spdy_has_input_output_errors_and_an_exit_code() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;

        let offered = "v5.channel.k8s.io,v4.channel.k8s.io,v3.channel.k8s.io,v2.channel.k8s.io,channel.k8s.io";
        let mut command = exec(&mut host, &id, "cat; echo err >&2; exit 6", offered, PIPES).await;
        command.send("hello\n").await;
        command.end_input().await;
        assert_eq!(command.exit_code().await, 6);
        assert_eq!((command.output().as_str(), command.errors().as_str()), ("hello\n", "err\n"));

        // A megabyte both ways: nothing is lost at the end.
        let mut command = exec(&mut host, &id, "cat", offered, PIPES).await;
        for _ in 0..64 {
            command.send(&"x".repeat(16 << 10)).await;
        }
        command.end_input().await;
        assert_eq!(command.exit_code().await, 0);
        assert_eq!(command.output().len(), 1 << 20);

        // Before v4 the end is text, and none where all is well.
        let mut command = exec(&mut host, &id, "exit 3", "v2.channel.k8s.io", PIPES).await;
        assert_eq!(command.finish().await, "command terminated with non-zero exit code: exit status 3");
        let mut command = exec(&mut host, &id, "true", "channel.k8s.io", PIPES).await;
        assert_eq!(command.finish().await, "");
        host
    });
}

#[test]
fn a_terminal_over_spdy_has_the_size_that_the_client_says() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let script = "trap 'stty size' WINCH; echo ready $TERM; while :; do sleep 0.01; done";
        let mut command = exec(&mut host, &id, script, "v4.channel.k8s.io", TERMINAL).await;
        command.until_output_has("ready xterm").await;
        command.resize(101, 33).await;
        command.until_output_has("33 101").await;
        command.send("\x03").await; // ctrl-c
        assert_eq!(command.exit_code().await, 130);
        host
    });
}

#[test]
fn a_command_that_cannot_be_run_ends_as_in_a_shell() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        for (program, code) in [("nosuch", 127), ("/bin/nosuch", 127), ("/etc/passwd", 126), ("/tmp", 126)] {
            let url = url(&mut host, &id, &[program], PIPES).await;
            let mut command = Command::open(&url, "v4.channel.k8s.io", PIPES).await;
            assert_eq!(command.exit_code().await, code, "{program}");
            assert!(command.errors().contains(program), "{}", command.errors());
        }
        host
    });
}

#[test]
fn a_client_that_leaves_takes_its_process_along() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let mut command = exec(&mut host, &id, "echo started; sleep 4711", "v4.channel.k8s.io", PIPES).await;
        command.until_output_has("started").await;
        let sleeps = || {
            let processes = std::fs::read_dir("/proc").unwrap().flatten();
            let pids = processes.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok());
            let line = |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            pids.filter(|pid| line(*pid) == b"sleep\x004711\0" && is_alive(*pid)).count()
        };
        wait_until("the command sleeps", || sleeps() > 0).await;
        drop(command);
        wait_until("the command is gone", || sleeps() == 0).await;
        host
    });
}

#[test]
fn a_url_is_good_for_one_connection_that_speaks_something_known() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let good = url(&mut host, &id, &["true"], PIPES).await;
        let spdy = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
        let with = |protocol| [&spdy[..], &[("X-Stream-Protocol-Version", protocol)]].concat();
        assert!(upgrade(&good, &[]).await.1.starts_with("HTTP/1.1 400 "));
        assert!(upgrade(&good, &spdy).await.1.starts_with("HTTP/1.1 400 "));
        let (_, refused) = upgrade(&good, &with("v9.channel.k8s.io")).await;
        assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
        assert!(refused.to_lowercase().contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"), "{refused}");
        let wrong = good.replace("/exec/", "/attach/");
        assert!(upgrade(&wrong, &with("v4.channel.k8s.io")).await.1.starts_with("HTTP/1.1 404 "));
        assert_eq!(Command::open(&good, "v4.channel.k8s.io", PIPES).await.exit_code().await, 0);
        assert!(upgrade(&good, &with("v4.channel.k8s.io")).await.1.starts_with("HTTP/1.1 404 "));

        let refused = |tty, stdout, stderr| ExecRequest {
            container_id: id.clone(),
            cmd: vec!["true".into()],
            tty,
            stdout,
            stderr,
            ..Default::default()
        };
        for request in [refused(true, true, true), refused(false, false, false)] {
            assert_eq!(host.cri.exec(request).await.unwrap_err().code(), Code::InvalidArgument);
        }
        host
    });
}

#[test]
fn every_kind_of_websocket_carries_a_command() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let wants = Wants { stdin: false, ..PIPES };
        // It runs until the ping is answered: who has ended answers none.
        let script = "while ! [ -e /tmp/go ]; do sleep 0.01; done; rm /tmp/go; echo out; exit 4";
        for protocol in [
            "v5.channel.k8s.io",
            "v4.channel.k8s.io",
            "v4.base64.channel.k8s.io",
            "channel.k8s.io",
            "base64.channel.k8s.io",
            "",
        ] {
            let url = url(&mut host, &id, &["sh", "-c", script], wants).await;
            let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
            if !protocol.is_empty() {
                request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
            }
            let authority = request.uri().authority().unwrap().to_string();
            let stream = tokio::net::TcpStream::connect(authority).await.unwrap();
            let (mut socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
            let chosen = answer.headers().get("sec-websocket-protocol").map_or("", |it| it.to_str().unwrap());
            assert_eq!(chosen, protocol);
            socket.send(Message::Ping(vec![7].into())).await.unwrap();
            let (mut output, mut status, mut pongs) = (String::new(), String::new(), 0);
            while let Some(Ok(message)) = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap() {
                let (channel, data) = match message {
                    Message::Binary(bytes) => (bytes[0] + b'0', bytes[1..].to_vec()),
                    Message::Text(text) => {
                        use base64::Engine as _;
                        let data = base64::engine::general_purpose::STANDARD.decode(&text.as_bytes()[1..]).unwrap();
                        (text.as_bytes()[0], data)
                    }
                    Message::Pong(_) => {
                        pongs += 1;
                        host.exec(&id, "touch /tmp/go").await;
                        continue;
                    }
                    Message::Close(frame) => {
                        assert_eq!(u16::from(frame.unwrap().code), 1000);
                        continue;
                    }
                    _ => continue,
                };
                let text = String::from_utf8(data).unwrap();
                match channel {
                    b'1' => output += &text,
                    b'3' => status += &text,
                    _ => {}
                }
            }
            assert_eq!((output.as_str(), pongs), ("out\n", 1), "{protocol}");
            let is_json = protocol.starts_with('v');
            assert!(status.contains("exit status 4") && status.starts_with('{') == is_json, "{protocol}: {status}");
        }
        host
    });
}
