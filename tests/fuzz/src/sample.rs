//! Inputs that are right, and words of their formats.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use podbus_common_spdy::{Encoder, Frame, Headers};
use podbus_sandbox_linux::message::{self, Message, kind};
use podbus_sandbox_linux::plan::{MOUNT_FILE, Writer, tag};
use podbus_sandbox_linux::slot::{FLAG_OOM, Slot};

type Words = &'static [&'static [u8]];

pub(crate) const ARCHIVE_WORDS: Words = &[
    b"../",
    b"/",
    b"./",
    b"..",
    b".wh.",
    b".wh..wh..opq",
    b"a/b",
    b"0000000\0",
    b"77777777777\0",
    b"\x80\0\0\0\0\0\0\x01",
    b"ustar\0",
    b"12 size=3\n",
    b"28 SCHILY.xattr.user.a=value\n",
    b"99999999999 path=",
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
    b"7",
    b"x",
    b"g",
    b"L",
    b"K",
    b"S",
    b"V",
];

/// Layers: plain, in pax and GNU form, packed both ways.
pub(crate) fn archives() -> Vec<Vec<u8>> {
    let plain = [
        tar_entry(b'5', "etc/", "", b""),
        tar_entry(b'0', "etc/hostname", "", b"web\n"),
        tar_entry(b'2', "etc/mtab", "/proc/mounts", b""),
        tar_entry(b'1', "hosts", "etc/hostname", b""),
        tar_entry(b'6', "run/fifo", "", b""),
        tar_entry(b'3', "dev/zero", "", b""),
        tar_entry(b'0', "etc/.wh.passwd", "", b""),
        tar_entry(b'0', "var/.wh..wh..opq", "", b""),
        vec![0; 1024],
    ]
    .concat();
    let extended = [
        tar_entry(b'x', "pax", "", b"22 path=a/longer/name\n27 SCHILY.xattr.user.a=bcd\n9 uid=70\n"),
        tar_entry(b'0', "a", "", b"data"),
        tar_entry(b'L', "././@LongLink", "", b"a/much/longer/name\0"),
        tar_entry(b'0', "a", "", &[7; 700]),
        vec![0; 1024],
    ]
    .concat();
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
    };
    let zstd = zstd::encode_all(extended.as_slice(), 1).unwrap_or_default();
    vec![gzip(&plain), zstd, plain, extended]
}

/// A header and its data, without the checksum.
fn tar_entry(kind: u8, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut entry = vec![0; 512];
    entry[..name.len()].copy_from_slice(name.as_bytes());
    entry[100..107].copy_from_slice(b"0000755");
    entry[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    entry[156] = kind;
    entry[157..157 + link.len()].copy_from_slice(link.as_bytes());
    entry[257..265].copy_from_slice(b"ustar\x0000");
    entry.extend_from_slice(data);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

/// Of indexes, manifests and configs.
pub(crate) const IMAGE_WORDS: Words = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"2",
    b"-1",
    b"1e400",
    b"null",
    b"\"schemaVersion\"",
    b"\"manifests\"",
    b"\"layers\"",
    b"\"config\"",
    b"\"digest\"",
    b"\"size\"",
    b"\"platform\"",
    b"\"mediaType\"",
    b"\"sha256:00\"",
    b"sha512:",
    b"\"os\"",
    b"\"architecture\"",
    b"\"variant\"",
    b"\\u0000",
    b"\"rootfs\"",
    b"\"diff_ids\"",
    b"\"User\"",
    b"\"Env\"",
    b"\"Cmd\"",
    b"\"Volumes\"",
    b"\"StopSignal\"",
    b"\"SIGTERM\"",
    b"\"4294967296\"",
    b"\"A=\\n\"",
    b"99999",
];

/// Indexes and manifests.
pub(crate) fn documents() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let descriptor =
        |kind: &str| format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":7023"#);
    let platform = r#""platform":{"architecture":"amd64","os":"linux"}"#;
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{platform}}}]}}"#, descriptor("manifest.v1+json"));
    let (config, layer) = (descriptor("config.v1+json"), descriptor("layer.v1.tar+gzip"));
    let manifest =
        format!(r#"{{"schemaVersion":2,"config":{config}}},"layers":[{layer}}}],"annotations":{{"a":"b"}}}}"#);
    let docker = r#"[{"Config":"0a.json","RepoTags":["busybox:latest"],"Layers":["0a/layer.tar"]}]"#;
    vec![index.into_bytes(), manifest.into_bytes(), docker.into()]
}

/// Configs of images.
pub(crate) fn configs() -> Vec<Vec<u8>> {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z","config":{{"User":"1000:1000",
        "Env":["PATH=/bin","A=b"],"Entrypoint":["/bin/sh"],"Cmd":["-c","true"],"WorkingDir":"/srv","Volumes":{{"/data":{{}}}},
        "StopSignal":"SIGINT","Labels":{{"a":"b"}},"ExposedPorts":{{"80/tcp":{{}}}}}},
        "rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}},"history":[{{"created_by":"x"}}]}}"#,
        "0b".repeat(32)
    );
    vec![config.into_bytes()]
}

pub(crate) const REFERENCE_WORDS: Words = &[
    b"/",
    b":",
    b"@",
    b".",
    b"..",
    b"-",
    b"_",
    b"__",
    b"sha256:",
    b"[::1]",
    b"localhost",
    b":0",
    b":65536",
    b"A",
    b"\n",
    b" ",
];

/// Names of images.
pub(crate) fn references() -> Vec<Vec<u8>> {
    let digest = format!("registry.example.com:5000/a/b_c@sha256:{}", "0c".repeat(32));
    ["busybox", "busybox:1.36", "localhost/busybox:latest", "docker.io/library/a-b.c__d:v1", digest.as_str()]
        .map(|name| name.as_bytes().to_vec())
        .to_vec()
}

pub(crate) const CHALLENGE_WORDS: Words =
    &[b"Bearer ", b"Basic ", b"realm=", b"service=", b"scope=", b"\"", b"\\\"", b",", b"=", b"  ", b"Digest "];

/// Challenges of registries.
pub(crate) fn challenges() -> Vec<Vec<u8>> {
    let bearer = r#"Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull""#;
    vec![bearer.into(), br#"Basic realm="a \"b\"", Bearer realm=x"#.to_vec()]
}

pub(crate) const SPDY_WORDS: Words = &[
    b"\x80\x03\x00\x01",
    b"\x80\x03\x00\x02",
    b"\x80\x03\x00\x03",
    b"\x80\x03\x00\x04",
    b"\x80\x03\x00\x06",
    b"\x80\x03\x00\x07",
    b"\x80\x03\x00\x08",
    b"\x80\x03\x00\x09",
    b"\0\0\0\x01",
    b"\x01\0\0\0",
    b"\0\xff\xff\xff",
];

/// What clients send: streams of an exec, data, a ping, an end.
pub(crate) fn spdy_frames() -> Vec<Vec<u8>> {
    let stream = |stream, name| Frame::SynStream { stream, fin: false, headers: Headers::new(&[("streamtype", name)]) };
    let sessions = [
        vec![
            stream(1, "error"),
            stream(3, "stdin"),
            stream(5, "stdout"),
            Frame::Data { stream: 3, fin: true, bytes: Bytes::from_static(b"input") },
            Frame::RstStream { stream: 5, status: 5 },
            Frame::GoAway { last: 5, status: 0 },
        ],
        vec![
            Frame::Ping { id: 2 },
            Frame::SynReply { stream: 1, fin: false, headers: Headers::new(&[]) },
            Frame::Headers { stream: 1, fin: true, headers: Headers::new(&[("port", "80"), ("requestid", "0")]) },
        ],
    ];
    let write = |frames: &Vec<Frame>| {
        let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
        frames.iter().for_each(|frame| encoder.encode(frame, &mut bytes));
        bytes
    };
    sessions.iter().map(write).collect()
}

pub(crate) const LOG_WORDS: Words = &[
    b"2026-01-02T03:04:05.678901234Z",
    b"stdout",
    b"stderr",
    b"stdin",
    b" ",
    b" F ",
    b" P ",
    b" P:x ",
    b"\n",
    b"\r\n",
    b"\0",
    b"2026-01-02T03:04:06Z stderr P half",
    b"\n2026-01-02T03:04:06Z stdout F whole\n",
];

/// Logs of containers.
pub(crate) fn logs() -> Vec<Vec<u8>> {
    let mixed = "2026-01-02T03:04:05.5Z stdout F one\n2026-01-02T03:04:05.6Z stderr P tw\n2026-01-02T03:04:05.7Z stderr F o\n\
        2026-01-02T03:04:06.5Z stdout F \n2026-01-02T03:04:06.5Z stdout P torn";
    // Longer than what is read at once.
    let long: String = (0..2000).map(|line| format!("2026-01-02T03:04:05.5Z stdout F line {line:05}\n")).collect();
    vec![mixed.into(), long.into_bytes()]
}

/// What daemon and shim say to each other.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let long = vec![b'a'; 2 * message::BYTES_MAX];
    let messages = [
        Message { kind: kind::HELLO, sequence: 1, number: message::VERSION, text: &long[..96], ..Message::default() },
        Message { kind: kind::SIGNAL, sequence: 2, a: 15, text: &long[..64], ..Message::default() },
        Message { kind: kind::FAILED, sequence: 3, a: 2, b: 127, text: &long, ..Message::default() },
    ];
    let write = |message: &Message<'_>| {
        let mut buffer = [0; message::BYTES_MAX];
        let length = message.encode(&mut buffer);
        buffer[..length].to_vec()
    };
    messages.iter().map(write).collect()
}

/// Plans for the shim.
pub(crate) fn plans() -> Vec<Vec<u8>> {
    let mut writer = Writer::default();
    writer.bytes(tag::LOWER, b"layers/1");
    writer.mount(3, MOUNT_FILE, b"/etc/hosts");
    writer.bytes(tag::DEVICE, &[&[1; 20][..], b"snd/seq"].concat());
    writer.bytes(tag::ARGUMENT, b"sh");
    writer.bytes(tag::ARGUMENT, b"");
    writer.number(tag::USER, 1000);
    writer.number(tag::FD_LOG, 2);
    vec![writer.finish()]
}

/// Slots of records.
pub(crate) fn slots() -> Vec<Vec<u8>> {
    let slot = Slot { time: -5, until: i64::MAX, code: 137, signal: 9, flags: FLAG_OOM, pid: 42 };
    vec![slot.encode().to_vec()]
}

pub(crate) const MANIFEST_WORDS: Words = &[
    b"\n---\n",
    b"\n  ",
    b": ",
    b"- ",
    b"[",
    b"]",
    b"{",
    b"}",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"|\n",
    b"!!binary ",
    b"\"",
    b"'",
    b"#",
    b"~",
    b"0x10",
    b"1e999",
    b"-0",
    b"spec",
    b"containers",
    b"resources",
    b"limits",
    b"memory",
    b"9999999999Ei",
    b"\t",
    b"\xff",
];

/// Manifests of pods.
pub(crate) fn manifests() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../../examples/two-containers.yaml").to_vec(),
        include_bytes!("../../../examples/init.yaml").to_vec(),
        include_bytes!("../../../examples/limits.yaml").to_vec(),
        include_bytes!("../../../examples/spread.yaml").to_vec(),
    ]
}
