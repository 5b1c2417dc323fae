//! The store as CRI's image service, and the calls beside it.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt, stream};
use podbus_common_cri::runtime::image_service_server;
use podbus_common_cri::runtime::{
    FilesystemIdentifier, FilesystemUsage, Image as CriImage, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec,
    ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest, ListImagesResponse, PullImageRequest,
    PullImageResponse, RemoveImageRequest, RemoveImageResponse, StreamImagesRequest, StreamImagesResponse, UInt64Value,
};
use podbus_common_cri::sandbox::{LoadRequest, LoadResponse, PullRequest, PullResponse, image_archive_server};
use tokio::sync::{Semaphore, mpsc};
use tonic::{Code, Request, Response, Status, Streaming};

use super::archive::LoadError;
use super::auth::{Credentials, credentials};
use super::reference::Reference;
use super::registry::{Progress, PullError};
use super::{Image, RemoveError, ResolveError, Store};
use crate::daemon::forget_code;

/// Chunks of an archive that wait to be read: at 1 MiB each a few are enough to keep the disk busy.
const CHUNKS_MAX: usize = 4;
/// Archives that are loaded at a time.
const LOADS_MAX: usize = 4;
/// Answers of a load that wait to be sent.
const ANSWERS_MAX: usize = 16;
/// An answer each time so many bytes have been read.
const ANSWER_BYTES: u64 = 8 << 20;
/// How often a pull says how far it is.
const PULL_ANSWER_PERIOD: Duration = Duration::from_millis(200);

/// Tells the bytes and inodes of all writable layers. May block.
type WritableLayers = Arc<dyn Fn() -> (u64, u64) + Send + Sync>;

/// CRI's `ImageService` over a store.
#[derive(Clone)]
pub struct ImageService {
    store: Store,
    writable_layers: Option<WritableLayers>,
}

impl ImageService {
    /// Serves `store`.
    pub fn new(store: Store) -> Self {
        ImageService { store, writable_layers: None }
    }

    /// Also tells what writable layers, on the same file system, take.
    pub(crate) fn with_writable_layers(self, tell: impl Fn() -> (u64, u64) + Send + Sync + 'static) -> Self {
        ImageService { writable_layers: Some(Arc::new(tell)), ..self }
    }
}

#[tonic::async_trait]
impl image_service_server::ImageService for ImageService {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image);
        Ok(Response::new(ListImagesResponse { images: self.list(wanted) }))
    }

    type StreamImagesStream = Pin<Box<dyn Stream<Item = Result<StreamImagesResponse, Status>> + Send>>;

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image);
        let images = self.list(wanted).into_iter().map(|image| Ok(StreamImagesResponse { images: vec![image] }));
        Ok(Response::new(Box::pin(stream::iter(images.collect::<Vec<_>>()))))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let image = match self.store.peek(&name_of(request.image)?) {
            Ok(image) => image,
            Err(ResolveError::NotFound(_)) => return Ok(Response::new(ImageStatusResponse::default())), // CRI: no error, and no image
            Err(ResolveError::Invalid(error)) => return Err(Status::invalid_argument(error.to_string())),
        };
        let info = if request.verbose { verbose(&image) } else { HashMap::new() };
        Ok(Response::new(ImageStatusResponse { image: Some(cri_image(image)), info }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let reference: Reference = name_of(request.image)?.parse().map_err(|error| invalid(&error))?;
        let auth =
            credentials(request.auth.unwrap_or_default(), &reference.registry).map_err(|error| invalid(&error))?;
        tracing::info!(image = %reference, "pulling");
        let pulled = self.store.pull(reference, auth, Arc::default()).await;
        forget_code();
        Ok(Response::new(PullImageResponse { image_ref: pulled.map_err(|error| pull_status(&error))?.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let (name, store) = (name_of(request.into_inner().image)?, self.store.clone());
        blocking(move || store.remove(&name)).await?.map_err(|error| match error {
            RemoveError::Invalid(error) => invalid(&error),
            RemoveError::Store(error) => Status::internal(chain(&error)),
        })?;
        Ok(Response::new(RemoveImageResponse::default()))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Result<Response<ImageFsInfoResponse>, Status> {
        let (store, writable_layers) = (self.store.clone(), self.writable_layers.clone());
        let measure = move || (store.usage(), writable_layers.map_or((0, 0), |tell| tell()));
        let (images, (bytes, inodes)) = blocking(measure).await?;
        let mountpoint = self.store.inner.dir.to_string_lossy().into_owned();
        let timestamp = nanoseconds(SystemTime::now());
        // One file system for both: the kubelet then takes it as one disk.
        let usage = |bytes, inodes| FilesystemUsage {
            timestamp,
            fs_id: Some(FilesystemIdentifier { mountpoint: mountpoint.clone() }),
            used_bytes: Some(UInt64Value { value: bytes }),
            inodes_used: Some(UInt64Value { value: inodes }),
        };
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![usage(images.bytes, images.inodes)],
            container_filesystems: vec![usage(bytes, inodes)],
        }))
    }
}

impl ImageService {
    fn list(&self, wanted: Option<ImageSpec>) -> Vec<CriImage> {
        match wanted.map(|spec| spec.image).filter(|name| !name.is_empty()) {
            Some(name) => self.store.peek(&name).map(cri_image).into_iter().collect(),
            None => self.store.list().into_iter().map(cri_image).collect(),
        }
    }
}

/// The calls beside CRI: loads what a client sends in pieces, and pulls with progress.
#[derive(Clone)]
pub struct ImageArchive {
    store: Store,
    places: Arc<Semaphore>,
}

impl ImageArchive {
    /// Loads into `store`.
    pub fn new(store: Store) -> Self {
        ImageArchive { store, places: Arc::new(Semaphore::new(LOADS_MAX)) }
    }
}

#[tonic::async_trait]
impl image_archive_server::ImageArchive for ImageArchive {
    type LoadStream = Pin<Box<dyn Stream<Item = Result<LoadResponse, Status>> + Send>>;

    async fn load(&self, request: Request<Streaming<LoadRequest>>) -> Result<Response<Self::LoadStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.next().await.transpose()?.unwrap_or_default();
        let name = Some(first.name.clone()).filter(|name| !name.is_empty());
        let (to_reader, chunks) = mpsc::channel(CHUNKS_MAX);
        let (answers, from_loader) = mpsc::channel(ANSWERS_MAX);
        let reader =
            ChunkReader { chunks, current: bytes::Bytes::new(), answers: answers.clone(), read: 0, answered: 0 };
        let store = self.store.clone();
        tokio::spawn(feed(first, requests, to_reader));
        // A thread of its own: a slow client keeps it waiting, and the runtime's few are for others.
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{LOADS_MAX} archives are being loaded already: try again later"))
        })?;
        let loader = std::thread::Builder::new().name("image-load".into()).spawn(move || {
            load(&store, reader, name.as_deref(), &answers);
            drop(place);
        });
        loader.map_err(|error| Status::internal(format!("cannot start a thread: {error}")))?;
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(from_loader))))
    }

    type PullStream = Pin<Box<dyn Stream<Item = Result<PullResponse, Status>> + Send>>;

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let reference: Reference = request.into_inner().image.parse().map_err(|error| invalid(&error))?;
        let (answers, from_pull) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(pull_and_tell(self.store.clone(), reference, answers));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(from_pull))))
    }
}

/// Pulls an image and tells the client how far it is; ends early when the client has left.
async fn pull_and_tell(store: Store, reference: Reference, answers: mpsc::Sender<Result<PullResponse, Status>>) {
    let progress = Arc::new(Progress::default());
    let mut pull = pin!(store.pull(reference, Credentials::Anonymous, Arc::clone(&progress)));
    let mut tick = tokio::time::interval(PULL_ANSWER_PERIOD);
    let answer = |image_ref| {
        let (bytes, bytes_total) = progress.bytes();
        PullResponse { bytes, bytes_total, image_ref }
    };
    let pulled = loop {
        tokio::select! {
            biased; // an end is told before a step
            pulled = &mut pull => break pulled,
            () = answers.closed() => return, // cancel-safe; the pull is dropped with this function, and cleans up
            _ = tick.tick() => drop(answers.try_send(Ok(answer(String::new())))), // cancel-safe; only for the eye
        }
    };
    let last = pulled.map(|id| answer(id.to_string())).map_err(|error| pull_status(&error));
    let _ = answers.send(last).await; // the image is here, whether or not the client still listens
    forget_code();
}

/// Hands the pieces to the loader; its end, or an error of the client, is the end of the pieces.
async fn feed(
    first: LoadRequest,
    mut requests: Streaming<LoadRequest>,
    to_reader: mpsc::Sender<Result<bytes::Bytes, Status>>,
) {
    let mut next = Some(Ok(first));
    while let Some(request) = next {
        let piece = request.map(|request| request.chunk);
        let is_last = piece.is_err();
        if to_reader.send(piece).await.is_err() || is_last {
            return;
        }
        next = requests.next().await;
    }
}

/// Runs on a thread that may block.
fn load(
    store: &Store,
    mut reader: ChunkReader,
    name: Option<&str>,
    answers: &mpsc::Sender<Result<LoadResponse, Status>>,
) {
    let loaded = store.load(&mut reader, name, |names| {
        let _ = answers.blocking_send(Ok(LoadResponse { names: names.to_vec(), bytes: 0 })); // a client that left
    });
    let answer = match loaded {
        Ok(names) => Ok(LoadResponse { names, bytes: reader.read }),
        Err(error) => Err(load_status(&error)),
    };
    let _ = answers.blocking_send(answer); // the images are loaded, whether or not the client still listens
    forget_code();
}

/// The pieces of an archive as one reader, which tells the client now and then how far it is.
struct ChunkReader {
    chunks: mpsc::Receiver<Result<bytes::Bytes, Status>>,
    current: bytes::Bytes,
    answers: mpsc::Sender<Result<LoadResponse, Status>>,
    read: u64,
    answered: u64,
}

impl std::io::Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(piece)) => self.current = piece,
                Some(Err(status)) => return Err(std::io::Error::other(status)),
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        self.read += count as u64;
        if self.read - self.answered >= ANSWER_BYTES {
            self.answered = self.read;
            // Progress is only for the eye: what does not fit is left out.
            let _ = self.answers.try_send(Ok(LoadResponse { names: Vec::new(), bytes: self.read }));
        }
        Ok(count)
    }
}

fn name_of(spec: Option<ImageSpec>) -> Result<String, Status> {
    let name = spec.map(|spec| spec.image).unwrap_or_default();
    if name.is_empty() { Err(Status::invalid_argument("the request names no image")) } else { Ok(name) }
}

fn cri_image(image: Image) -> CriImage {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok().map(|value| Int64Value { value });
    let username = if uid.is_none() { user.to_owned() } else { String::new() };
    let spec = ImageSpec { image: image.id.clone(), ..ImageSpec::default() };
    CriImage {
        id: image.id,
        repo_tags: image.references,
        repo_digests: image.digests,
        size: image.size,
        uid,
        username,
        spec: Some(spec),
        pinned: image.is_pinned,
    }
}

fn verbose(image: &Image) -> HashMap<String, String> {
    let config = serde_json::json!({
        "entrypoint": image.config.entrypoint,
        "cmd": image.config.cmd,
        "env": image.config.env,
        "workingDir": image.config.working_dir,
        "user": image.config.user,
        "stopSignal": image.config.stop_signal,
        "layers": image.layers,
    });
    HashMap::from([("info".to_owned(), config.to_string())])
}

fn pull_status(error: &PullError) -> Status {
    let code = match error {
        PullError::Local(_) | PullError::NotFound(_) => Code::NotFound,
        PullError::Denied { .. } => Code::PermissionDenied,
        // Clients show the bare text only with this code, and the kubelet knows the first word of it.
        PullError::Unavailable { .. } => Code::Unknown,
        PullError::Corrupt { .. } | PullError::TooLong { .. } => Code::InvalidArgument,
        PullError::Add(error) if error.is_of_this_node() => Code::Internal,
        PullError::Add(_) => Code::InvalidArgument,
    };
    Status::new(code, chain(error))
}

fn load_status(error: &LoadError) -> Status {
    let code = match error {
        LoadError::Add(error) if error.is_of_this_node() => Code::Internal,
        _ => Code::InvalidArgument,
    };
    Status::new(code, chain(error))
}

fn invalid(error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(chain(error))
}

/// An error with its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&dyn std::error::Error| (*cause).source());
    let mut text = error.to_string();
    for cause in causes.map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}

fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
