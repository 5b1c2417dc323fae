//! A bus that cannot be used is said to be so, at once.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podbus_scheduler::Args;
use podbus_test_support::wait::{PATIENCE, until};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A nats-server with these arguments, and its URL.
async fn serve(arguments: &[&str]) -> (Server, String) {
    let directory = std::env::temp_dir().join(format!("podbus-refusal-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&directory).unwrap();
    let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
    let mut command = Command::new(program);
    command.args(["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir"]).arg(&directory).args(arguments);
    let server = Server(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let url = until("the server listens", async || {
        let file = std::fs::read_dir(&directory).ok()?.flatten().next()?;
        let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
        ports["nats"][0].as_str().map(ToOwned::to_owned)
    })
    .await;
    std::fs::remove_dir_all(&directory).unwrap();
    (server, url)
}

async fn refusal(nats: String) -> String {
    let args = Args {
        nats,
        token_file: None,
        not_ready_toleration: Duration::from_secs(300),
        replicas: None,
        config: None,
        metrics: None,
    };
    let run = podbus_scheduler::run(args, CancellationToken::new());
    format!("{:#}", timeout(PATIENCE, run).await.expect("it says so at once").unwrap_err())
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused_with_what_to_do() {
    let (_server, url) = serve(&[]).await;
    let said = refusal(url).await;
    assert!(said.contains("JetStream is not enabled") && said.contains("--jetstream"), "{said}");
}

#[tokio::test]
async fn a_wrong_token_is_said_and_not_tried_for_ever() {
    let (_server, url) = serve(&["--jetstream", "--auth", "s3cret"]).await;
    let said = refusal(url).await;
    assert!(said.contains("token") && !said.contains("s3cret"), "{said}");
}
