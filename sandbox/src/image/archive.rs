//! Loading images from a tar archive: an OCI image layout, or the output of `docker save`.
//!
//! The archive is read once, as it comes; its files are put aside under numbers, never under their own names. Then
//! `index.json`, or `manifest.json`, says what they are.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::add::AddError;
use super::digest::{Digest, Hasher};
use super::layer::{LayerError, decompress};
use super::limits::Budget;
use super::manifest::{Config, Descriptor, DockerImage, Document, DocumentError, Platform, choose, parse_docker};
use super::reference::{InvalidReference, Reference};
use super::tar::{Kind, Reader, TarError};
use super::{Inner, NewImage, Store};

/// containerd writes the whole name here.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// OCI's own: a whole name, or just a tag.
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
/// A link in an archive may lead to a link so many times.
const LINKS_MAX: usize = 8;

/// Why an archive was not loaded. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive itself cannot be read.
    #[error("the archive is not readable")]
    Archive(#[source] TarError),
    /// It holds no image in a form that podbus knows.
    #[error("the archive is neither an OCI layout (index.json) nor the output of `docker save` (manifest.json)")]
    NoImage,
    /// It has too many files.
    #[error("the archive has more than {0} files")]
    TooManyFiles(usize),
    /// A file is not what its name says.
    #[error("the archive is corrupt: {path} has the digest {found}")]
    Corrupt {
        /// The file's path in the archive.
        path: String,
        /// The digest of its bytes.
        found: String,
    },
    /// Something that is referred to is not there.
    #[error("the archive is incomplete: {0} is missing")]
    Missing(String),
    /// It has an image without a name.
    #[error("the archive does not name its image: give a name with it")]
    Nameless,
    /// A name in it is no name.
    #[error(transparent)]
    Name(#[from] InvalidReference),
    /// An image in it is not taken.
    #[error(transparent)]
    Add(#[from] AddError),
}

impl From<DocumentError> for LoadError {
    fn from(error: DocumentError) -> Self {
        LoadError::Add(error.into())
    }
}

/// A file of the archive, put aside.
struct Spooled {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

/// Everything that the archive held, by its cleaned path. Goes away with its directory.
struct Spool {
    dir: TempDir,
    files: HashMap<String, Spooled>,
    links: HashMap<String, String>,
    by_digest: HashMap<Digest, String>,
    bytes: u64,
}

/// An image in the archive: where its parts are.
struct Found {
    manifest: Option<Vec<u8>>,
    config: Vec<u8>,
    layers: Vec<PathBuf>,
    names: BTreeSet<String>,
}

impl Store {
    /// Loads all images of an archive, compressed or not, and returns their names. `name` is for an archive that does
    /// not name its image. `loaded` is told the names so far.
    pub fn load(
        &self,
        archive: impl Read,
        name: Option<&str>,
        mut loaded: impl FnMut(&[String]),
    ) -> Result<Vec<String>, LoadError> {
        let given = name.map(str::parse::<Reference>).transpose()?;
        let spool = self.spool(archive)?;
        let mut names = Vec::new();
        for found in self.find_images(&spool, given.as_ref())? {
            names.extend(self.load_one(found)?);
            loaded(&names);
        }
        Ok(names)
    }

    fn spool(&self, archive: impl Read) -> Result<Spool, LoadError> {
        let write = |source| LoadError::Add(AddError::Write { dir: self.inner.dir.clone(), source });
        let read = |error| LoadError::Archive(TarError::Read(error));
        let dir = tempfile::Builder::new().prefix("load-").tempdir_in(&self.inner.temp).map_err(write)?;
        let mut spool =
            Spool { dir, files: HashMap::new(), links: HashMap::new(), by_digest: HashMap::new(), bytes: 0 };
        let mut reader = Reader::new(decompress(archive).map_err(read)?, self.inner.limits.extension_bytes);
        while let Some(entry) = reader.next().map_err(LoadError::Archive)? {
            if spool.files.len() + spool.links.len() >= self.inner.limits.archive_files {
                return Err(LoadError::TooManyFiles(self.inner.limits.archive_files));
            }
            let Some(path) = clean(&entry.path) else { continue };
            match entry.kind {
                Kind::File => spool.add(path, &mut reader, &self.inner)?,
                Kind::Symlink => spool.link(path.clone(), beside(&path, &entry.link)),
                Kind::HardLink => spool.link(path, clean(&entry.link)),
                Kind::Directory | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {}
            }
        }
        io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(read)?; // the sender is not left with a full pipe
        Ok(spool)
    }

    fn find_images(&self, spool: &Spool, given: Option<&Reference>) -> Result<Vec<Found>, LoadError> {
        let limits = &self.inner.limits;
        let docker = match spool.file("manifest.json") {
            Some(file) => parse_docker(&self.document(file, "manifest.json")?, limits)?,
            None => Vec::new(),
        };
        let Some(index) = spool.file("index.json") else {
            return if docker.is_empty() { Err(LoadError::NoImage) } else { self.docker_images(spool, &docker, given) };
        };
        let document = Document::parse(&self.document(index, "index.json")?, limits)?;
        let Document::Index(entries) = document else { return Err(LoadError::NoImage) };
        let entries = for_platform(&entries, &Platform::here())?;
        // Several names of one image are several entries.
        let mut found: Vec<(Digest, Found)> = Vec::new();
        for entry in entries.iter().copied() {
            let (digest, mut image) = self.oci_image(spool, entry)?;
            image.names = oci_names(entry, spool.docker_tags(&docker, &image), given, entries.len())?;
            match found.iter_mut().find(|(known, _)| *known == digest) {
                Some((_, known)) => known.names.extend(image.names),
                None => found.push((digest, image)),
            }
        }
        Ok(found.into_iter().map(|(_, image)| image).collect())
    }

    /// Follows a descriptor of `index.json` to the image for this platform.
    fn oci_image(&self, spool: &Spool, entry: &Descriptor) -> Result<(Digest, Found), LoadError> {
        let mut descriptor = entry.clone();
        for _ in 0..=self.inner.limits.index_depth {
            let bytes = self.blob(spool, &descriptor.digest)?;
            match Document::parse(&bytes, &self.inner.limits)? {
                Document::Index(entries) => descriptor = choose(&entries, &Platform::here())?.clone(),
                Document::Manifest(manifest) => {
                    let config = self.blob(spool, &manifest.config.digest)?;
                    let layers =
                        manifest.layers.iter().map(|layer| spool.blob_path(&layer.digest)).collect::<Result<_, _>>()?;
                    let found = Found { manifest: Some(bytes), config, layers, names: BTreeSet::new() };
                    return Ok((descriptor.digest, found));
                }
            }
        }
        Err(DocumentError::Refused { what: "index", reason: "it has indexes inside indexes".to_owned() }.into())
    }

    fn docker_images(
        &self,
        spool: &Spool,
        images: &[DockerImage],
        given: Option<&Reference>,
    ) -> Result<Vec<Found>, LoadError> {
        let find = |path: &String| spool.file(path).ok_or_else(|| LoadError::Missing(path.clone()));
        let read = |image: &DockerImage| {
            let config = self.document(find(&image.config)?, &image.config)?;
            let layers = image
                .layers
                .iter()
                .flatten()
                .map(|path| Ok(find(path)?.path.clone()))
                .collect::<Result<_, LoadError>>()?;
            let tags = image.repo_tags.as_deref().unwrap_or_default();
            let names = names_or_given(tags, given, images.len())?;
            Ok(Found { manifest: None, config, layers, names })
        };
        images.iter().map(read).collect()
    }

    fn load_one(&self, found: Found) -> Result<BTreeSet<String>, LoadError> {
        let config = Config::parse(&found.config, &self.inner.limits)?;
        config.check_layers(found.layers.len())?;
        let _hold = self.inner.layers.hold(config.diff_ids.iter().copied());
        self.unpack_all(&config.diff_ids, &found.layers).map_err(AddError::from)?;
        let names = found.names.clone();
        let committed = self.commit(NewImage {
            config,
            config_bytes: &found.config,
            manifest_bytes: found.manifest.as_deref(),
            tags: found.names,
            digests: BTreeSet::new(),
        });
        committed.map_err(AddError::from)?;
        Ok(names)
    }

    /// Unpacks layers side by side: they do not depend on each other.
    fn unpack_all(&self, diff_ids: &[Digest], blobs: &[PathBuf]) -> Result<(), LayerError> {
        let todo: Mutex<VecDeque<(&Digest, &PathBuf)>> = Mutex::new(diff_ids.iter().zip(blobs).collect());
        let budget = Budget::new(self.inner.limits.image_bytes);
        let next = || todo.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let work = || -> Result<(), LayerError> {
            while let Some((diff_id, blob)) = next() {
                self.inner.layers.ensure(diff_id, blob, &budget)?;
            }
            Ok(())
        };
        let helpers = std::thread::available_parallelism().map_or(1, usize::from).min(diff_ids.len()).saturating_sub(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
            let mine = work();
            // A panic in a helper is one here too.
            let theirs = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            theirs.fold(mine, Result::and)
        })
    }

    fn blob(&self, spool: &Spool, digest: &Digest) -> Result<Vec<u8>, LoadError> {
        let path = blob_name(digest);
        self.document(spool.file(&path).ok_or_else(|| LoadError::Missing(path.clone()))?, &path)
    }

    /// Reads a document whole, if it is as small as a document is.
    fn document(&self, file: &Spooled, name: &str) -> Result<Vec<u8>, LoadError> {
        if file.size > self.inner.limits.document_bytes {
            let reason = format!("{name} has more than {} bytes", self.inner.limits.document_bytes);
            return Err(DocumentError::Refused { what: "archive", reason }.into());
        }
        let bytes = std::fs::read(&file.path);
        Ok(bytes.map_err(|source| AddError::Write { dir: self.inner.dir.clone(), source })?)
    }
}

impl Spool {
    fn add(&mut self, path: String, data: &mut impl Read, store: &Inner) -> Result<(), LoadError> {
        let aside = self.dir.path().join(self.files.len().to_string());
        let write = |source| LoadError::Add(AddError::Write { dir: store.dir.clone(), source });
        let mut file = File::create(&aside).map_err(write)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = data.read(&mut buffer).map_err(|error| LoadError::Archive(error.into()))?;
            if read == 0 {
                break;
            }
            self.bytes += read as u64;
            if self.bytes > store.limits.image_bytes {
                return Err(AddError::TooLarge(store.limits.image_bytes).into());
            }
            hasher.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(write)?;
        }
        let (size, digest) = (hasher.bytes(), hasher.finish());
        if let Some(hex) = path.strip_prefix("blobs/sha256/")
            && hex != digest.hex()
        {
            return Err(LoadError::Corrupt { path, found: digest.to_string() });
        }
        self.by_digest.insert(digest, path.clone());
        self.files.insert(path, Spooled { path: aside, digest, size });
        Ok(())
    }

    fn link(&mut self, path: String, target: Option<String>) {
        if let Some(target) = target {
            self.links.insert(path, target);
        }
    }

    /// A file by its path in the archive; links between files of the archive are followed.
    fn file(&self, path: &str) -> Option<&Spooled> {
        let mut path = clean(path.as_bytes())?;
        for _ in 0..LINKS_MAX {
            match self.files.get(&path) {
                Some(file) => return Some(file),
                None => path = self.links.get(&path)?.clone(),
            }
        }
        None
    }

    fn blob_path(&self, digest: &Digest) -> Result<PathBuf, LoadError> {
        let name = blob_name(digest);
        let file = self.file(&name).ok_or(LoadError::Missing(name))?;
        Ok(file.path.clone())
    }

    /// The tags that `manifest.json`, which Docker writes beside `index.json`, has for this image.
    fn docker_tags(&self, docker: &[DockerImage], image: &Found) -> Vec<String> {
        let id = Digest::of(&image.config);
        let same = |other: &&DockerImage| self.file(&other.config).is_some_and(|file| file.digest == id);
        docker.iter().filter(same).filter_map(|other| other.repo_tags.clone()).flatten().collect()
    }
}

/// The entries that say nothing of a platform or are for this one: some tools list all platforms side by side.
fn for_platform<'a>(entries: &'a [Descriptor], here: &Platform) -> Result<Vec<&'a Descriptor>, DocumentError> {
    let fits = |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|platform| here.runs(platform));
    let fitting: Vec<&Descriptor> = entries.iter().filter(fits).collect();
    if fitting.is_empty() && !entries.is_empty() {
        choose(entries, here)?; // says what there is instead
    }
    Ok(fitting)
}

/// The names of an entry of `index.json`: its annotations, then Docker's tags, then the name that was given.
fn oci_names(
    entry: &Descriptor,
    docker: Vec<String>,
    given: Option<&Reference>,
    images: usize,
) -> Result<BTreeSet<String>, LoadError> {
    let annotation = |key: &str| entry.annotations.as_ref().and_then(|annotations| annotations.get(key)).cloned();
    let whole_name = annotation(REF_ANNOTATION).filter(|name| name.contains(['/', ':']));
    let tags = match annotation(NAME_ANNOTATION).or(whole_name) {
        Some(name) => vec![name],
        None => docker,
    };
    names_or_given(&tags, given, images)
}

fn names_or_given(tags: &[String], given: Option<&Reference>, images: usize) -> Result<BTreeSet<String>, LoadError> {
    if tags.is_empty() {
        // One name cannot be that of several images.
        let given = given.filter(|_| images == 1).and_then(Reference::tagged).ok_or(LoadError::Nameless)?;
        return Ok(BTreeSet::from([given]));
    }
    tags.iter().map(|tag| tag.parse::<Reference>()?.tagged().ok_or(LoadError::Nameless)).collect()
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A path of the archive without `.` and empty parts; None if it leaves the archive or is not UTF-8. It is only ever
/// a key of a map.
fn clean(path: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(path).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// The target of a symlink, seen from the link's directory.
fn beside(path: &str, target: &[u8]) -> Option<String> {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    clean(&[parent.as_bytes(), b"/", target].concat())
}
