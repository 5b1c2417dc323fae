//! Real nats-servers for tests: processes on free loopback ports, with JetStream in a temporary directory.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use podbus_test_support::wait::{PATIENCE, retry_blocking};

/// A server that ends when it is dropped.
#[derive(Debug)]
pub struct NatsServer {
    program: String,
    directory: tempfile::TempDir,
    port: u16,
    child: Child,
    /// Of a server that is part of a cluster.
    arguments: Vec<String>,
}

/// A cluster of servers.
#[derive(Debug)]
pub struct NatsCluster {
    /// Each may be killed and restarted.
    pub servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts a cluster of `count` servers.
    ///
    /// # Panics
    ///
    /// When they cannot be started.
    pub fn start(count: usize) -> Self {
        Self::start_as(count, &program(), &[])
    }

    /// Starts one of this program, each server with this configuration.
    ///
    /// # Panics
    ///
    /// When they cannot be started.
    pub fn start_with(count: usize, program: &str, configuration: &Path) -> Self {
        Self::start_as(count, program, &["-c".to_owned(), configuration.to_string_lossy().into_owned()])
    }

    fn start_as(count: usize, program: &str, common: &[String]) -> Self {
        let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let listeners: Vec<_> = (0..count).map(bind).collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
        let ports: Vec<_> = listeners.iter().map(port).collect();
        let routes: Vec<_> = ports.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
        drop(listeners);
        let arguments = |(number, port): (usize, &u16)| {
            let own = [
                ("--server_name", format!("n{number}")),
                ("--cluster_name", "podbus".to_owned()),
                ("--cluster", format!("nats://127.0.0.1:{port}")),
                ("--routes", routes.join(",")),
            ];
            let own = own.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
            common.iter().cloned().chain(own.filter(|_| count > 1)).collect()
        };
        let servers = ports.iter().enumerate().map(|server| NatsServer::start_as(program, arguments(server)));
        Self { servers: servers.collect() }
    }

    /// Where they listen, with commas between.
    pub fn urls(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }
}

impl NatsServer {
    /// Starts one. The program is `$NATS_SERVER`, or `nats-server` in the path.
    ///
    /// # Panics
    ///
    /// When it cannot be started: a test without it proves nothing.
    pub fn start() -> Self {
        Self::start_as(&program(), Vec::new())
    }

    fn start_as(program: &str, arguments: Vec<String>) -> Self {
        let directory = tempfile::Builder::new().prefix("podbus-nats-").tempdir().expect("a temporary directory");
        let child = spawn(program, &directory, None, &arguments);
        let mut server = Self { program: program.to_owned(), directory, port: 0, child, arguments };
        server.port = server.wait_for_port();
        server
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(self.ports_directory());
    }

    /// Kills it and starts it again, on the same port and the same store.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.program, &self.directory, Some(self.port), &self.arguments);
        self.wait_for_port();
    }

    fn ports_directory(&self) -> PathBuf {
        self.directory.path().join("ports")
    }

    fn wait_for_port(&mut self) -> u16 {
        let port = retry_blocking(PATIENCE, || {
            let ended = self.child.try_wait().expect("the child can be waited for");
            assert!(ended.is_none(), "nats-server ended: {ended:?}");
            self.read_port().ok_or(())
        });
        port.expect("nats-server listens")
    }

    fn read_port(&self) -> Option<u16> {
        let file = std::fs::read_dir(self.ports_directory()).ok()?.flatten().next()?;
        let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
        ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> String {
    std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned())
}

fn spawn(program: &str, directory: &tempfile::TempDir, port: Option<u16>, arguments: &[String]) -> Child {
    let ports = directory.path().join("ports");
    std::fs::create_dir_all(&ports).expect("the directory for the ports file");
    Command::new(program)
        .args(["--addr", "127.0.0.1", "--port", &port.map_or("-1".to_owned(), |port| port.to_string()), "--jetstream"])
        .arg("--store_dir")
        .arg(directory.path().join("store"))
        .arg("--ports_file_dir")
        .arg(ports)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server is installed (`make test` does it)")
}
