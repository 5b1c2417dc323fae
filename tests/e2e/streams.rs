//! What a person opens into a pod: `attach` and `port-forward`, on real containers and real connections.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sched::{CloneFlags, setns};
use nix::sys::termios::tcgetattr;

use podbus_test_support::wait::PATIENCE;

use crate::cluster::{Cluster, condition, container};
use crate::life::sleeper;
use crate::terminal::OnTerminal;

const TWO_CONTAINERS: &str = include_str!("../../examples/two-containers.yaml");

/// A verb that goes on until it is dropped.
pub(crate) struct Verb {
    child: Child,
    output: BufReader<ChildStdout>,
    errors: Arc<Mutex<String>>,
}

impl Verb {
    pub(crate) fn start(cluster: &Cluster, arguments: &[&str]) -> Self {
        let mut command = cluster.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (errors, stderr) = (Arc::<Mutex<String>>::default(), BufReader::new(child.stderr.take().unwrap()));
        let all = Arc::clone(&errors);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                all.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Self { child, output, errors }
    }

    /// The next line of its output; empty at its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    fn say(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// What it said on stderr so far.
    pub(crate) fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// The ports of 127.0.0.1 that it says it listens on.
    pub(crate) fn forwarded(&mut self, count: usize) -> Vec<u16> {
        let mut ports = Vec::new();
        while ports.len() < count {
            let line = self.line();
            assert!(line.starts_with("Forwarding from "), "{line:?} {}", self.errors());
            let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split_once(" -> "));
            ports.extend(port.map(|(port, _)| port.parse::<u16>().unwrap()));
        }
        ports
    }

    /// Its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Verb {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What an HTTP server says of its first page; empty where there is none.
pub(crate) fn page(port: u16) -> String {
    let mut stream = connect(port);
    let mut answer = String::new();
    // Who is not there may reset the connection at any of these.
    let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
    let _ = asked.and_then(|()| stream.read_to_string(&mut answer));
    answer
}

/// Echoes all that comes, then says `bye`, inside a pod's network. Dropping it ends it: its socket keeps that network.
struct Echo {
    listener: TcpListener,
}

impl Echo {
    fn start(pid: i32) -> Self {
        let network = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let listen = std::thread::spawn(move || {
            setns(network.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind("127.0.0.1:0").unwrap()
        });
        let listener = listen.join().unwrap();
        let accepting = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = accepting.accept() {
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                    let _ = stream.write_all(b"bye");
                });
            }
        });
        Self { listener }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

#[test]
fn a_forwarded_port_carries_connections_both_ways_until_the_pod_is_gone() {
    let cluster = Cluster::start(1);
    cluster.apply(TWO_CONTAINERS);
    cluster.wait_running("web");
    let echo = Echo::start(cluster.container_pids("/pages")[0]);
    let echo_port = echo.listener.local_addr().unwrap().port();
    let mut forward = Verb::start(&cluster, &["port-forward", "pod/web", ":http", &format!(":{echo_port}"), ":1"]);
    let ports = forward.forwarded(3);
    cluster.wait_until("the page is served", || page(ports[0]).contains("Hello from web"));

    // Two at once, each with its own answers, and the pod's last words after a half-close.
    let (mut one, mut other) = (connect(ports[1]), connect(ports[1]));
    for (mut stream, word) in [(&one, "first"), (&other, "second"), (&one, "third")] {
        stream.write_all(word.as_bytes()).unwrap();
        let mut answer = vec![0; word.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, word.as_bytes());
    }
    one.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    one.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye");

    // Who reads nothing is held up, and holds up nobody else; all that was taken arrives.
    let mut stuck = connect(ports[1]);
    stuck.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let body = (0..999_983_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect::<Vec<_>>().repeat(96);
    let mut sent = 0;
    let full = loop {
        match stuck.write(&body[sent..]) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
    };
    assert!(matches!(full.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{full}");
    assert!(sent < body.len(), "{sent} bytes wait somewhere");
    assert!(page(ports[0]).contains("Hello from web"));
    other.write_all(b"still").unwrap();
    other.read_exact(&mut [0; 5]).unwrap();
    let mut reader = stuck.try_clone().unwrap();
    let read = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    stuck.set_write_timeout(Some(PATIENCE)).unwrap();
    stuck.write_all(&body[sent..]).unwrap();
    stuck.shutdown(Shutdown::Write).unwrap();
    let all = read.join().unwrap();
    assert!(all.len() == body.len() + 3 && all.starts_with(&body) && all.ends_with(b"bye"), "{} bytes", all.len());

    // A port where nobody listens fails alone.
    assert_eq!(page(ports[2]), "");
    let told = format!("an error occurred forwarding {} -> 1: ", ports[2]);
    cluster.wait_until("the refusal is told", || forward.errors().contains(&told));
    assert!(forward.errors().contains("refused"), "{}", forward.errors());
    assert!(page(ports[0]).contains("Hello from web"));

    cluster.ok(&["delete", "pod", "web"]);
    assert_eq!(forward.wait(), Some(1));
    assert!(forward.errors().contains("error: lost connection to pod\n  the sandbox of pod web is gone\n"));
    let handled = std::iter::from_fn(|| Some(forward.line()).filter(|line| !line.is_empty()));
    let handled: Vec<_> = handled.filter(|line| line.starts_with("Handling")).collect();
    assert!(handled.contains(&format!("Handling connection for {}\n", ports[1])), "{handled:?}");
}

#[test]
fn what_cannot_be_forwarded_is_said_and_ctrl_c_is_no_failure() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("done", "Never", "true"));
    cluster.apply(&sleeper("busy", "Always", "sleep 1011"));
    let waits = sleeper("waits", "Always", "sleep 1012");
    cluster.apply(&waits.replace("    command", "    resources: {requests: {memory: 900Gi}}\n    command"));
    cluster.wait_running("busy");
    cluster.wait_pod("done", "done", |pod| pod["status"]["phase"] == "Succeeded");
    cluster.wait_pod("waits", "unschedulable", |pod| condition(pod, "PodScheduled") == "False");

    let refused = |pod: &str, port: &str| cluster.refused(&["port-forward", pod, port]);
    assert_eq!(refused("nix", "80"), "Error from server (NotFound): pods \"nix\" not found\n");
    assert_eq!(refused("busy", "80:http"), "error: Pod 'busy' does not have a named port 'http'\n");
    for (pod, phase) in [("done", "Succeeded"), ("waits", "Pending")] {
        let error = format!("error: unable to forward port because pod is not running. Current status={phase}\n");
        assert_eq!(refused(pod, "8080"), error);
        assert!(cluster.refused(&["attach", pod]).starts_with("error: "), "{pod}");
    }
    assert!(cluster.refused(&["attach", "done"]).contains("in a completed pod; current phase is Succeeded"));
    assert!(cluster.refused(&["attach", "busy", "-c", "nix"]).contains("container nix is not valid for pod busy"));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let in_use = cluster.refused(&["port-forward", "busy", &format!("{port}:80"), "--address", "127.0.0.1"]);
    assert!(in_use.starts_with(&format!("Unable to listen on port {port}: 127.0.0.1:{port}: ")), "{in_use}");
    assert!(in_use.ends_with("error: unable to listen on any of the requested ports\n"), "{in_use}");

    // One of two is enough.
    let mut forward =
        Verb::start(&cluster, &["port-forward", "busy", &format!("{port}:80"), ":80", "--address", "127.0.0.1"]);
    forward.forwarded(1);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(forward.child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(forward.wait(), Some(0));
}

#[test]
fn attach_is_the_first_process_and_ends_with_it() {
    let cluster = Cluster::start(1);
    let script = "while read line; do echo got $line; echo err $line >&2; done; echo end";
    let pod = sleeper("echo", "Never", script);
    cluster.apply(&pod.replace("    command", "    stdin: true\n    stdinOnce: true\n    command"));
    cluster.wait_running("echo");
    let mut onlooker = Verb::start(&cluster, &["attach", "echo"]);
    let mut client = Verb::start(&cluster, &["attach", "-i", "echo"]);
    client.say("one\n");
    assert_eq!(client.line(), "got one\n");
    // Who joined later sees what came later; asking again and again finds the moment.
    let seen = std::thread::spawn(move || (onlooker.line(), onlooker));
    cluster.wait_until("the onlooker sees an answer", || {
        client.child.stdin.as_ref().unwrap().write_all(b"more\n").unwrap();
        seen.is_finished()
    });
    let (line, mut onlooker) = seen.join().unwrap();
    assert!(line.starts_with("got "), "{line}");
    cluster.wait_until("stderr is stderr", || client.errors().contains("err one\n"));
    drop(client.child.stdin.take());
    assert_eq!(client.wait(), Some(0));
    assert_eq!(std::iter::from_fn(|| Some(client.line()).filter(|line| !line.is_empty())).last().unwrap(), "end\n");
    assert_eq!(onlooker.wait(), Some(0));
    cluster.wait_pod("echo", "done", |pod| pod["status"]["phase"] == "Succeeded");
}

#[test]
fn attach_hands_the_terminal_on_and_gives_it_back() {
    let cluster = Cluster::start(1);
    cluster.apply(include_str!("../../examples/shell.yaml"));
    cluster.apply(&sleeper("plain", "Always", "sleep 1013"));
    cluster.wait_running("shell");
    let size = Winsize { ws_row: 41, ws_col: 121, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    let before = tcgetattr(&pty.slave).unwrap();
    let mut attach = OnTerminal::start(&pty, &cluster, &["attach", "-it", "shell"]);
    cluster.wait_until("it is raw", || tcgetattr(&pty.slave).unwrap().local_flags != before.local_flags);
    cluster.wait_until("it is told what to do", || attach.shown().contains("try pressing enter."));
    attach.keys.write_all(b"stty size; echo pid $$\r").unwrap();
    cluster.wait_until("the size is ours", || attach.shown().contains("41 121"));
    cluster.wait_until("it is process 1", || attach.shown().contains("pid 1\r"));
    // Ctrl-C is a key like others here: the shell gets it, and goes on.
    attach.keys.write_all(b"sleep 1014\r").unwrap();
    cluster.wait_until("the shell runs it", || !cluster.container_pids("1014").is_empty());
    attach.keys.write_all(b"\x03").unwrap();
    cluster.wait_until("it was interrupted", || cluster.container_pids("1014").is_empty());
    attach.keys.write_all(b"exit 3\r").unwrap();
    assert_eq!(attach.child.wait().unwrap().code(), Some(0), "{}", attach.shown());
    assert_eq!(tcgetattr(&pty.slave).unwrap(), before);
    let resume = "Session ended, resume using 'podbus attach shell -c main -i -t' command when the pod is running";
    cluster.wait_until("it is told how to resume", || attach.shown().contains(resume));
    cluster.wait_pod("shell", "restarted", |pod| container(pod, "main")["restartCount"] == 1);

    // A container that asked for neither: both are said, and its output is shown all the same.
    cluster.wait_running("plain");
    let mut attach = Verb::start(&cluster, &["attach", "-it", "plain"]);
    let told = "error: Unable to use a TTY - container main did not allocate one\n\
                error: Unable to use stdin - container main did not ask for it\n";
    cluster.wait_until("both are told", || attach.errors() == told);
    cluster.ok(&["delete", "pod", "plain", "--grace-period=0"]);
    assert_eq!(attach.wait(), Some(0), "{}", attach.errors());
}

#[test]
fn files_and_directories_are_copied_both_ways() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("box", "Always", "sleep 1016"));
    cluster.wait_running("box");
    let here = tempfile::tempdir().unwrap();
    let path = |name: &str| here.path().join(name).to_str().unwrap().to_owned();
    let large = (0..999_983_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect::<Vec<_>>().repeat(9);
    std::fs::create_dir_all(path("tree/inner")).unwrap();
    std::fs::write(path("tree/inner/large"), &large).unwrap();
    std::fs::write(path("tree/script"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(path("tree/script"), std::fs::Permissions::from_mode(0o750)).unwrap();

    // A file: under another name, and into a directory under its own.
    cluster.ok(&["cp", &path("tree/inner/large"), "box:/tmp-large"]);
    cluster.ok(&["cp", &path("tree/script"), "default/box:/etc"]);
    assert_eq!(
        cluster.exec("box", "main", &["stat", "-c", "%s %a", "/tmp-large", "/etc/script"]),
        format!("{} 644\n10 750", large.len())
    );
    cluster.ok(&["cp", "box:/tmp-large", &path("back")]);
    cluster.ok(&["cp", "box:/etc/script", here.path().to_str().unwrap()]);
    assert!(std::fs::read(path("back")).unwrap() == large);
    assert_eq!(std::fs::metadata(path("script")).unwrap().permissions().mode() & 0o777, 0o750);

    // A directory: made where there is none, else copied into it.
    cluster.ok(&["cp", &path("tree"), "box:/made"]);
    cluster.ok(&["cp", &path("tree"), "box:/made"]);
    cluster.exec("box", "main", &["cmp", "/made/inner/large", "/made/tree/inner/large"]);
    cluster.ok(&["cp", "box:/made", &path("fetched")]);
    assert!(std::fs::read(path("fetched/tree/inner/large")).unwrap() == large);
    assert_eq!(std::fs::metadata(path("fetched/script")).unwrap().permissions().mode() & 0o777, 0o750);

    let refused = cluster.refused(&["cp", "box:/nix", &path("nix")]);
    assert!(refused.contains("No such file or directory") && refused.contains("exit code 1"), "{refused}");
    assert!(!here.path().join("nix").exists());
    assert!(cluster.refused(&["cp", &path("nix"), "box:/nix"]).contains("cannot read"));
    assert!(cluster.refused(&["cp", "box:/a", "box:/b"]).contains("one of src or dest must be a local file"));
}

#[test]
fn a_simulated_node_has_nothing_to_open() {
    let cluster = Cluster::start(1);
    let _sim = Verb::start(&cluster, &["sim", "--nats", cluster.url(), "--nodes", "1"]);
    let pod = sleeper("ghost", "Always", "sleep 1015");
    cluster.apply(&pod.replace("spec:\n", "spec:\n  nodeSelector: {podbus.dev/simulated: \"true\"}\n"));
    cluster.wait_running("ghost");
    let verbs: [&[&str]; 4] =
        [&["exec", "ghost", "--", "true"], &["attach", "ghost"], &["port-forward", "ghost", ":80"], &["logs", "ghost"]];
    for verb in verbs {
        let refused = cluster.refused(verb);
        assert!(refused.contains("(NotImplemented): node sim-00000 is simulated"), "{verb:?}: {refused}");
    }
}
