//! How a registry proves who it is, where the node's owner says something of it.

use std::path::{Path, PathBuf};

use reqwest::{Certificate, ClientBuilder, Identity};

/// What is said of one host.
#[derive(Debug, Clone, Default)]
pub(super) struct Tls {
    roots: Vec<Certificate>,
    identity: Option<Identity>,
    skips_verification: bool,
}

/// Why a file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} has no certificate or key in the form PEM", path.display())]
    Pem { path: PathBuf },
    #[error("cert_file and key_file come together")]
    Half,
}

impl Tls {
    /// Reads the files.
    pub(super) fn read(
        authority: Option<&Path>,
        certificate: Option<&Path>,
        key: Option<&Path>,
        skips_verification: bool,
    ) -> Result<Self, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source });
        let bad = |path: &Path| TlsError::Pem { path: path.to_owned() };
        let roots = match authority {
            Some(path) => Certificate::from_pem_bundle(&read(path)?)
                .ok()
                .filter(|found| !found.is_empty())
                .ok_or_else(|| bad(path))?,
            None => Vec::new(),
        };
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let both = [read(key)?, b"\n".to_vec(), read(certificate)?].concat();
                Some(Identity::from_pem(&both).map_err(|_| bad(certificate))?)
            }
            (None, None) => None,
            _ => return Err(TlsError::Half),
        };
        Ok(Tls { roots, identity, skips_verification })
    }

    /// Tells an HTTP client.
    pub(super) fn apply(self, builder: ClientBuilder) -> ClientBuilder {
        let builder = if self.roots.is_empty() { builder } else { builder.tls_certs_merge(self.roots) };
        let builder = match self.identity {
            Some(identity) => builder.identity(identity),
            None => builder,
        };
        builder.tls_danger_accept_invalid_certs(self.skips_verification)
    }
}
