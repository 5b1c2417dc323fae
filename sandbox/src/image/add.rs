//! What can go wrong with an image, wherever it comes from.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use super::StoreError;
use super::layer::LayerError;
use super::manifest::DocumentError;
use super::unpack::UnpackError;

/// Why an image was not added to the store. Nothing of it is left then, whole layers apart.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// A document of it is refused.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A layer is bad.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// It is larger than this node takes.
    #[error("it takes more than the {0} bytes that an image may have on this node (--image-bytes-max)")]
    TooLarge(u64),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What came could not be put aside.
    #[error("cannot write to the image store {}", dir.display())]
    Write {
        /// The store's directory.
        dir: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl AddError {
    /// True if it is the node's fault, not the image's.
    pub(super) fn is_of_this_node(&self) -> bool {
        match self {
            AddError::Store(_) | AddError::Write { .. } | AddError::Layer(LayerError::Store { .. }) => true,
            AddError::Layer(LayerError::Unpack { source: UnpackError::Write { source, .. }, .. }) => {
                matches!(
                    source.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
                )
            }
            _ => false,
        }
    }
}
