//! A pod, as kubectl describes one.

use podbus_common::model::{
    Container, ContainerState, ContainerStatus, Event, Pod, PodStatus, Timestamp, Toleration, TolerationOperator,
    Volume,
};
use podbus_common::print;

use super::text::{self, Lines};
use crate::rows::or_none;
use crate::terminal::Paint;

/// The whole description but for the sentence at its end.
pub(super) fn text(pod: &Pod, events: Option<&[Event]>, now: Timestamp, paint: Paint) -> String {
    let empty = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let mut lines = Lines::default();
    head(&mut lines, pod, status, now, paint);
    containers(&mut lines, "Init Containers", &pod.spec.init_containers, &status.init_container_statuses, paint);
    containers(&mut lines, "Containers", &pod.spec.containers, &status.container_statuses, paint);
    conditions(&mut lines, status, paint);
    volumes(&mut lines, &pod.spec.volumes);
    lines.pair(0, "QoS Class", or_none(&status.qos_class));
    lines.map(0, "Node-Selectors", &pod.spec.node_selector, "=");
    lines.list(0, "Tolerations", pod.spec.tolerations.iter().map(toleration));
    lines.finish() + &text::events(events, now, paint)
}

fn head(lines: &mut Lines, pod: &Pod, status: &PodStatus, now: Timestamp, paint: Paint) {
    let metadata = &pod.metadata;
    lines.pair(0, "Name", &metadata.name);
    lines.pair(0, "Namespace", &metadata.namespace);
    lines.pair(0, "Priority", 0);
    lines.pair(
        0,
        "Node",
        match (pod.spec.node_name.as_str(), status.host_ip.as_str()) {
            ("", _) => "<none>".to_owned(),
            (node, "") => node.to_owned(),
            (node, ip) => format!("{node}/{ip}"),
        },
    );
    if status.start_time.is_some() {
        lines.pair(0, "Start Time", text::moment(status.start_time));
    }
    lines.map(0, "Labels", &metadata.labels, "=");
    lines.map(0, "Annotations", &metadata.annotations, ": ");
    match metadata.deletion_timestamp {
        // The timestamp is when the grace ends; from then on it is late.
        Some(at) if at > now => {
            lines.pair(
                0,
                "Status",
                format!("Terminating (ends in at most {})", print::duration(at.seconds_since(now))),
            );
        }
        Some(at) => lines.pair(0, "Status", format!("Terminating (lasts {})", print::duration(now.seconds_since(at)))),
        None => lines.pair(0, "Status", paint.word(status.phase.as_str())),
    }
    if let (Some(_), Some(grace)) = (metadata.deletion_timestamp, metadata.deletion_grace_period_seconds) {
        lines.pair(0, "Termination Grace Period", format!("{grace}s"));
    }
    lines.pair_if(0, "Reason", &status.reason);
    lines.pair_if(0, "Message", &status.message);
    lines.pair(0, "IP", &status.pod_ip);
    if status.pod_ips.is_empty() {
        lines.pair(0, "IPs", "<none>");
    } else {
        lines.line(0, "IPs:");
        status.pod_ips.iter().for_each(|ip| lines.pair(1, "IP", &ip.ip));
    }
}

fn containers(lines: &mut Lines, title: &str, specs: &[Container], statuses: &[ContainerStatus], paint: Paint) {
    if specs.is_empty() {
        return;
    }
    lines.line(0, &format!("{title}:"));
    for spec in specs {
        let empty = ContainerStatus::default();
        container(lines, spec, statuses.iter().find(|s| s.name == spec.name).unwrap_or(&empty), paint);
    }
}

fn container(lines: &mut Lines, spec: &Container, status: &ContainerStatus, paint: Paint) {
    lines.line(1, &format!("{}:", spec.name));
    lines.pair(2, "Container ID", &status.container_id);
    lines.pair(2, "Image", &spec.image);
    lines.pair(2, "Image ID", &status.image_id);
    let ports: Vec<String> =
        spec.ports.iter().map(|p| format!("{}/{}", p.container_port, or_tcp(&p.protocol))).collect();
    lines.pair(2, if ports.len() > 1 { "Ports" } else { "Port" }, or_none(&ports.join(", ")));
    words(lines, "Command", &spec.command);
    words(lines, "Args", &spec.args);
    state(lines, "State", &status.state, paint);
    if !status.last_state.is_empty() {
        state(lines, "Last State", &status.last_state, paint);
    }
    lines.pair(2, "Ready", if status.ready { "True" } else { "False" });
    lines.pair(2, "Restart Count", status.restart_count);
    for (title, quantities) in [("Limits", &spec.resources.limits), ("Requests", &spec.resources.requests)] {
        if !quantities.is_empty() {
            lines.line(2, &format!("{title}:"));
            quantities.iter().for_each(|(name, quantity)| lines.pair(3, name, quantity));
        }
    }
    environment(lines, spec);
    mounts(lines, spec);
}

fn or_tcp(protocol: &str) -> &str {
    if protocol.is_empty() { "TCP" } else { protocol }
}

fn words(lines: &mut Lines, title: &str, words: &[String]) {
    if !words.is_empty() {
        lines.line(2, &format!("{title}:"));
        // A script of many lines stays below its title.
        words
            .iter()
            .flat_map(|word| word.trim_end().split('\n'))
            .for_each(|line| lines.line(3, &line.replace('\t', "    ")));
    }
}

fn state(lines: &mut Lines, title: &str, state: &ContainerState, paint: Paint) {
    if let Some(running) = &state.running {
        lines.pair(2, title, paint.word("Running"));
        lines.pair(3, "Started", text::moment(running.started_at));
    } else if let Some(ended) = &state.terminated {
        lines.pair(2, title, "Terminated");
        lines.pair_if(3, "Reason", &paint.word(&ended.reason));
        lines.pair_if(3, "Message", &ended.message.replace('\n', " "));
        lines.pair(3, "Exit Code", ended.exit_code);
        if ended.signal > 0 {
            lines.pair(3, "Signal", ended.signal);
        }
        lines.pair(3, "Started", text::moment(ended.started_at));
        lines.pair(3, "Finished", text::moment(ended.finished_at));
    } else {
        lines.pair(2, title, "Waiting");
        if let Some(waiting) = &state.waiting {
            lines.pair_if(3, "Reason", &paint.word(&waiting.reason));
            lines.pair_if(3, "Message", &waiting.message.replace('\n', " "));
        }
    }
}

fn environment(lines: &mut Lines, spec: &Container) {
    if spec.env.is_empty() {
        return lines.pair(2, "Environment", "<none>");
    }
    lines.line(2, "Environment:");
    for variable in &spec.env {
        lines.pair(3, &variable.name, variable.value.replace('\n', " "));
    }
}

fn mounts(lines: &mut Lines, spec: &Container) {
    if spec.volume_mounts.is_empty() {
        return lines.pair(2, "Mounts", "<none>");
    }
    lines.line(2, "Mounts:");
    for mount in &spec.volume_mounts {
        let access = if mount.read_only { "ro" } else { "rw" };
        let sub_path = if mount.sub_path.is_empty() { String::new() } else { format!(",path=\"{}\"", mount.sub_path) };
        lines.line(3, &format!("{} from {} ({access}{sub_path})", mount.mount_path, mount.name));
    }
}

fn conditions(lines: &mut Lines, status: &PodStatus, paint: Paint) {
    if status.conditions.is_empty() {
        return;
    }
    lines.line(0, "Conditions:");
    lines.line(1, "Type\tStatus");
    for condition in &status.conditions {
        lines.line(1, &format!("{}\t{}", condition.kind, paint.word(&condition.status)));
    }
}

fn volumes(lines: &mut Lines, volumes: &[Volume]) {
    if volumes.is_empty() {
        return lines.pair(0, "Volumes", "<none>");
    }
    lines.line(0, "Volumes:");
    for volume in volumes {
        lines.line(1, &format!("{}:", volume.name));
        if let Some(source) = &volume.empty_dir {
            lines.pair(2, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
            lines.pair(2, "Medium", &source.medium);
            lines.pair(2, "SizeLimit", source.size_limit.as_deref().unwrap_or("<unset>"));
        } else if let Some(source) = &volume.host_path {
            lines.pair(2, "Type", "HostPath (bare host directory volume)");
            lines.pair(2, "Path", &source.path);
            lines.pair(2, "HostPathType", &source.kind);
        }
    }
}

/// `key=value:NoExecute op=Exists for 300s`.
fn toleration(toleration: &Toleration) -> String {
    let mut text = toleration.key.clone();
    if !toleration.value.is_empty() {
        text.push_str(&format!("={}", toleration.value));
    }
    if !toleration.effect.is_empty() {
        text.push_str(&format!(":{}", toleration.effect));
    }
    if toleration.operator == Some(TolerationOperator::Exists) && toleration.value.is_empty() {
        let space = if text.is_empty() { "" } else { " " };
        text.push_str(&format!("{space}op=Exists"));
    }
    if let Some(seconds) = toleration.toleration_seconds {
        text.push_str(&format!(" for {seconds}s"));
    }
    text
}
