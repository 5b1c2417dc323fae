//! The images of one node.
//!
//! ```text
//!   <dir>/images.json           which images there are, their names, their layers
//!   <dir>/blobs/sha256/<hex>    their manifests and configs
//!   <dir>/layers/<hex>          their layers, unpacked, by the digest of the uncompressed archive
//!   <dir>/tmp/                  what is being made; emptied at the start
//! ```
//!
//! An image exists from the moment in which `images.json` names it: everything before that moment leaves only things
//! that nobody refers to, which [`Store::sweep`] removes. Compressed layers are not kept.

mod add;
mod archive;
mod auth;
mod catalog;
mod challenge;
pub mod collect;
mod digest;
mod download;
pub mod fuzzing;
mod gc;
mod layer;
mod limits;
mod manifest;
mod reference;
mod registries;
mod registry;
mod remote;
mod root;
pub mod service;
mod settings;
mod tar;
mod tls;
mod unpack;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

pub use self::add::AddError;
pub use self::archive::LoadError;
pub use self::catalog::CatalogError;
use self::catalog::{Catalog, CatalogFiles, LayerRecord, Record, Stored};
use self::digest::Digest;
pub use self::gc::GcRule;
use self::layer::Layers;
pub use self::layer::{Hold, LayerError};
use self::limits::Limits;
use self::manifest::Config;
pub use self::manifest::DocumentError;
pub use self::reference::InvalidReference;
use self::reference::Reference;
pub use self::registries::{Registries, RegistriesError};
pub use self::registry::PullError;
pub use self::remote::RemoteError;
pub use self::settings::{Args, Settings, SettingsError};
pub use self::tar::TarError;
pub use self::unpack::UnpackError;

/// Why a store cannot be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("another process uses the image store {}", .0.display())]
    Locked(PathBuf),
    /// Its directory cannot be used.
    #[error("cannot use the image store {}", dir.display())]
    Directory {
        /// The store's directory.
        dir: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its catalog cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Why an image's name leads to no image here.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The text is no name.
    #[error(transparent)]
    Invalid(#[from] InvalidReference),
    /// There is no such image on this node.
    #[error("the image {0} is not on this node")]
    NotFound(String),
}

/// What an image says about the process that it is made for; empty where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// What is run, before the arguments.
    pub entrypoint: Vec<String>,
    /// The arguments, or all of the command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute, or empty.
    pub working_dir: String,
    /// `user[:group]`, names or numbers, or empty.
    pub user: String,
    /// A signal's name or number.
    pub stop_signal: Option<String>,
}

/// An image of this node. The layers of one that was resolved stay on the disk for as long as this value or a clone of
/// it lives, even if the image is removed meanwhile: who has mounted them keeps it, or a [`Hold`].
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:<hex>`, the digest of its config.
    pub id: String,
    /// What it says about its process.
    pub config: ImageConfig,
    /// Its unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Its names with tags, complete.
    pub references: Vec<String>,
    /// Its names with digests.
    pub digests: Vec<String>,
    /// Bytes of its layers and documents.
    pub size: u64,
    /// Never collected.
    pub is_pinned: bool,
    /// Keeps the layers.
    pub hold: Arc<Hold>,
}

/// The images of one node. Clones share it. Calls may block on the disk: not for an async worker, but for
/// [`Store::resolve`], which does not.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    temp: PathBuf,
    settings: Settings,
    limits: Limits,
    layers: Layers,
    /// Held for moments only: a look, or the exchange for a new one.
    catalog: Mutex<Catalog>,
    /// Held for as long as a change takes, and always taken before the catalog.
    files: Mutex<CatalogFiles>,
    downloads: registry::Downloads,
    /// When something last used an image, in seconds since 1970.
    used: Mutex<HashMap<Digest, i64>>,
    /// Told of each image that came.
    came: Arc<tokio::sync::Notify>,
    may_sweep: AtomicBool,
    _lock: File,
}

/// A new image, its layers in place, to be entered in the catalog.
struct NewImage<'a> {
    config: Config,
    config_bytes: &'a [u8],
    manifest_bytes: Option<&'a [u8]>,
    tags: BTreeSet<String>,
    digests: BTreeSet<String>,
}

impl Store {
    /// Opens the store at `dir`, makes it if it is not there, and locks it for this process.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        Self::open_with(dir, Settings::default())
    }

    /// The same, with what the node's owner says.
    pub fn open_with(dir: &Path, settings: Settings) -> Result<Store, StoreError> {
        let mut limits = Limits::default();
        limits.image_bytes = settings.image_bytes_max.unwrap_or(limits.image_bytes);
        let temp = dir.join("tmp");
        let lock = prepare(dir, &temp).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked(dir.to_owned()),
            _ => StoreError::Directory { dir: dir.to_owned(), source },
        })?;
        let files = CatalogFiles::new(dir, &temp);
        let catalog = files.read(&limits)?;
        let layers = Layers::new(dir.join("layers"), temp.clone(), limits.clone());
        for layer in catalog.images().flat_map(|image| &image.record.layers) {
            layers.note_usage(layer.diff_id, layer.usage());
        }
        Ok(Store {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                temp,
                settings,
                limits,
                layers,
                catalog: Mutex::new(catalog),
                files: Mutex::new(files),
                downloads: registry::Downloads::default(),
                used: Mutex::default(),
                came: Arc::default(),
                may_sweep: AtomicBool::new(false),
                _lock: lock,
            }),
        })
    }

    /// Finds an image by name, by name with digest, or by id.
    pub fn resolve(&self, image_ref: &str) -> Result<Image, ResolveError> {
        self.find(image_ref, true)
    }

    /// The same without keeping its layers: who only looks keeps no image from being collected.
    pub(crate) fn peek(&self, image_ref: &str) -> Result<Image, ResolveError> {
        self.find(image_ref, false)
    }

    /// All images, their layers not kept.
    pub fn list(&self) -> Vec<Image> {
        self.catalog().images().map(|stored| self.image(stored, false)).collect()
    }

    /// Removes an image with all its names, whichever of them is given. One that is not there is fine.
    ///
    /// Layers that something still holds stay until [`Store::sweep`] finds them free.
    pub fn remove(&self, image_ref: &str) -> Result<(), RemoveError> {
        let files = self.files();
        let Some(id) = find(&self.catalog(), image_ref)?.map(|stored| stored.record.id) else { return Ok(()) };
        self.forget(&files, &id)?;
        drop(files);
        if self.inner.may_sweep.load(Ordering::Acquire) {
            self.sweep()?;
        }
        Ok(())
    }

    /// Removes an image unless something uses it by now.
    fn remove_if_unused(&self, id: &Digest) -> Result<(), StoreError> {
        let files = self.files();
        let held = self.inner.layers.held();
        let is_used = |stored: &Stored| stored.record.layers.iter().all(|layer| held.contains(&layer.diff_id));
        if self.catalog().by_id(id).is_none_or(is_used) {
            return Ok(());
        }
        self.forget(&files, id)
    }

    fn forget(&self, files: &CatalogFiles, id: &Digest) -> Result<(), StoreError> {
        let mut catalog = self.catalog().clone();
        catalog.remove(id);
        files.write(&catalog)?; // the file first: memory never knows more than the disk
        *self.catalog() = catalog;
        Ok(())
    }

    /// Keeps the given layer directories, as [`Image::layers`] names them, until the answer is dropped: a daemon that
    /// starts again calls it for each container that it finds.
    pub fn hold(&self, layers: &[PathBuf]) -> Hold {
        let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex);
        self.inner.layers.hold(layers.iter().filter_map(name))
    }

    /// Removes layers and documents that no image names and nothing holds.
    ///
    /// Until it is first called nothing is ever removed from the disk: a daemon calls it once it has found its
    /// containers and holds their layers; later, each removal of an image sweeps.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let failed = |source| StoreError::Directory { dir: self.inner.dir.clone(), source };
        self.inner.may_sweep.store(true, Ordering::Release);
        let files = self.files(); // no image appears between the look at the catalog and the removal
        files.remove_documents_but(&self.catalog().documents()).map_err(failed)?;
        let trash = {
            let catalog = self.catalog(); // nor is one resolved
            self.inner.layers.set_aside_unneeded(&catalog.layers()).map_err(failed)?
        };
        drop(files);
        let removed = trash.remove().map_err(failed)?;
        if removed > 0 {
            tracing::debug!(removed, "removed layers that no image needs");
        }
        Ok(())
    }

    fn find(&self, image_ref: &str, keeps: bool) -> Result<Image, ResolveError> {
        let catalog = self.catalog();
        let stored = find(&catalog, image_ref)?.ok_or_else(|| ResolveError::NotFound(complete(image_ref)))?;
        Ok(self.image(stored, keeps))
    }

    fn image(&self, stored: &Stored, keeps: bool) -> Image {
        let record = &stored.record;
        let kept = record.layers.iter().filter(|_| keeps).map(|layer| layer.diff_id);
        let defaults = stored.config.defaults.clone();
        Image {
            id: record.id.to_string(),
            config: ImageConfig {
                entrypoint: defaults.entrypoint.unwrap_or_default(),
                cmd: defaults.cmd.unwrap_or_default(),
                env: defaults.env.unwrap_or_default(),
                working_dir: defaults.working_dir.unwrap_or_default(),
                user: defaults.user.unwrap_or_default(),
                stop_signal: defaults.stop_signal.filter(|signal| !signal.is_empty()),
            },
            layers: record.layers.iter().map(|layer| self.inner.layers.path(&layer.diff_id)).collect(),
            references: record.tags.iter().cloned().collect(),
            digests: record.digests.iter().cloned().collect(),
            size: record.size,
            is_pinned: self.is_pinned(record),
            hold: Arc::new(self.inner.layers.hold(kept)),
        }
    }

    /// Enters an image whose layers are in place, and which the caller holds. Returns its id.
    fn commit(&self, new: NewImage<'_>) -> Result<Digest, StoreError> {
        // Layers first, names last: after a power cut no name leads to files that were never written.
        let dir = File::open(&self.inner.dir).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
        dir.map_err(|source| StoreError::Directory { dir: self.inner.dir.clone(), source })?;
        let id = Digest::of(new.config_bytes);
        let (made_for, here) = (&new.config.platform, manifest::Platform::here());
        if !made_for.architecture.is_empty() && made_for.architecture != here.architecture {
            tracing::warn!(image = %id, %made_for, %here, "an image for another architecture: its programs will not start here");
        }
        let manifest = new.manifest_bytes.map(|bytes| (Digest::of(bytes), bytes));
        let layers: Vec<LayerRecord> = new.config.diff_ids.iter().map(|diff_id| self.layer_record(diff_id)).collect();
        let documents: Vec<(Digest, &[u8])> = [Some((id, new.config_bytes)), manifest].into_iter().flatten().collect();
        let size = layers.iter().map(|layer| layer.bytes).sum::<u64>()
            + documents.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let manifest = manifest.map(|(digest, _)| digest);
        let record = Record { id, manifest, tags: new.tags, digests: new.digests, layers, size, came: collect::now() };
        let files = self.files();
        for (digest, bytes) in documents {
            files.write_document(&digest, bytes)?;
        }
        let mut catalog = self.catalog().clone();
        catalog.add(Stored { record, config: new.config });
        files.write(&catalog)?; // the file first: memory never knows more than the disk
        *self.catalog() = catalog;
        drop(files);
        self.inner.came.notify_one();
        Ok(id)
    }

    /// What images take on the disk.
    fn usage(&self) -> unpack::Usage {
        let catalog = self.catalog();
        let layers: HashMap<Digest, unpack::Usage> = catalog
            .images()
            .flat_map(|image| &image.record.layers)
            .map(|layer| (layer.diff_id, layer.usage()))
            .collect(); // each layer once, however many images share it
        layers.values().fold(unpack::Usage::default(), |sum, layer| unpack::Usage {
            bytes: sum.bytes + layer.bytes,
            inodes: sum.inodes + layer.inodes,
        })
    }

    fn layer_record(&self, diff_id: &Digest) -> LayerRecord {
        let usage = self.inner.layers.usage(diff_id);
        LayerRecord { diff_id: *diff_id, bytes: usage.bytes, inodes: usage.inodes }
    }

    fn files(&self) -> MutexGuard<'_, CatalogFiles> {
        self.inner.files.lock().unwrap_or_else(PoisonError::into_inner) // paths: nothing to be left half
    }

    fn used(&self) -> MutexGuard<'_, HashMap<Digest, i64>> {
        self.inner.used.lock().unwrap_or_else(PoisonError::into_inner) // complete after each statement
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.inner.catalog.lock().unwrap_or_else(PoisonError::into_inner) // replaced as a whole: always complete
    }
}

/// Why an image cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The text is no name.
    #[error(transparent)]
    Invalid(#[from] InvalidReference),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// By full id first: 64 hexadecimal digits are also a name's grammar. Then by name, then by the beginning of an id.
fn find<'a>(catalog: &'a Catalog, image_ref: &str) -> Result<Option<&'a Stored>, InvalidReference> {
    let bare = image_ref.strip_prefix("sha256:").unwrap_or(image_ref);
    if let Some(id) = Digest::from_hex(bare) {
        return Ok(catalog.by_id(&id));
    }
    let is_hex = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if is_hex && bare.len() < image_ref.len() {
        return Ok(catalog.by_id_prefix(bare));
    }
    let name = lookup_name(&image_ref.parse()?);
    Ok(catalog.by_name(&name).or_else(|| catalog.by_id_prefix(bare).filter(|_| is_hex)))
}

/// The name that the catalog knows: where there is a digest it alone counts.
fn lookup_name(reference: &Reference) -> String {
    match &reference.digest {
        Some(digest) => format!("{}@{digest}", reference.name()),
        None => reference.to_string(),
    }
}

fn complete(image_ref: &str) -> String {
    image_ref.parse().map_or_else(|_| image_ref.to_owned(), |reference: Reference| reference.to_string())
}

/// Makes the directories, for nobody else to read: images hold setuid files. Returns the lock.
fn prepare(dir: &Path, temp: &Path) -> io::Result<File> {
    let make = |path: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    make(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    let lock = File::create(dir.join("lock"))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    podbus_common_tree::remove(temp)?;
    for path in [temp, &dir.join("layers"), &dir.join("blobs/sha256")] {
        make(path)?;
    }
    Ok(lock)
}
