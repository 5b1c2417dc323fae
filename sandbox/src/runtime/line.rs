//! The way to a pod's shim, from its directory and socket on; and such ways made in advance.
//!
//! A spare is a directory beneath `<state>/spare`, a network, a shim that waits at its socket in namespaces of its own,
//! pause in them, and the connection to the shim. The shim has no record and ends with the connection, pause with it, and
//! the next daemon empties the directory: a death leaves nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podbus_sandbox_linux::message::{Message, kind};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::sandbox::remove_dir;
use super::start::make_writable_layer;
use super::{Outcome, Runtime, doing, new_id};
use crate::files;
use crate::link::{self, Asked, Link};
use crate::network::{Attached, Network, NetworkError};
use crate::record::Record;

/// A connection to a shim whose pod is not whole: without it the shim undoes what it has made, and ends.
pub(super) struct Line {
    pub(super) link: Arc<Link>,
    /// Whether the shim has made pause already.
    pub(super) has_pause: bool,
    is_whole: bool,
    hello: Option<Asked>,
    /// What the shim will inherit, where it is not made yet.
    listener: Option<OwnedFd>,
    id_and_cookie: Vec<u8>,
}

impl Line {
    /// Binds the socket in `dir` and connects to it. What is sent waits for the shim.
    pub(super) async fn open(runtime: &Arc<Runtime>, dir: &Path, id: &str, cookie: &[u8]) -> Outcome<Self> {
        let listener = link::bind(dir).map_err(doing("bind the pod's socket"))?;
        let id_and_cookie = [id.as_bytes(), cookie].concat();
        let (link, hello) = Link::connect_ahead(dir, &id_and_cookie, runtime.notices(id)).await?;
        Ok(Self {
            link,
            has_pause: false,
            is_whole: false,
            hello: Some(hello),
            listener: Some(listener),
            id_and_cookie,
        })
    }

    /// Makes the shim, if it is not made yet.
    pub(super) fn spawn(&mut self, runtime: &Runtime) -> Outcome<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        runtime.spawner.spawn(&self.id_and_cookie, &listener).map_err(doing("make a shim"))
    }

    /// Waits until the shim has heard who we are.
    pub(super) async fn greeted(&mut self) -> Outcome<()> {
        if let Some(hello) = self.hello.take() {
            self.link.answer(hello).await?;
        }
        Ok(())
    }

    /// The pod is whole.
    pub(super) fn keep(mut self) -> Arc<Link> {
        self.is_whole = true;
        Arc::clone(&self.link)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.is_whole {
            self.link.close();
        }
    }
}

/// Who a pod is that is being made.
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) cookie: Vec<u8>,
    /// Whose directory is there already.
    pub(super) first_container: Option<String>,
}

/// What a pod that nobody has asked for yet has already.
pub(super) struct Spare {
    identity: Identity,
    dir: SpareDir,
    line: Line,
    /// `None` where plugins make those of pods.
    network: Option<SpareNetwork>,
}

/// The network of a spare. What becomes of no pod gives its address back.
pub(super) struct SpareNetwork {
    attached: Option<Attached>,
    network: Network,
}

impl SpareNetwork {
    /// A pod has it now.
    pub(super) fn keep(mut self) -> Option<Attached> {
        self.attached.take()
    }
}

impl Drop for SpareNetwork {
    fn drop(&mut self) {
        if let Some(attached) = self.attached.take() {
            self.network.release(attached.ip, &attached.veth);
        }
    }
}

/// The directory of a spare. What becomes of no pod is removed.
pub(super) struct SpareDir(PathBuf);

impl Drop for SpareDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // else the next daemon does
    }
}

/// Where the directory of a new pod comes from.
pub(super) enum Start {
    New,
    Spare(SpareDir, Line),
}

impl Spare {
    /// Who the pod is, what it starts with, and its network.
    pub(super) fn split(self) -> (Identity, Start, Option<SpareNetwork>) {
        (self.identity, Start::Spare(self.dir, self.line), self.network)
    }
}

impl Start {
    /// Who a new pod is that starts with nothing.
    pub(super) fn nothing() -> (Identity, Self, Option<SpareNetwork>) {
        (Identity { id: new_id(), cookie: new_cookie(), first_container: None }, Self::New, None)
    }

    /// Makes `dir` the pod's directory, in which nothing stands yet.
    pub(super) fn place(self, dir: &Path) -> io::Result<Option<Line>> {
        match self {
            Self::New => std::fs::create_dir_all(dir.join("c")).map(|()| None),
            Self::Spare(spare, line) => std::fs::rename(&spare.0, dir).map(|()| Some(line)),
        }
    }
}

/// Lets ext4 put each directory that is made in `dir` far from the others, as it does with homes: a place for a new file is
/// then found at once, where many pods have come and gone as well. Other file systems know no such thing.
fn spread(dir: &Path) {
    let set = std::fs::File::open(dir).and_then(|dir| {
        let flags = ioctl_getflags(&dir)?;
        Ok(ioctl_setflags(&dir, flags | IFlags::TOPDIR)?)
    });
    if let Err(error) = set {
        tracing::debug!(dir = %dir.display(), %error, "directories of pods are not spread over the file system");
    }
}

fn new_cookie() -> Vec<u8> {
    rand::random::<[u8; 32]>().to_vec()
}

impl Runtime {
    /// Keeps spares ready from now on; what an earlier daemon had of them goes. Ends with the runtime.
    pub(crate) async fn prepare_ahead(self: &Arc<Self>) -> io::Result<()> {
        remove_dir(&self.spares_dir()).await?;
        std::fs::create_dir(self.spares_dir())?;
        spread(&self.spares_dir());
        let (pool, runtime) = (Arc::clone(&self.spares), Arc::downgrade(self));
        tokio::spawn(async move {
            pool.fill(|| {
                let runtime = runtime.clone();
                async move { Some(runtime.upgrade()?.make_spare().await) }
            })
            .await;
        });
        Ok(())
    }

    async fn make_network(&self) -> Outcome<SpareNetwork> {
        let network = self.network.clone();
        let made = tokio::task::spawn_blocking(move || -> Result<_, NetworkError> {
            Ok(SpareNetwork { attached: Some(network.attach()?), network })
        });
        Ok(made.await.map_err(|error| doing("make the network")(io::Error::other(error)))??)
    }

    fn spares_dir(&self) -> PathBuf {
        self.state_dir.join("spare")
    }

    async fn make_spare(self: &Arc<Self>) -> Outcome<Spare> {
        let (id, cookie, first_container) = (new_id(), new_cookie(), new_id());
        let network = if self.cni.is_on() { None } else { Some(self.make_network().await?) };
        let dir = SpareDir(self.spares_dir().join(&id));
        let container_dir = dir.0.join("c").join(&first_container);
        std::fs::create_dir_all(&container_dir).map_err(doing("make a directory in advance"))?;
        let reserved = files::reserve(&dir.0)
            .and_then(|()| Record::reserve(&dir.0.join("record")))
            .and_then(|()| Record::reserve(&container_dir.join("record")))
            .and_then(|()| make_writable_layer(&container_dir).map(drop));
        reserved.map_err(doing("make files in advance"))?;
        let mut line = Line::open(self, &dir.0, &id, &cookie).await?;
        line.spawn(self)?;
        line.greeted().await?;
        let plan = self.plan_of_spare(network.as_ref().and_then(|network| network.attached.as_ref()))?;
        line.link.request(Message { kind: kind::PREPARE, ..Message::default() }, plan.fds()).await?;
        line.has_pause = network.is_some() && self.makes_pause_ahead;
        let identity = Identity { id, cookie, first_container: Some(first_container) };
        Ok(Spare { identity, dir, line, network })
    }

    /// One whose shim lives.
    pub(super) fn take_spare(&self) -> Option<Spare> {
        std::iter::from_fn(|| self.spares.take()).find(|spare| !spare.line.link.is_gone())
    }
}
