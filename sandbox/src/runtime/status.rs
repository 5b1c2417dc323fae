//! Sandboxes and containers as CRI describes them.

use podbus_common_cri::runtime::{
    Container as CriContainer, ContainerResources, ContainerState, ContainerStatus, ContainerUser, LinuxContainerUser,
    LinuxPodSandboxStatus, Namespace, PodIp, PodSandbox, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};
use podbus_sandbox_linux::slot::{FLAG_OOM, FLAG_START_FAILED, FLAG_UNKNOWN, Slot};

use super::container::Stage;
use super::{Container, Sandbox};
use crate::process;

impl Sandbox {
    pub(crate) fn state(&self) -> PodSandboxState {
        if self.is_ready() { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
    }

    pub(crate) fn status(&self) -> PodSandboxStatus {
        let config = self.config();
        let linux = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = linux.and_then(|context| context.namespace_options.clone()).unwrap_or_default();
        PodSandboxStatus {
            id: self.body.id.clone(),
            metadata: config.metadata.clone(),
            state: self.state().into(),
            created_at: self.body.created_at,
            network: Some(PodSandboxNetworkStatus {
                ip: if self.is_ready() { self.body.ip.clone() } else { String::new() },
                additional_ips: self.second_ip().map(|ip| PodIp { ip }).into_iter().collect(),
            }),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(options) }) }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: self.body.runtime_handler.clone(),
        }
    }

    /// As the first one, told only while the pod has it.
    fn second_ip(&self) -> Option<String> {
        (self.is_ready() && !self.body.second_ip.is_empty()).then(|| self.body.second_ip.clone())
    }

    pub(crate) fn item(&self) -> PodSandbox {
        let config = self.config();
        PodSandbox {
            id: self.body.id.clone(),
            metadata: config.metadata.clone(),
            state: self.state().into(),
            created_at: self.body.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: self.body.runtime_handler.clone(),
        }
    }
}

impl Stage {
    pub(crate) fn state(&self) -> ContainerState {
        match (&self.started, &self.exit) {
            (_, Some(_)) => ContainerState::ContainerExited,
            (Some(_), None) => ContainerState::ContainerRunning,
            (None, None) => ContainerState::ContainerCreated,
        }
    }
}

/// Why it ended, in Kubernetes' word.
fn reason(exit: &Slot) -> &'static str {
    match exit {
        _ if exit.flags & FLAG_START_FAILED != 0 => "StartError",
        _ if exit.flags & FLAG_UNKNOWN != 0 => "Unknown",
        _ if exit.flags & FLAG_OOM != 0 && exit.code != 0 => "OOMKilled",
        _ if exit.code == 0 => "Completed",
        _ => "Error",
    }
}

impl Container {
    pub(crate) fn status(&self) -> ContainerStatus {
        let config = self.config();
        let stage = self.stage();
        let process = self.body.process.clone().unwrap_or_default();
        ContainerStatus {
            id: self.body.id.clone(),
            metadata: config.metadata.clone(),
            state: stage.state().into(),
            created_at: self.body.created_at,
            started_at: stage.started.map_or(0, |slot| slot.time),
            finished_at: stage.exit.map_or(0, |slot| slot.time),
            exit_code: stage.exit.map_or(0, |slot| slot.code),
            image: config.image.clone(),
            image_ref: self.body.image_ref.clone(),
            image_id: self.body.image_id.clone(),
            reason: stage.exit.map_or("", |slot| reason(&slot)).to_owned(),
            message: stage.message.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: self.mounts(),
            log_path: self.body.log_path.clone(),
            resources: Some(ContainerResources { linux: Some(self.resources()), windows: None }),
            user: Some(ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: process.user.into(),
                    gid: process.group.into(),
                    supplemental_groups: process.groups.iter().map(|group| i64::from(*group)).collect(),
                }),
            }),
            stop_signal: process::cri_signal(self.body.stop_signal),
        }
    }

    pub(crate) fn item(&self) -> CriContainer {
        let config = self.config();
        CriContainer {
            id: self.body.id.clone(),
            pod_sandbox_id: self.body.sandbox_id.clone(),
            metadata: config.metadata.clone(),
            image: config.image.clone(),
            image_ref: self.body.image_ref.clone(),
            state: self.stage().state().into(),
            created_at: self.body.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            image_id: self.body.image_id.clone(),
        }
    }
}
