//! Pulling an image: from which servers, what of it, and what then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::add::AddError;
use super::auth::Credentials;
use super::digest::Digest;
use super::download::Download;
use super::limits::Budget;
use super::manifest::{Config, Descriptor, Document, DocumentError, Manifest, Platform, choose};
use super::reference::Reference;
use super::registries::Endpoint;
use super::remote::{Remote, RemoteError};
use super::{NewImage, Store};

/// Downloads at a time: what containerd has.
const LAYERS_AT_ONCE: usize = 3;
/// Tries of one request without progress, with a pause in between that doubles.
const TRIES_MAX: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// A download that came so much further since it last broke off has all its tries again.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Its registry is `localhost` without a port.
    #[error("{0} is local: load it with `podbus image load`")]
    Local(String),
    /// The registry has no such image.
    #[error("{0} is not in its registry, or one has to log in to see it")]
    NotFound(String),
    /// The registry wants other credentials.
    #[error("the registry {registry} does not give {image}: it is not there, or needs other credentials")]
    Denied {
        /// The host.
        registry: String,
        /// The image's name.
        image: String,
    },
    /// The registry cannot be reached, or fails.
    #[error("RegistryUnavailable: cannot pull {image} from {registry}")]
    Unavailable {
        /// The host.
        registry: String,
        /// The image's name.
        image: String,
        /// What happened.
        source: RemoteError,
    },
    /// The registry sent something else than was asked for.
    #[error("the registry {registry} sent corrupt content: {what} has the digest {found}")]
    Corrupt {
        /// The host.
        registry: String,
        /// What was asked for.
        what: String,
        /// What came.
        found: String,
    },
    /// A blob or a document is longer than it may be.
    #[error("the registry {registry} sent more than {size} bytes for {what}")]
    TooLong {
        /// The host.
        registry: String,
        /// What was asked for.
        what: String,
        /// Its size as announced, or the most that is taken, in bytes.
        size: u64,
    },
    /// The image itself is not taken.
    #[error(transparent)]
    Add(#[from] AddError),
}

impl From<DocumentError> for PullError {
    fn from(error: DocumentError) -> Self {
        PullError::Add(error.into())
    }
}

impl PullError {
    /// True for what another server may do better.
    fn is_of_one_server(&self) -> bool {
        !matches!(self, PullError::Local(_) | PullError::Add(_))
    }
}

/// One pull from one server.
struct Pull {
    store: Store,
    remote: Remote,
    reference: Reference,
    endpoint: Endpoint,
    progress: Arc<Progress>,
}

/// How far a pull is, in bytes of the layers that were not here.
#[derive(Debug, Default)]
pub(super) struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Bytes downloaded, and bytes in all: 0 until that is known.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Counts a change.
    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that are not there any more.
    pub(super) fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Locked for as long as one layer is downloaded.
type Turn = tokio::sync::Mutex<()>;

/// One download of a layer from one server at a time, however many pulls want it: the others wait, and then find it
/// there. What another server has is not waited for: a config may claim any layer, and its server may be slow on purpose.
#[derive(Default)]
pub(super) struct Downloads {
    running: Mutex<HashMap<(String, Digest), Weak<Turn>>>,
}

impl Downloads {
    /// What to lock for as long as a layer is downloaded. A pull that ends early lets the next one try.
    fn of(&self, host: &str, layer: &Digest) -> Arc<Turn> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner); // complete after each statement
        running.retain(|_, lock| lock.strong_count() > 0);
        let key = (host.to_owned(), *layer);
        if let Some(lock) = running.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        running.insert(key, Arc::downgrade(&lock));
        lock
    }
}

impl Store {
    /// Pulls an image and returns its id. A dropped future stops it.
    pub(super) async fn pull(
        &self,
        reference: Reference,
        credentials: Credentials,
        progress: Arc<Progress>,
    ) -> Result<Digest, PullError> {
        if reference.is_local() {
            return Err(PullError::Local(reference.to_string()));
        }
        let mut endpoints = self.inner.settings.registries.endpoints(&reference).into_iter().peekable();
        while let Some(endpoint) = endpoints.next() {
            let pulled = self.pull_from(&reference, &endpoint, &credentials, &progress).await;
            match pulled {
                Err(error) if endpoints.peek().is_some() && error.is_of_one_server() => {
                    let error = &error as &dyn std::error::Error;
                    tracing::info!(image = %reference, %endpoint, error, "a mirror has failed, asking the next one");
                }
                ended => return ended,
            }
        }
        Err(PullError::NotFound(reference.to_string())) // there is always one endpoint
    }

    async fn pull_from(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        credentials: &Credentials,
        progress: &Arc<Progress>,
    ) -> Result<Digest, PullError> {
        let registries = &self.inner.settings.registries;
        // A pull's credentials are for the registry that the image's name says.
        let credentials = match credentials {
            own if !endpoint.is_mirror && *own != Credentials::Anonymous => own.clone(),
            _ => registries.auth(endpoint),
        };
        let (registry, repository) = (&reference.registry, &reference.repository);
        let remote = Remote::new(endpoint, registries.tls(endpoint), registry, repository, credentials).await;
        let remote = remote.map_err(|source| PullError::Unavailable {
            registry: endpoint.host.clone(),
            image: reference.to_string(),
            source,
        })?;
        let (reference, endpoint, progress) = (reference.clone(), endpoint.clone(), Arc::clone(progress));
        Arc::new(Pull { store: self.clone(), remote, reference, endpoint, progress }).run().await
    }
}

impl Pull {
    async fn run(self: Arc<Self>) -> Result<Digest, PullError> {
        let (bytes, digest) = self.document(self.reference.digest).await?;
        let (manifest_bytes, manifest) = self.manifest(bytes).await?;
        let config_bytes = self.small_blob(&manifest.config).await?;
        let config = Config::parse(&config_bytes, &self.store.inner.limits)?;
        config.check_layers(manifest.layers.len())?;
        let hold = self.store.inner.layers.hold(config.diff_ids.iter().copied());
        self.layers(&config, &manifest).await?;
        self.blocking(move |pull| {
            let _hold = hold; // until the catalog names the layers
            let by_digest = format!("{}@{digest}", pull.reference.name());
            // As containerd: what is pulled by digest gets no tag.
            let tag = pull.reference.tagged().filter(|_| pull.reference.digest.is_none());
            let committed = pull.store.commit(NewImage {
                config,
                config_bytes: &config_bytes,
                manifest_bytes: Some(&manifest_bytes),
                tags: tag.into_iter().collect(),
                digests: [by_digest].into(),
            });
            Ok(committed.map_err(AddError::from)?)
        })
        .await
    }

    /// The manifest for this platform, with its bytes, found through an index if need be.
    async fn manifest(&self, mut bytes: Vec<u8>) -> Result<(Vec<u8>, Manifest), PullError> {
        let limits = &self.store.inner.limits;
        for _ in 0..=limits.index_depth {
            match Document::parse(&bytes, limits)? {
                Document::Manifest(manifest) => {
                    let sizes = manifest.layers.iter().map(|layer| layer.size);
                    if sizes.fold(0, u64::saturating_add) > limits.image_bytes {
                        return Err(AddError::TooLarge(limits.image_bytes).into());
                    }
                    return Ok((bytes, manifest));
                }
                Document::Index(entries) => {
                    let chosen = choose(&entries, &Platform::here())?.digest;
                    bytes = self.document(Some(chosen)).await?.0;
                }
            }
        }
        Err(DocumentError::Refused { what: "index", reason: "it has indexes inside indexes".to_owned() }.into())
    }

    /// An index or a manifest, by digest or by the tag, with the digest of its bytes.
    async fn document(&self, digest: Option<Digest>) -> Result<(Vec<u8>, Digest), PullError> {
        let tag = || self.reference.tag.clone().unwrap_or_default();
        let name = digest.map_or_else(tag, |digest| digest.to_string());
        let mut pauses = pauses();
        let (bytes, claimed) = loop {
            match self.remote.document(&name, self.store.inner.limits.document_bytes).await {
                Ok(document) => break document,
                Err(error) => self.wait_and_try_again(error, &format!("the manifest {name}"), &mut pauses).await?,
            }
        };
        let found = Digest::of(&bytes);
        match digest.or(claimed) {
            Some(expected) if expected != found => Err(self.corrupt(expected.to_string(), &found)),
            _ => Ok((bytes, found)),
        }
    }

    async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullError> {
        if descriptor.size > self.store.inner.limits.document_bytes {
            let reason = format!("it has more than {} bytes", self.store.inner.limits.document_bytes);
            return Err(DocumentError::Refused { what: "image config", reason }.into());
        }
        let mut download = Download::to_memory();
        self.blob(descriptor, &mut download).await?;
        Ok(download.into_bytes())
    }

    /// Fetches and unpacks the layers that are not there, a few at a time.
    async fn layers(self: &Arc<Self>, config: &Config, manifest: &Manifest) -> Result<(), PullError> {
        let turns = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
        let budget = Arc::new(Budget::new(self.store.inner.limits.image_bytes));
        let missing = |(diff_id, _): &(&Digest, &Descriptor)| !self.store.inner.layers.contains(diff_id);
        let bytes = config.diff_ids.iter().zip(&manifest.layers).filter(missing).map(|(_, layer)| layer.size).sum();
        self.progress.total.store(bytes, Ordering::Relaxed);
        let mut tasks = JoinSet::new(); // dropped early, it ends what still runs
        for (diff_id, descriptor) in config.diff_ids.iter().copied().zip(manifest.layers.iter().cloned()) {
            let (pull, turns, budget) = (Arc::clone(self), Arc::clone(&turns), Arc::clone(&budget));
            tasks.spawn(async move {
                let _turn = turns.acquire_owned().await; // never closed
                pull.layer(diff_id, &descriptor, budget).await
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap_or_else(|error| resume(error))?;
        }
        Ok(())
    }

    async fn layer(
        self: &Arc<Self>,
        diff_id: Digest,
        descriptor: &Descriptor,
        budget: Arc<Budget>,
    ) -> Result<(), PullError> {
        let layers = &self.store.inner.layers;
        if layers.contains(&diff_id) {
            return Ok(());
        }
        let turn = self.store.inner.downloads.of(&self.endpoint.host, &diff_id);
        let _turn = turn.lock().await;
        if layers.contains(&diff_id) {
            self.progress.add(descriptor.size); // another pull has brought it
            return Ok(());
        }
        let made = Download::to_file(&self.store.inner.temp, Arc::clone(&self.progress));
        let mut download = made.map_err(|source| self.write_error(source))?;
        self.blob(descriptor, &mut download).await?;
        self.blocking(move |pull| {
            let unpacked = pull.store.inner.layers.ensure(&diff_id, download.path(), &budget);
            Ok(unpacked.map_err(AddError::from)?)
        })
        .await
    }

    /// Downloads a blob, goes on where it broke off, and checks length and digest.
    async fn blob(&self, descriptor: &Descriptor, download: &mut Download) -> Result<(), PullError> {
        let (mut pauses, mut mark) = (pauses(), 0);
        while let Err(failure) = self.rest_of_blob(descriptor, download).await {
            let error = match failure {
                BlobFailure::Remote(error) => error,
                BlobFailure::Pull(error) => return Err(error),
            };
            if download.bytes() >= mark + PROGRESS_BYTES {
                (pauses, mark) = (self::pauses(), download.bytes());
            }
            self.wait_and_try_again(error, &descriptor.digest.to_string(), &mut pauses).await?;
        }
        let found = download.digest();
        if found == descriptor.digest { Ok(()) } else { Err(self.corrupt(descriptor.digest.to_string(), &found)) }
    }

    async fn rest_of_blob(&self, descriptor: &Descriptor, download: &mut Download) -> Result<(), BlobFailure> {
        let write = |source| BlobFailure::Pull(self.write_error(source));
        if descriptor.size > 0 && download.bytes() == descriptor.size {
            return Ok(()); // it broke off behind the last byte
        }
        let mut part = self.remote.blob(&descriptor.digest, download.bytes()).await?;
        if part.start != download.bytes() {
            download.restart().map_err(write)?;
        }
        while let Some(chunk) = part.next().await? {
            if download.bytes() + chunk.len() as u64 > descriptor.size {
                let (registry, what) = (self.endpoint.host.clone(), descriptor.digest.to_string());
                return Err(BlobFailure::Pull(PullError::TooLong { registry, what, size: descriptor.size }));
            }
            // A few KiB into the page cache: not worth a thread.
            download.take(&chunk).map_err(write)?;
        }
        Ok(())
    }

    /// Waits if the error may go away by itself and there are tries left, else returns it.
    async fn wait_and_try_again(
        &self,
        error: RemoteError,
        what: &str,
        pauses: &mut impl Iterator<Item = Duration>,
    ) -> Result<(), PullError> {
        let Some(pause) = pauses.next().and_then(|pause| error.pause(pause)) else {
            return Err(self.failed(error, what));
        };
        tracing::debug!(%error, ?pause, "a request failed, trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Pull) -> Result<T, PullError> + Send + 'static,
    ) -> Result<T, PullError> {
        let pull = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&pull)).await.unwrap_or_else(|error| resume(error))
    }

    fn failed(&self, error: RemoteError, what: &str) -> PullError {
        let (registry, image) = (self.endpoint.host.clone(), self.reference.to_string());
        match error {
            RemoteError::Denied => PullError::Denied { registry, image },
            RemoteError::TooLong(size) => PullError::TooLong { registry, what: what.to_owned(), size },
            error if error.is_not_found() => PullError::NotFound(image),
            source => PullError::Unavailable { registry, image, source },
        }
    }

    fn corrupt(&self, what: String, found: &Digest) -> PullError {
        PullError::Corrupt { registry: self.endpoint.host.clone(), what, found: found.to_string() }
    }

    fn write_error(&self, source: std::io::Error) -> PullError {
        AddError::Write { dir: self.store.inner.dir.clone(), source }.into()
    }
}

/// Why a blob is not whole: something that may go away, or not.
enum BlobFailure {
    Remote(RemoteError),
    Pull(PullError),
}

impl From<RemoteError> for BlobFailure {
    fn from(error: RemoteError) -> Self {
        BlobFailure::Remote(error)
    }
}

/// How long to wait before each further try: doubled each time, and never twice the same for many nodes at once.
fn pauses() -> impl Iterator<Item = Duration> {
    (0..TRIES_MAX - 1).map(|nth| {
        let pause = PAUSE_MIN * 2_u32.pow(nth);
        pause.mul_f64(rand::random_range(0.8..1.2))
    })
}

/// A task ends without a result only by a panic, or with its runtime.
fn resume(error: tokio::task::JoinError) -> ! {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => panic!("the runtime ended during a pull: {error}"),
    }
}
