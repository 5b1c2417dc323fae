//! Makes archives for tests: layers entry by entry, and images of them in each form.

use std::io::Write;

use sha2::Digest as _;

/// The time of every entry.
const MODIFIED: u64 = 1_000_000_000;

/// A layer: the bytes of its archive, and the digest that an image's config gives for it.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) diff_id: String,
}

impl Layer {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Layer { diff_id: sha256(&bytes), bytes }
    }
}

/// An archive under construction. Paths are written as given, however bad they are.
pub(crate) struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Archive { bytes: Vec::new() }
    }

    pub(crate) fn layer(self) -> Layer {
        Layer::new(self.finish())
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.owned_file(path, data, 0o644, 0, 0)
    }

    pub(crate) fn owned_file(self, path: &str, data: &[u8], mode: u32, uid: u32, gid: u32) -> Self {
        let header = Header { kind: b'0', mode, uid, gid, ..Header::default() };
        self.entry(path, &header, data)
    }

    pub(crate) fn file_with_xattr(self, path: &str, name: &str, value: &[u8]) -> Self {
        let record = pax_record(&format!("SCHILY.xattr.{name}"), value);
        self.raw(b'x', "PaxHeader", &record).file(path, b"")
    }

    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, &Header { kind: b'5', mode, ..Header::default() }, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, &Header { kind: b'2', link: target.into(), ..Header::default() }, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, &Header { kind: b'1', link: target.into(), ..Header::default() }, b"")
    }

    pub(crate) fn device(self, path: &str, major: u32, minor: u32) -> Self {
        self.entry(path, &Header { kind: b'3', major, minor, ..Header::default() }, b"")
    }

    pub(crate) fn fifo(self, path: &str) -> Self {
        self.entry(path, &Header { kind: b'6', ..Header::default() }, b"")
    }

    /// An entry of any type, its size that of its data.
    pub(crate) fn raw(self, kind: u8, path: &str, data: &[u8]) -> Self {
        self.entry(path, &Header { kind, ..Header::default() }, data)
    }

    /// Bytes as they are.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn entry(mut self, path: &str, header: &Header, data: &[u8]) -> Self {
        if path.len() > 100 {
            self.bytes.extend(Header { kind: b'L', ..Header::default() }.block("././@LongLink", path.len()));
            self.data(path.as_bytes());
        }
        self.bytes.extend(header.block(path, data.len()));
        self.data(data);
        self
    }

    fn data(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }
}

/// `<length> <key>=<value>\n`, the length counting itself.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

#[derive(Default)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) link: String,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Header {
    pub(crate) fn block(&self, path: &str, size: usize) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &path.as_bytes()[..path.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.uid).as_bytes());
        put(116, format!("{:07o}", self.gid).as_bytes());
        put(124, format!("{size:011o}").as_bytes());
        put(136, format!("{MODIFIED:011o}").as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, self.link.as_bytes());
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", self.major).as_bytes());
        put(337, format!("{:07o}", self.minor).as_bytes());
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }
}

/// How the layers of an OCI layout are compressed.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    Plain,
    Gzip,
    Zstd,
}

/// An image as `docker save` writes it; an empty name is left out.
pub(crate) fn docker_archive(name: &str, layers: &[Layer]) -> Vec<u8> {
    let config = config(layers);
    let paths: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let tags: Vec<&str> = Some(name).filter(|name| !name.is_empty()).into_iter().collect();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": tags, "Layers": paths}]);
    let start = Archive::new().file("config.json", &config);
    let with_layers = paths.iter().zip(layers).fold(start, |archive, (path, layer)| archive.file(path, &layer.bytes));
    with_layers.file("manifest.json", manifest.to_string().as_bytes()).finish()
}

/// An image as an OCI layout.
pub(crate) fn oci_archive(name: &str, layers: &[Layer], form: Form) -> Vec<u8> {
    oci_archive_beside(name, layers, form, &[])
}

/// As [`oci_archive`], with other entries before it in the index.
pub(crate) fn oci_archive_beside(name: &str, layers: &[Layer], form: Form, others: &[serde_json::Value]) -> Vec<u8> {
    let (packed, media_type): (Vec<Vec<u8>>, _) = match form {
        Form::Plain => (layers.iter().map(|layer| layer.bytes.clone()).collect(), "tar"),
        Form::Gzip => (layers.iter().map(|layer| gzip(&layer.bytes)).collect(), "tar+gzip"),
        Form::Zstd => (layers.iter().map(|layer| zstd(&layer.bytes)).collect(), "tar+zstd"),
    };
    let descriptor = |bytes: &[u8], media_type: &str| serde_json::json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()});
    let layer_type = format!("application/vnd.oci.image.layer.v1.{media_type}");
    let config = config(layers);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": packed.iter().map(|layer| descriptor(layer, &layer_type)).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor(&manifest, "application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
    let entries = [others, &[entry]].concat();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
    let blobs = packed.iter().chain([&config, &manifest]);
    let start = Archive::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", index.to_string().as_bytes());
    blobs.fold(start, |archive, blob| archive.file(&format!("blobs/sha256/{}", &sha256(blob)[7..]), blob)).finish()
}

fn config(layers: &[Layer]) -> Vec<u8> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = serde_json::json!({
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    config.to_string().into_bytes()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

/// A digest as it is written.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}
