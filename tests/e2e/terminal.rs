//! Verbs on a terminal.

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::OpenptyResult;

use crate::cluster::{Cluster, PODBUS};

/// A program on a terminal of its own.
pub(crate) struct OnTerminal {
    pub(crate) child: std::process::Child,
    pub(crate) keys: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl OnTerminal {
    pub(crate) fn start(pty: &OpenptyResult, cluster: &Cluster, arguments: &[&str]) -> Self {
        let terminal = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", PODBUS]).args(arguments);
        command.env("PODBUS_NATS_URL", cluster.url()).env("TERM", "xterm").env_remove("NO_COLOR");
        let child = command.stdin(terminal()).stdout(terminal()).stderr(terminal()).spawn().unwrap();
        let (shown, mut screen) = (Arc::<Mutex<Vec<u8>>>::default(), File::from(pty.master.try_clone().unwrap()));
        let all = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                all.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Self { child, keys: File::from(pty.master.try_clone().unwrap()), shown }
    }

    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
