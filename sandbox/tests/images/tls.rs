//! Registries that speak TLS, and proxies: what the environment says is honoured. Each pull runs in a process of its
//! own, since the environment is one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use podbus_sandbox::image::service::ImageService;
use tempfile::TempDir;

use super::Fixture;
use super::pack::{Archive, Form, oci_archive};
use super::registry::{Registry, block_on, pull};

const IMAGE: &str = "PODBUS_TEST_IMAGE";
/// An address that is not loopback: there, registries speak TLS.
const ADDRESS: &str = "192.0.2.1";

/// What the tests below run as a process of its own: pulls one image and prints how it went.
#[test]
#[ignore = "a part of the other tests of this file"]
fn pulls_one_image() {
    let image = std::env::var(IMAGE).unwrap();
    let fixture = Fixture::new();
    match block_on(pull(&ImageService::new(fixture.store.clone()), &image, None)) {
        Ok(id) => println!("PULLED {id}"),
        Err(status) => println!("FAILED {:?} {}", status.code(), status.message()),
    }
}

/// Pulls in another process, with these variables and no others that matter.
fn pull_with(image: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "images::tls::pulls_one_image"]).env(IMAGE, image);
    for name in [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "NO_PROXY",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ] {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found =
        text.lines().find_map(|line| line.find("PULLED").or(line.find("FAILED")).map(|at| line[at..].to_owned()));
    found.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error} (apt-get install {program})"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn make_certificate(dir: &Path) -> (String, String) {
    let (key, certificate) = (dir.join("key.pem").display().to_string(), dir.join("cert.pem").display().to_string());
    let name = format!("subjectAltName=IP:{ADDRESS}");
    let how = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-addext",
        &name,
    ];
    run("openssl", &[&how[..], &["-keyout", &key, "-out", &certificate]].concat());
    (key, certificate)
}

#[test]
fn a_registry_is_trusted_by_the_certificates_that_the_environment_names() {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["addr", "add", &format!("{ADDRESS}/32"), "dev", "lo"]);
        let dir = TempDir::new().unwrap();
        let (key, certificate) = make_certificate(dir.path());
        let section = format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
        let registry = Registry::start_at(&format!("{ADDRESS}:5443"), &section);
        registry.push("app:1", &oci_archive("app:1", &[Archive::new().file("a", b"1").layer()], Form::Gzip), &[]);
        let image = registry.name("app:1");
        let pulled = pull_with(&image, &[("SSL_CERT_FILE", &certificate)]);
        assert!(pulled.starts_with("PULLED sha256:"), "{pulled}");
        let distrusted = pull_with(&image, &[]);
        assert!(distrusted.starts_with("FAILED Unknown") && distrusted.contains("certificate"), "{distrusted}");
        let empty = dir.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        let without = pull_with(&image, &[("SSL_CERT_FILE", &empty.display().to_string())]);
        assert!(without.starts_with("FAILED Unknown") && without.contains("certificate"), "{without}");
    };
    std::thread::spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_proxy_of_the_environment_is_asked_for_registries_of_the_world() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").unwrap();
        drop(listener); // no more tries
        line
    });
    let refused = pull_with("registry.example/app:1", &[("HTTPS_PROXY", &proxy)]);
    assert!(refused.starts_with("FAILED Unknown RegistryUnavailable"), "{refused}");
    assert_eq!(asked.join().unwrap(), "CONNECT registry.example:443 HTTP/1.1\r\n");
}

#[test]
fn a_proxy_is_not_asked_for_a_registry_of_this_machine() {
    let registry = Registry::start();
    registry.push("app:1", &oci_archive("app:1", &[Archive::new().file("a", b"1").layer()], Form::Gzip), &[]);
    let nowhere = "http://127.0.0.1:1";
    let pulled = pull_with(&registry.name("app:1"), &[("HTTPS_PROXY", nowhere), ("HTTP_PROXY", nowhere)]);
    assert!(pulled.starts_with("PULLED sha256:"), "{pulled}");
}
