//! A container runtime apart: its end is the end of all that it started and mounted.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use podbus_test_support::cgroups::{cgroups, remove_cgroup};

use crate::cluster::{kill, until_some};

/// A daemon in PID and mount namespaces of its own, with a `/run` of its own. What others mount, it sees.
pub(crate) struct Apart {
    /// Waits for the daemon, the first process of its namespace.
    waiting: Child,
    /// The cgroup of its pods.
    cgroup: String,
    bridge: String,
}

impl Apart {
    pub(crate) fn start<S: AsRef<OsStr>>(command: &[S], cgroup: &str, bridge: &str, log: &Path) -> Self {
        let mut apart = Command::new("setpriv");
        apart.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "slave", "--pid", "--fork"]);
        apart.args(["--kill-child", "--mount-proc", "sh", "-ec", "mount -t tmpfs apart /run; exec \"$0\" \"$@\""]);
        let waiting = logged(apart.args(command), log);
        Self { waiting, cgroup: cgroup.to_owned(), bridge: bridge.to_owned() }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let waiting = self.waiting.id();
        let children = fs::read_to_string(format!("/proc/{waiting}/task/{waiting}/children")).unwrap_or_default();
        children.split_whitespace().for_each(|pid| kill(pid.parse().unwrap()));
        self.waiting.wait().unwrap();
        // There is none without a pod.
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).stderr(Stdio::null()).status();
        // What lived in one may take a moment to be gone.
        let removed = until_some(|| cgroups(&self.cgroup).iter().try_for_each(|dir| remove_cgroup(dir)).ok());
        assert!(removed.is_some() || std::thread::panicking(), "the cgroups of {} stay", self.cgroup);
    }
}

/// Starts a service whose words go to a file.
pub(crate) fn logged(command: &mut Command, log: &Path) -> Child {
    let log = File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}
