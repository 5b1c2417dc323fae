//! Which images there are and what they are called: one small file, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::limits::Limits;
use super::manifest::Config;
use super::unpack::Usage;

/// The version of the file's format; a newer one is refused.
const VERSION: u32 = 1;

/// Why the catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A file of it cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It is not readable.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// A newer podbus wrote it.
    #[error("{} has format {found}, and this podbus knows {VERSION}: use a newer podbus", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// What is stored of one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// The digest of its config, which is its id.
    pub(super) id: Digest,
    /// The digest of its manifest, if it came with one.
    pub(super) manifest: Option<Digest>,
    /// Names with tags, complete.
    pub(super) tags: BTreeSet<String>,
    /// Names with digests: `name@sha256:...`.
    pub(super) digests: BTreeSet<String>,
    /// Lowest first.
    pub(super) layers: Vec<LayerRecord>,
    /// Bytes of layers and documents.
    pub(super) size: u64,
    /// When it came, in milliseconds since 1970; 0 where an earlier podbus wrote the record.
    #[serde(default)]
    pub(super) came: i64,
}

/// What is stored of one layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerRecord {
    pub(super) diff_id: Digest,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl LayerRecord {
    pub(super) fn usage(&self) -> Usage {
        Usage { bytes: self.bytes, inodes: self.inodes }
    }
}

#[derive(Serialize, Deserialize)]
struct CatalogFile {
    version: u32,
    images: Vec<Record>,
}

/// An image with its config.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) record: Record,
    pub(super) config: Config,
}

/// All images of one store, by id.
#[derive(Clone, Default)]
pub(super) struct Catalog {
    images: BTreeMap<Digest, Stored>,
}

impl Catalog {
    /// All images, by id.
    pub(super) fn images(&self) -> impl Iterator<Item = &Stored> {
        self.images.values()
    }

    /// The image with this id.
    pub(super) fn by_id(&self, id: &Digest) -> Option<&Stored> {
        self.images.get(id)
    }

    /// The image with this complete name, with a tag or with a digest.
    pub(super) fn by_name(&self, name: &str) -> Option<&Stored> {
        self.images().find(|image| image.record.tags.contains(name) || image.record.digests.contains(name))
    }

    /// The image whose id begins with these hexadecimal digits, if it is one.
    pub(super) fn by_id_prefix(&self, hex: &str) -> Option<&Stored> {
        let mut found = self.images().filter(|image| image.record.id.hex().starts_with(hex));
        found.next().filter(|_| found.next().is_none())
    }

    /// All layers that an image needs.
    pub(super) fn layers(&self) -> HashSet<Digest> {
        self.images().flat_map(|image| &image.record.layers).map(|layer| layer.diff_id).collect()
    }

    /// All documents that an image needs.
    pub(super) fn documents(&self) -> HashSet<Digest> {
        self.images().flat_map(|image| [Some(image.record.id), image.record.manifest]).flatten().collect()
    }

    /// Adds an image, or more names of one. A name that another image had is now this one's; an image that was only
    /// loaded and has no name any more is gone.
    pub(super) fn add(&mut self, image: Stored) {
        let (tags, digests, came) = (image.record.tags.clone(), image.record.digests.clone(), image.record.came);
        for other in self.images.values_mut().filter(|other| other.record.id != image.record.id) {
            other.record.tags.retain(|tag| !tags.contains(tag));
            other.record.digests.retain(|digest| !digests.contains(digest));
        }
        let entry = self.images.entry(image.record.id).or_insert(image);
        entry.record.came = came;
        entry.record.tags.extend(tags);
        entry.record.digests.extend(digests);
        let id = entry.record.id;
        let has_name = |image: &Stored| !(image.record.tags.is_empty() && image.record.digests.is_empty());
        self.images.retain(|other, image| *other == id || has_name(image));
    }

    /// Removes an image with all its names; one that is not there is fine.
    pub(super) fn remove(&mut self, id: &Digest) {
        self.images.remove(id);
    }
}

/// The files of a catalog. Who changes the catalog holds them for as long as the change takes.
pub(super) struct CatalogFiles {
    dir: PathBuf,
    temp: PathBuf,
}

impl CatalogFiles {
    /// The files of the store at `dir`.
    pub(super) fn new(dir: &Path, temp: &Path) -> Self {
        CatalogFiles { dir: dir.to_owned(), temp: temp.to_owned() }
    }

    /// Reads the catalog; an image whose config is gone is left out, with a warning.
    pub(super) fn read(&self, limits: &Limits) -> Result<Catalog, CatalogError> {
        let path = self.index_path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Catalog::default()),
            Err(source) => return Err(CatalogError::File { path, source }),
        };
        let file: CatalogFile =
            serde_json::from_slice(&bytes).map_err(|source| CatalogError::Damaged { path: path.clone(), source })?;
        if file.version > VERSION {
            return Err(CatalogError::Newer { path, found: file.version });
        }
        let mut catalog = Catalog::default();
        for record in file.images {
            match self.read_config(&record, limits) {
                Ok(config) => drop(catalog.images.insert(record.id, Stored { record, config })),
                Err(error) => {
                    tracing::warn!(image = %record.id, %error, "an image is damaged and left out: pull or load it again");
                }
            }
        }
        Ok(catalog)
    }

    /// Writes the catalog, in the place of the one before.
    pub(super) fn write(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        let images = catalog.images().map(|image| image.record.clone()).collect();
        let path = self.index_path();
        let bytes = serde_json::to_vec_pretty(&CatalogFile { version: VERSION, images })
            .map_err(|source| CatalogError::Damaged { path: path.clone(), source })?;
        self.put(&path, &bytes)
    }

    /// Writes a document under its digest.
    pub(super) fn write_document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), CatalogError> {
        self.put(&self.blob_path(digest), bytes)
    }

    /// Removes documents that are not in `needed`.
    pub(super) fn remove_documents_but(&self, needed: &HashSet<Digest>) -> io::Result<()> {
        for entry in std::fs::read_dir(self.blobs_dir())? {
            let entry = entry?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if digest.is_none_or(|digest| !needed.contains(&digest)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn read_config(&self, record: &Record, limits: &Limits) -> Result<Config, String> {
        let bytes = std::fs::read(self.blob_path(&record.id)).map_err(|error| error.to_string())?;
        if Digest::of(&bytes) != record.id {
            return Err("the digest of its config is wrong".to_owned());
        }
        Config::parse(&bytes, limits).map_err(|error| error.to_string())
    }

    /// Writes a file whole or not at all, also across a power cut.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), CatalogError> {
        let put = || -> io::Result<()> {
            let mut file = tempfile::Builder::new().prefix("write-").tempfile_in(&self.temp)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            std::fs::File::open(path.parent().unwrap_or(&self.dir))?.sync_all()
        };
        put().map_err(|source| CatalogError::File { path: path.to_owned(), source })
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("images.json")
    }

    fn blobs_dir(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_dir().join(digest.hex())
    }
}
