//! What the program prints and how it exits, against a scheduler and a node that only answer: a real nats-server
//! between them. The real services are tested end to end elsewhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where, and that is all there is to say")]

mod fake;

use std::process::Stdio;

use fake::Cluster;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Exit code, stdout, stderr.
type Printed = (i32, String, String);

impl Cluster {
    async fn podbus(&self, line: &str) -> Printed {
        self.podbus_with(line, b"").await
    }

    async fn podbus_with(&self, line: &str, stdin: &[u8]) -> Printed {
        let mut child = Command::new(env!("CARGO_BIN_EXE_podbus"))
            .args(line.split_whitespace())
            .env("PODBUS_NATS_URL", self.url())
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let stdin = stdin.to_vec();
        // Beside reading: a command that answers while it reads would wait for us for ever.
        let feed = tokio::spawn(async move { input.write_all(&stdin).await });
        let wait = tokio::time::timeout(std::time::Duration::from_secs(20), child.wait_with_output());
        let output = wait.await.unwrap_or_else(|_| panic!("`podbus {line}` does not end")).unwrap();
        // A command that does not read stdin may have left before it was written.
        let _ = feed.await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }
}

fn ok(stdout: &str) -> Printed {
    (0, stdout.into(), String::new())
}

fn failed(stderr: &str) -> Printed {
    (1, String::new(), stderr.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_errors_read_as_kubectl_prints_them() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.podbus("get pods -o name").await, ok("pod/api\npod/web\n"));
    assert_eq!(cluster.podbus("get pod/web no/node-1 -o name").await, ok("pod/web\nnode/node-1\n"));
    assert_eq!(cluster.podbus("get po web -o jsonpath={.spec.nodeName}").await, ok("node-1"));
    assert_eq!(cluster.podbus("get pod nix").await, failed("Error from server (NotFound): pods \"nix\" not found\n"));
    assert_eq!(cluster.podbus("get pod nix --ignore-not-found").await, ok(""));
    assert_eq!(
        cluster.podbus("get pods -n empty").await,
        (0, String::new(), "No resources found in empty namespace.\n".into())
    );
    let (code, stdout, stderr) = cluster.podbus("get pod nix web --no-headers").await;
    assert_eq!((code, stderr.as_str()), (1, "Error from server (NotFound): pods \"nix\" not found\n"));
    assert!(stdout.starts_with("web   1/2   Running   0     "), "{stdout}");
    let (_, stdout, _) = cluster.podbus("get pods --color=always").await;
    assert!(stdout.contains("\u{1b}[32mRunning\u{1b}[0m"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_and_delete_say_what_was_done() {
    let cluster = Cluster::start().await;
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: new}\nspec: {containers: [{name: a, image: b}]}\n";
    assert_eq!(cluster.podbus_with("apply -f -", manifest.as_bytes()).await, ok("pod/new created\n"));
    assert_eq!(
        cluster.podbus_with("apply --dry-run=client -f -", manifest.as_bytes()).await,
        ok("pod/new created (dry run)\n")
    );
    assert_eq!(
        cluster.podbus_with("apply --dry-run=server -f -", manifest.as_bytes()).await,
        ok("pod/new created (server dry run)\n")
    );
    assert_eq!(cluster.podbus("delete pod web").await, ok("pod \"web\" deleted from default namespace\n"));
    assert_eq!(
        cluster.podbus("delete pod web").await,
        failed("Error from server (NotFound): pods \"web\" not found\n")
    );
    assert_eq!(cluster.podbus("delete pod web --ignore-not-found").await.0, 0);
    assert_eq!(cluster.podbus("delete pods --all -o name").await, ok("pod/api\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_ends_when_the_condition_holds_or_in_time() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.podbus("wait --for=condition=Ready pod/web").await, ok("pod/web condition met\n"));
    assert_eq!(
        cluster.podbus("wait --for=jsonpath={.status.phase}=Failed pod/web --timeout=300ms").await,
        failed("error: timed out waiting for the condition on pods/web\n")
    );
    let (deleted, waited) = tokio::join!(
        cluster.podbus("delete pod web --wait=false"),
        cluster.podbus("wait --for=delete pod/web --timeout=10s")
    );
    assert_eq!((deleted.0, waited), (0, ok("pod/web condition met\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_come_from_the_node_of_the_pod() {
    let cluster = Cluster::start().await;
    assert_eq!(
        cluster.podbus("logs web").await,
        (0, "main says 1\nmain says 2\n".into(), "Defaulted container \"main\" out of: main, side\n".into())
    );
    assert_eq!(
        cluster.podbus("logs web side --prefix").await,
        ok("[pod/web/side] side says 1\n[pod/web/side] side says 2\n")
    );
    assert_eq!(cluster.podbus("logs web -c nix").await, failed("error: container nix is not valid for pod web\n"));
    let (code, stdout, _) = cluster.podbus("logs -f -l app=all --prefix -c main").await;
    assert_eq!((code, stdout.lines().count()), (0, 4), "{stdout}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_hands_stdin_through_and_returns_the_exit_code() {
    let cluster = Cluster::start().await;
    let input = vec![b'x'; 1 << 20];
    let (code, stdout, stderr) = cluster.podbus_with("exec -i web -c main -- exit 3", &input).await;
    assert_eq!((code, stdout.len(), stderr.as_str()), (3, 1 << 20, "command terminated with exit code 3\n"));
    let (code, stdout, _) = cluster.podbus("exec web -c main -- exit 0").await;
    assert_eq!((code, stdout.as_str()), (0, ""));
    let (code, _, stderr) = cluster.podbus_with("exec -it web -c main -- exit 0", b"").await;
    assert_eq!(code, 0);
    assert!(stderr.contains("Unable to use a TTY"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_and_port_forward_end_with_their_pod() {
    let cluster = Cluster::start().await;
    assert_eq!(
        cluster.podbus("attach -it web -c main").await,
        (
            0,
            "main goes on\n".into(),
            "error: Unable to use a TTY - container main did not allocate one\n\
             error: Unable to use stdin - container main did not ask for it\n"
                .into()
        )
    );
    let (code, stdout, stderr) = cluster.podbus("port-forward web :80 :81 --address 127.0.0.1").await;
    assert_eq!((code, stderr.as_str()), (1, "error: lost connection to pod\n  the pod is gone\n"));
    let told: Vec<_> = stdout.lines().filter_map(|line| line.strip_prefix("Forwarding from 127.0.0.1:")).collect();
    assert!(matches!(told[..], [a, b] if a.ends_with(" -> 80") && b.ends_with(" -> 81")), "{stdout}");
    let (_, _, stderr) = cluster.podbus("port-forward web 1:2:3").await;
    assert_eq!(stderr, "error: invalid port format '1:2:3'\nhint: write 8080:80, 8080 or :80\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_loaded_onto_each_node() {
    let cluster = Cluster::start().await;
    let archive = vec![7; 3 << 20];
    let (code, stdout, stderr) = cluster.podbus_with("image load -", &archive).await;
    assert_eq!((code, stdout.as_str()), (0, "Loaded image: localhost/loaded:3145728\n"), "{stderr}");
    assert_eq!(stderr, "node-1: loaded localhost/loaded:3145728\n");
    let (code, stdout, _) = cluster.podbus("image list --no-headers").await;
    assert_eq!((code, stdout.as_str()), (0, "localhost/busybox:latest   abc   2.1MB   node-1\n"));
    let (code, _, stderr) = cluster.podbus("image pull x/nix").await;
    assert_eq!((code, stderr.as_str()), (1, "Error from server (NotFound): node-1: no such image\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_adds_up_what_containers_use() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.podbus("top pods").await, ok("NAME   CPU(cores)   MEMORY(bytes)\nweb    7m           30Mi\n"));
    assert_eq!(
        cluster.podbus("top pod web --containers --no-headers").await,
        ok("web   main   5m    20Mi\nweb   side   2m    10Mi\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_is_not_there_is_named_with_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_podbus"))
        .args(["get", "pods", "--nats", "nats://127.0.0.1:1"])
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(stderr.starts_with("error: cannot reach the NATS server at nats://127.0.0.1:1\n"), "{stderr}");
    assert!(stderr.contains("refused") && stderr.contains("hint: start a cluster with `podbus up`"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_leaves_early_is_no_error() {
    let cluster = Cluster::start().await;
    let script = format!("{} get pods -o yaml | true; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_podbus"));
    let output =
        Command::new("bash").args(["-c", &script]).env("PODBUS_NATS_URL", cluster.url()).output().await.unwrap();
    assert_eq!((String::from_utf8_lossy(&output.stdout).trim(), output.stderr.len()), ("0", 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scheduler_says_what_it_thinks_and_what_it_would_do() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.podbus("explain pod/web").await, ok("There are no nodes.\n"));
    let manifest = b"{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c, image: x:1}]}}";
    let planned = "POD   NODE     PREEMPTS   WHY\nweb   node-1   <none>     <none>\n\n\
                   1 of 1 would have a place. Nothing was changed.\n";
    assert_eq!(cluster.podbus_with("plan -f -", manifest).await, ok(planned));
}
