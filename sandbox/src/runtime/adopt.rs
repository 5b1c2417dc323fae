//! What a daemon finds when it starts: it adopts what lives, ends what nobody watches, removes what never was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use podbus_common_cri::runtime::ContainerEventType;
use podbus_sandbox_linux::message::{Message, kind};
use podbus_sandbox_linux::slot::Place;

use super::sandbox::{Life, id_and_cookie, remove_dir};
use super::{Container, Runtime, Sandbox, lock, ports, sandboxes_dir};
use crate::link::Link;
use crate::network::Used;
use crate::record::{ContainerBody, Record, SandboxBody};

/// What sandboxes on disk hold of the network: theirs before anything new is.
pub(crate) fn leased(state_dir: &Path) -> Vec<Used> {
    let found = subdirectories(&sandboxes_dir(state_dir)).into_iter().filter_map(|dir| {
        let (record, body) = Record::open::<SandboxBody>(&dir.join("record")).ok()??;
        // Without a veth it is an address that plugins gave.
        let is_ours = !body.veth.is_empty() && record.slot(Place::Daemon).is_none();
        let ip = body.ip.parse().ok().filter(|_| is_ours)?;
        Some(Used { ip, ports: ports::of(body.config.as_ref()?).unwrap_or_default() })
    });
    found.collect()
}

/// A shim that was not set up ends with its connection; one whose commit was lost has to be told.
async fn end_shim(dir: &Path, body: &SandboxBody) {
    if let Ok((link, _)) = Link::connect(dir, &id_and_cookie(body), |_| {}).await
        && let Err(error) = link.request(Message { kind: kind::SHUTDOWN, ..Message::default() }, &[]).await
    {
        tracing::warn!(sandbox = %body.id, %error, "the shim of a sandbox that was not made does not end");
    }
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

impl Runtime {
    /// Takes over all that an earlier daemon left.
    pub(crate) async fn adopt(self: &Arc<Self>) {
        let mut adopted = 0_u32;
        for dir in subdirectories(&self.sandboxes_dir()) {
            // A record in another's place says nothing about what is there: nothing is killed for it.
            let found = Record::open::<SandboxBody>(&dir.join("record"));
            let found =
                found.map(|found| found.filter(|(_, body)| dir.file_name().is_some_and(|name| *name == *body.id)));
            match found {
                Ok(Some((record, body))) if record.slot(Place::State).is_some() => {
                    self.adopt_sandbox(record, body, dir).await;
                    adopted += 1;
                }
                Ok(Some((_, body))) => {
                    tracing::info!(sandbox = %body.id, "removing a sandbox that was never made whole");
                    end_shim(&dir, &body).await;
                    self.undo_sandbox(&body, &dir).await;
                }
                Ok(None) | Err(_) => {
                    tracing::info!(dir = %dir.display(), "removing a sandbox without a whole record");
                    if let Err(error) = remove_dir(&dir).await {
                        tracing::warn!(dir = %dir.display(), %error, "cannot remove it");
                    }
                }
            }
        }
        let live: Vec<String> = self.sandboxes().into_iter().map(|sandbox| sandbox.body.id.clone()).collect();
        self.cni.sweep(&live).await;
        if adopted > 0 {
            tracing::info!(sandboxes = adopted, "took over what an earlier daemon left");
        }
    }

    async fn adopt_sandbox(self: &Arc<Self>, record: Record, body: SandboxBody, dir: PathBuf) {
        let id = body.id.clone();
        let is_stopped = record.slot(Place::Daemon).is_some();
        let pause_is_dead = record.slot(Place::Exit).is_some();
        let life = Life { is_stopping: is_stopped, is_released: is_stopped, ..Life::default() };
        let sandbox = Sandbox::new(body, record, dir, life);
        self.table().sandboxes.insert(id.clone(), Arc::clone(&sandbox));
        if is_stopped {
            self.adopt_containers(&sandbox).await;
            return;
        }
        if let Err(error) = sandbox.complete_files() {
            tracing::warn!(sandbox = %id, %error, "cannot write the files of a sandbox, whose containers will not start");
        }
        // Before the containers are looked at: once the shim answers, a start that an earlier daemon asked for is over.
        let connected = Link::connect(&sandbox.dir, &sandbox.id_and_cookie(), self.notices(&id)).await;
        self.adopt_containers(&sandbox).await;
        match connected {
            Ok((link, pause_lives)) => {
                {
                    let mut life = lock(&sandbox.life);
                    life.is_ready = pause_lives && !pause_is_dead;
                    life.link = Some(Arc::clone(&link));
                }
                // What ended before they were in the table told nobody.
                for container in self.containers_of(&id) {
                    self.refresh(&container);
                }
                if link.is_gone() {
                    self.shim_died(&sandbox).await;
                }
            }
            Err(_) => self.shim_died(&sandbox).await,
        }
        self.tell(&sandbox, &id, ContainerEventType::ContainerStartedEvent);
    }

    async fn adopt_containers(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        for dir in subdirectories(&sandbox.dir.join("c")) {
            let found = Record::open::<ContainerBody>(&dir.join("record")).ok().flatten();
            let Some((record, body)) = found.filter(|(record, _)| record.slot(Place::Daemon).is_some()) else {
                if let Err(error) = remove_dir(&dir).await {
                    tracing::warn!(dir = %dir.display(), %error, "cannot remove a container that was never recorded");
                }
                continue;
            };
            let hold = Arc::new(self.store.hold(&body.all_layers()));
            let container = Container::new(body, record, dir, Arc::clone(sandbox), hold);
            let has_run = container.stage().started.is_some();
            if container.stage().exit.is_some() || !has_run {
                self.delete_by_handler(&container).await;
                let path = container.cgroup(sandbox);
                if let Err(error) = self.cgroups.remove(&path).await {
                    tracing::warn!(container = %container.body.id, %error, "cannot remove the cgroup of an ended container");
                }
            }
            self.finish_update(&container);
            self.table().containers.insert(container.body.id.clone(), container);
        }
    }
}
