//! The pod that flags ask for, and how far it is. Pure.

use std::collections::BTreeMap;

use clap::ValueEnum;
use podbus_common::model::{Container, ContainerPort, EnvVar, ObjectMeta, Pod, PodSpec, RestartPolicy};
use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// What the flags say of the pod.
#[derive(Debug, clap::Args)]
pub(super) struct Wish {
    /// The pod, and its container
    pub(super) name: String,
    /// The image
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// When the container is started again
    #[arg(long, value_enum, value_name = "WHEN", default_value = "Always")]
    restart: Restart,
    /// A variable of the environment: `KEY=VALUE`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Labels, joined by commas; by default `run=NAME`
    #[arg(short = 'l', long, value_name = "KEY=VALUE,...", value_delimiter = ',', value_parser = pair)]
    labels: Vec<(String, String)>,
    /// A port that it listens on
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// What follows `--` is the command in place of the image's, not its arguments
    #[arg(long)]
    command: bool,
    /// Arguments
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Restart {
    Always,
    OnFailure,
    Never,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Wish {
    /// As an object to apply.
    pub(super) fn manifest(&self, namespace: &str, stdin: bool, tty: bool) -> Outcome<Value> {
        let labels: BTreeMap<String, String> = match &self.labels[..] {
            [] => [("run".to_owned(), self.name.clone())].into(),
            labels => labels.iter().cloned().collect(),
        };
        let (command, args) =
            if self.command { (self.args.clone(), Vec::new()) } else { (Vec::new(), self.args.clone()) };
        let ports = self.port.map(|port| ContainerPort { container_port: port, ..ContainerPort::default() });
        let env = self.env.iter().map(|(name, value)| EnvVar { name: name.clone(), value: value.clone() });
        let container = Container {
            name: self.name.clone(),
            image: self.image.clone(),
            command,
            args,
            env: env.collect(),
            ports: ports.into_iter().collect(),
            stdin,
            stdin_once: stdin,
            tty,
            ..Container::default()
        };
        let restart_policy = match self.restart {
            Restart::Always => RestartPolicy::Always,
            Restart::OnFailure => RestartPolicy::OnFailure,
            Restart::Never => RestartPolicy::Never,
        };
        let pod = Pod {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            metadata: ObjectMeta {
                name: self.name.clone(),
                namespace: namespace.to_owned(),
                labels,
                ..ObjectMeta::default()
            },
            spec: PodSpec { containers: vec![container], restart_policy, ..PodSpec::default() },
            status: None,
        };
        serde_json::to_value(pod).map_err(Failure::local)
    }
}

/// Whether the container runs, or ran.
pub(super) fn has_started(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| &status.container_statuses);
    let ran = statuses.flat_map(|status| [&status.state, &status.last_state]);
    ran.clone().any(|state| state.running.is_some() || state.terminated.is_some()) || has_ended(pod)
}

/// Whether it will never run again.
pub(super) fn has_ended(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.is_terminal())
}

/// Exit code and reason of a pod that failed; `None`: it did not.
pub(super) fn exit_of(pod: &Pod) -> Option<(u8, String)> {
    let status = pod.status.as_ref().filter(|status| status.phase == podbus_common::model::PodPhase::Failed)?;
    let ended = status.container_statuses.iter().find_map(|status| status.state.terminated.as_ref());
    let Some(ended) = ended.filter(|ended| ended.exit_code != 0) else { return Some((1, status.reason.clone())) };
    Some((u8::try_from(ended.exit_code).unwrap_or(1), ended.reason.clone()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        wish: Wish,
    }

    fn pod(line: &str, stdin: bool) -> Option<Value> {
        let words = std::iter::once("run").chain(line.split_whitespace());
        Line::try_parse_from(words).ok().map(|line| line.wish.manifest("default", stdin, false).unwrap())
    }

    #[test]
    fn flags_become_the_pod_that_kubectl_would_make() {
        let made = pod("web --image=nginx --port 80 --env A=b=c --env D= -- -v x", false).unwrap();
        assert_eq!(made["metadata"], json!({"name": "web", "namespace": "default", "labels": {"run": "web"}}));
        let container = &made["spec"]["containers"][0];
        for (field, value) in [
            ("name", json!("web")),
            ("image", json!("nginx")),
            ("args", json!(["-v", "x"])),
            ("command", Value::Null),
            ("env", json!([{"name": "A", "value": "b=c"}, {"name": "D"}])),
            ("stdin", Value::Null),
        ] {
            assert_eq!(container[field], value, "{field}");
        }
        assert_eq!(container["ports"][0]["containerPort"], 80);
        assert_eq!(made["spec"]["restartPolicy"], "Always");
        let made = pod("x --image=i --restart=Never --labels a=1,b=2 --command -- sh -c id", true).unwrap();
        assert_eq!(made["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        assert_eq!(made["spec"]["restartPolicy"], "Never");
        let container = &made["spec"]["containers"][0];
        assert_eq!((&container["command"], &container["args"]), (&json!(["sh", "-c", "id"]), &Value::Null));
        assert_eq!((&container["stdin"], &container["stdinOnce"]), (&json!(true), &json!(true)));
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        for line in
            ["web", "--image=i", "web --image=i --port 0", "web --image=i --env A", "web --image=i --restart=No"]
        {
            assert!(pod(line, false).is_none(), "{line}");
        }
    }

    #[test]
    fn a_failed_pod_has_the_exit_code_of_its_container() {
        let of = |phase: &str, state: Value| {
            let status = json!({"phase": phase, "containerStatuses": [{"name": "c", "state": state}]});
            serde_json::from_value::<Pod>(json!({"metadata": {"name": "x"}, "spec": {}, "status": status})).unwrap()
        };
        let ended = |code: i32| json!({"terminated": {"exitCode": code, "reason": "Error"}});
        for (pod, started, exit) in [
            (of("Pending", json!({"waiting": {}})), false, None),
            (of("Running", json!({"running": {}})), true, None),
            (of("Succeeded", ended(0)), true, None),
            (of("Failed", ended(3)), true, Some((3, "Error".to_owned()))),
            (of("Failed", json!({"waiting": {}})), true, Some((1, String::new()))),
        ] {
            assert_eq!((has_started(&pod), exit_of(&pod)), (started, exit), "{pod:?}");
        }
    }
}
