//! The first process of a container and its clients.

use std::time::Duration;

use podbus_common_cri::runtime::*;
use tonic::Code;

use super::spdy::{Command, Wants};
use crate::runtime::host::{Host, container, on_host};

const PIPES: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
const OUTPUT: Wants = Wants { stdin: false, stdout: true, stderr: false, tty: false };
const TERMINAL: Wants = Wants { stdin: true, stdout: true, stderr: false, tty: true };

async fn attach(host: &mut Host, id: &str, wants: Wants) -> Command {
    let Wants { stdin, stdout, stderr, tty } = wants;
    let request = AttachRequest { container_id: id.to_owned(), stdin, tty, stdout, stderr };
    let url = host.cri.attach(request).await.unwrap().into_inner().url;
    Command::open(&url, "v4.channel.k8s.io", wants).await
}

/// Every answer of this script is one line, so that a client that has just joined can be told from one that has not.
const ECHO: &str = "while read line; do echo got $line; echo err $line >&2; done; echo end";

#[test]
fn clients_share_input_and_output_and_leave_as_they_like() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let id = host.run_with(&sandbox, ContainerConfig { stdin: true, ..container("a", ECHO) }).await;
        let mut first = attach(&mut host, &id, PIPES).await;
        first.send("one\n").await;
        first.until_output_has("got one").await;
        let mut second = attach(&mut host, &id, PIPES).await;
        second.send("two\n").await;
        first.until_output_has("got two").await;
        second.until_output_has("got two").await;
        assert!(!second.output().contains("one"), "nothing is replayed");
        drop(second);
        first.send("three\n").await;
        first.until_output_has("got three").await;
        // Without stdin_once the end of one client's input ends nothing.
        first.end_input().await;
        let mut third = attach(&mut host, &id, PIPES).await;
        third.send("four\n").await;
        first.until_output_has("got four").await;
        let errors = |it: &super::spdy::Client, stream| it.seen(stream).text().contains("err four");
        let stderr = first.stderr.unwrap();
        first.client.until(|it| errors(it, stderr)).await;
        host.stop(&id, 0).await;
        assert!(first.finish().await.contains("Success") && third.finish().await.contains("Success"));
        assert_eq!(host.log(&id).await.iter().filter(|line| line.stream == "stdout").count(), 4);
        host
    });
}

#[test]
fn stdin_once_ends_with_the_input_of_the_first_client() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let config = ContainerConfig { stdin: true, stdin_once: true, ..container("a", ECHO) };
        let id = host.run_with(&sandbox, config).await;
        let mut client = attach(&mut host, &id, PIPES).await;
        client.send("one\n").await;
        client.end_input().await;
        assert!(client.finish().await.contains("Success"));
        assert_eq!(client.output(), "got one\nend\n");
        assert_eq!(host.exit(&id).await.exit_code, 0);

        let config = ContainerConfig { stdin: true, stdin_once: true, ..container("b", ECHO) };
        let id = host.run_with(&sandbox, config).await;
        let mut client = attach(&mut host, &id, PIPES).await;
        client.send("one\n").await;
        drop(client); // leaving is an end as well, and what was said before is said
        assert_eq!(host.exit(&id).await.exit_code, 0);
        assert_eq!(host.log(&id).await[0].text, "got one");
        host
    });
}

#[test]
fn a_terminal_is_shared_and_has_the_size_of_the_last_client() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let config = ContainerConfig { stdin: true, tty: true, ..container("a", "exec sh") };
        let id = host.run_with(&sandbox, config).await;
        let mut client = attach(&mut host, &id, TERMINAL).await;
        client.resize(121, 41).await;
        client.send("stty size\n").await;
        client.until_output_has("41 121").await;
        let mut other = attach(&mut host, &id, TERMINAL).await;
        other.send("echo a''b\n").await;
        client.until_output_has("ab").await;
        client.send("exit 5\n").await;
        assert!(client.finish().await.contains("Success"));
        assert_eq!(host.exit(&id).await.exit_code, 5);
        host
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_off_alone_and_the_log_is_whole() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let script = "while read word && [ $word = tick ]; do echo tick; done; seq 1 400000; read word";
        let id = host.run_with(&sandbox, ContainerConfig { stdin: true, ..container("a", script) }).await;
        let mut reader = attach(&mut host, &id, PIPES).await;
        let mut sleepers = [attach(&mut host, &id, OUTPUT).await, attach(&mut host, &id, OUTPUT).await];
        for sleeper in &mut sleepers {
            // Proves that it is attached; from then on it reads nothing.
            while !sleeper.output().contains("tick") {
                reader.send("tick\n").await;
                let _ = tokio::time::timeout(Duration::from_millis(20), sleeper.until_output_has("tick")).await;
            }
        }
        reader.send("go\n").await;
        reader.until_output_has("\n400000\n").await;
        let is_whole = |lines: Vec<&str>| {
            let numbers = lines.into_iter().filter(|line| *line != "tick").map(|line| line.parse::<u32>().unwrap());
            numbers.eq(1..=400_000)
        };
        assert!(is_whole(reader.output().lines().collect()));
        for sleeper in &mut sleepers {
            assert!(sleeper.finish().await.contains("cut off"));
        }
        host.stop(&id, 0).await;
        assert!(is_whole(host.log(&id).await.iter().map(|line| line.text.as_str()).collect()));
        host
    });
}

#[test]
fn a_container_outlives_its_clients_and_the_daemon() {
    on_host(|mut host| async move {
        host.enter_network();
        let sandbox = host.run_pod("web").await;
        let id = host.run_with(&sandbox, ContainerConfig { stdin: true, ..container("a", ECHO) }).await;
        let mut client = attach(&mut host, &id, PIPES).await;
        client.send("one\n").await;
        client.until_output_has("got one").await;
        host.kill_daemon();
        host.run_daemon().await;
        let mut client = attach(&mut host, &id, PIPES).await;
        client.send("two\n").await;
        client.until_output_has("got two").await;
        host.stop(&id, 0).await;
        host
    });
}

#[test]
fn an_attach_that_makes_no_sense_is_refused() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let request =
            |tty, stderr| AttachRequest { container_id: id.clone(), stdout: true, tty, stderr, ..Default::default() };
        for request in [request(true, false), request(true, true)] {
            assert_eq!(host.cri.attach(request).await.unwrap_err().code(), Code::InvalidArgument);
        }
        host.stop(&id, 0).await;
        let error = host.cri.attach(request(false, false)).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        host
    });
}
