//! Logs and execs.

use futures::{SinkExt as _, StreamExt as _};
use podbus_common_cri::runtime::*;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tonic::Code;

use super::host::{Host, container, on_host, until};

#[test]
fn long_lines_are_cut_and_no_line_is_lost_at_the_end() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let script =
            "head -c 16384 /dev/zero | tr '\\0' a; echo; head -c 40000 /dev/zero | tr '\\0' b; echo; echo; printf end";
        let id = host.run(&sandbox, "a", &script.replace("tr", "busybox tr")).await;
        host.exit(&id).await;
        let log = host.log(&id).await;
        let seen: Vec<_> = log.iter().map(|line| (line.tag.as_str(), line.text.len())).collect();
        assert_eq!(seen, [("F", 16384), ("P", 16384), ("P", 16384), ("F", 7232), ("F", 0), ("P", 3)]);
        host
    });
}

#[test]
fn many_lines_of_two_streams_are_whole() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "seq 1 20000 & seq 1 20000 >&2; wait").await;
        assert_eq!(host.exit(&id).await.exit_code, 0);
        let log = host.log(&id).await;
        for stream in ["stdout", "stderr"] {
            let lines: Vec<u32> = log.iter().filter(|l| l.stream == stream).map(|l| l.text.parse().unwrap()).collect();
            assert!(lines.iter().copied().eq(1..=20000), "{stream}");
        }
        host
    });
}

#[test]
fn a_reopened_log_goes_on_in_a_new_file() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "echo first; while ! [ -e /tmp/go ]; do sleep 0.01; done; echo second").await;
        host.wait_for_log(&id).await;
        let path = host.status(&id).await.log_path;
        std::fs::rename(&path, format!("{path}.1")).unwrap();
        host.cri.reopen_container_log(ReopenContainerLogRequest { container_id: id.clone() }).await.unwrap();
        assert_eq!(host.log(&id).await, []);
        host.exec(&id, "touch /tmp/go").await;
        host.exit(&id).await;
        assert_eq!(host.log(&id).await[0].text, "second");
        host
    });
}

#[test]
fn exec_sync_answers_with_output_and_exit_code_and_kills_at_the_timeout() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        assert_eq!(host.exec(&id, "echo out; echo err >&2; exit 5").await, ("out\nerr\n".into(), 5));
        assert_eq!(
            host.exec(&id, "readlink /proc/self/ns/pid").await.0,
            host.exec(&id, "readlink /proc/1/ns/pid").await.0
        );
        let cmd = ["sh", "-c", "sleep 4242 & sleep 4242"].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: id.clone(), cmd, timeout: 1 };
        assert_eq!(host.cri.exec_sync(request).await.unwrap_err().code(), Code::DeadlineExceeded);
        let left = "ps | grep -v grep | grep -c 'sleep 4242'; true";
        until(async || match host.exec(&id, left).await.0.trim() {
            "0" => Ok(()),
            count => Err(format!("{count} processes are left")),
        })
        .await;
        let request = ExecSyncRequest { container_id: id.clone(), cmd: vec!["nothing".into()], timeout: 1 };
        assert!(host.cri.exec_sync(request).await.unwrap_err().message().contains("nothing"));
        host
    });
}

#[test]
fn an_exec_is_never_more_than_the_container() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let context =
            LinuxContainerSecurityContext { run_as_username: "web".into(), no_new_privs: true, ..Default::default() };
        let config = super::host::secured("a", "sleep 1000", context);
        let id = host.run_with(&sandbox, ContainerConfig { working_dir: "/tmp".into(), ..config }).await;
        let (seen, code) = host
            .exec(&id, "id -u; pwd; grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status; echo ok > /dev/stderr")
            .await;
        assert_eq!(code, 0, "{seen}");
        assert!(seen.starts_with("101\n/tmp\n") && seen.ends_with("ok\n"), "{seen}");
        assert!(seen.contains("NoNewPrivs:\t1") && seen.contains("CapBnd:\t00000000a80425fb"), "{seen}");
        for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let own = host.exec(&id, &format!("readlink /proc/self/ns/{kind}")).await.0;
            assert_eq!(own, host.exec(&id, &format!("readlink /proc/1/ns/{kind}")).await.0, "{kind}");
        }
        host
    });
}

type Socket = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

async fn connect(host: &mut Host, id: &str, script: &str, tty: bool) -> Result<Socket, String> {
    let request = ExecRequest {
        container_id: id.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    let url = host.cri.exec(request).await.unwrap().into_inner().url;
    open(&url).await
}

async fn open(url: &str) -> Result<Socket, String> {
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
    let authority = request.uri().authority().unwrap().to_string();
    let stream = tokio::net::TcpStream::connect(authority).await.unwrap();
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket).map_err(|error| error.to_string())
}

/// All that comes, by channel.
async fn rest(socket: &mut Socket) -> [String; 4] {
    let mut seen = [const { Vec::new() }; 4];
    while let Some(Ok(message)) =
        tokio::time::timeout(podbus_test_support::wait::PATIENCE, socket.next()).await.unwrap()
    {
        if let Message::Binary(bytes) = message {
            seen[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    seen.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn an_exec_over_a_websocket_has_input_output_errors_and_a_status() {
    on_host(|mut host| async move {
        // The test is in another network namespace than the daemon's loopback: it goes there for the connection.
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let mut socket = connect(&mut host, &id, "cat; echo err >&2; exit 6", false).await.unwrap();
        socket.send(Message::binary(&b"\0hello\n"[..])).await.unwrap();
        socket.send(Message::binary(&b"\xff\0"[..])).await.unwrap();
        let [_, out, err, status] = rest(&mut socket).await;
        assert_eq!((out.as_str(), err.as_str()), ("hello\n", "err\n"));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["details"]["causes"][0], serde_json::json!({ "reason": "ExitCode", "message": "6" }));

        let mut socket = connect(&mut host, &id, "stty size; tty; read line; echo got $line", true).await.unwrap();
        socket.send(Message::binary(&b"\x04{\"Width\":101,\"Height\":33}"[..])).await.unwrap();
        socket.send(Message::binary(&b"\0word\n"[..])).await.unwrap();
        let [_, out, _, status] = rest(&mut socket).await;
        assert!(out.contains("/dev/pts/") && out.contains("got word"), "{out}");
        assert!(status.contains("Success"), "{status}");

        let request = ExecRequest { container_id: id, cmd: vec!["true".into()], stdout: true, ..Default::default() };
        let url = host.cri.exec(request).await.unwrap().into_inner().url;
        rest(&mut open(&url).await.unwrap()).await;
        assert!(open(&url).await.is_err(), "a URL can be used once");
        host
    });
}

#[test]
fn a_container_with_a_terminal_writes_one_stream() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let config = ContainerConfig { tty: true, ..container("a", "tty; echo err >&2; ls -l /dev/console") };
        let seen = host.output_of(&sandbox, config).await;
        assert!(seen.contains("/dev/pts/0") && seen.contains("err") && seen.contains("/dev/console"), "{seen}");
        host
    });
}
