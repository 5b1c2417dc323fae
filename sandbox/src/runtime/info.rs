//! What `crictl inspect` shows beyond the status: for people, under the keys that they know from containerd.

use podbus_common_cri::runtime::LinuxContainerResources;
use serde_json::{Value, json};

use super::{Container, Sandbox};

impl Sandbox {
    pub(crate) fn info(&self) -> Value {
        let (overhead, resources) = self.told_resources();
        json!({
            "pid": self.pause_pid(),
            "cgroup": self.body.cgroup,
            "veth": self.body.veth,
            "runtimeHandler": self.body.runtime_handler,
            "overhead": overhead.as_ref().map(limits),
            "resources": resources.as_ref().map(limits),
        })
    }
}

impl Container {
    pub(crate) fn info(&self) -> Value {
        let process = self.body.process.clone().unwrap_or_default();
        let texts = |list: &[Vec<u8>]| -> Vec<String> {
            list.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
        };
        json!({
            "pid": self.stage().started.map_or(0, |slot| slot.pid),
            "sandboxID": self.body.sandbox_id,
            "cgroup": self.cgroup(self.sandbox()),
            "layers": self.body.layers,
            "runtimeSpec": {
                "process": {
                    "args": texts(&process.arguments),
                    "cwd": process.directory,
                    "terminal": process.terminal,
                    "noNewPrivileges": process.no_new_privileges,
                    "user": { "uid": process.user, "gid": process.group, "additionalGids": process.groups },
                },
                "linux": { "resources": limits(&self.resources()) },
            },
        })
    }
}

fn limits(resources: &LinuxContainerResources) -> Value {
    json!({
        "cpuPeriod": resources.cpu_period,
        "cpuQuota": resources.cpu_quota,
        "cpuShares": resources.cpu_shares,
        "cpusetCpus": resources.cpuset_cpus,
        "cpusetMems": resources.cpuset_mems,
        "memoryLimitInBytes": resources.memory_limit_in_bytes,
        "memorySwapLimitInBytes": resources.memory_swap_limit_in_bytes,
        "oomScoreAdj": resources.oom_score_adj,
        "unified": resources.unified,
    })
}
