//! Bundles: a container as an OCI runtime reads it. Pure, but for writing the files.
//!
//! ```text
//!   <container>/bundle/config.json   what it is
//!                      rootfs        its layers, mounted where only the handler sees it
//!                      m/<n>         its volumes, likewise
//!                      shm           the pod's /dev/shm, likewise
//!                      log, pid      what the handler says, its first process
//! ```

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, LinuxSeccomp, Mount,
    MountBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::capability;
use crate::process::Invalid;
use crate::record::ProcessBody;

/// The version of the specification whose fields we use.
const OCI_VERSION: &str = "1.0.2";

/// Where a bundle's parts are.
pub(crate) struct Bundle {
    pub(crate) dir: PathBuf,
}

impl Bundle {
    /// The bundle of the container whose directory this is.
    pub(crate) fn of(container_dir: &Path) -> Self {
        Self { dir: container_dir.join("bundle") }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// The mount point of a volume.
    pub(crate) fn volume(&self, number: usize) -> PathBuf {
        self.dir.join("m").join(number.to_string())
    }

    /// Makes the directories, anew.
    pub(crate) fn create(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(self.dir.join("m"))?;
        fs::create_dir(self.root())?;
        fs::create_dir(self.shm())
    }

    /// Makes the mount point of a volume.
    pub(crate) fn make_place(&self, number: usize, is_dir: bool) -> io::Result<PathBuf> {
        let place = self.volume(number);
        if is_dir {
            fs::create_dir(&place)?;
        } else {
            fs::File::create(&place)?;
        }
        Ok(place)
    }

    pub(crate) fn write(&self, spec: &Spec) -> io::Result<()> {
        fs::write(self.dir.join("config.json"), serde_json::to_vec_pretty(spec)?)
    }
}

/// A mount whose source the handler sees.
#[derive(Debug, Clone)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    /// `rprivate`, `rslave` or `rshared`.
    pub(crate) propagation: &'static str,
}

/// A namespace: one of its own, or that of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Namespace {
    Own,
    /// `/proc/<pid>/ns/<kind>`.
    Of(i32),
}

/// What a container is, for a handler.
pub(crate) struct Description<'a> {
    pub(crate) process: &'a ProcessBody,
    /// Those that are not named are the node's. Mount and cgroup namespaces are its own always.
    pub(crate) namespaces: Vec<(LinuxNamespaceType, Namespace)>,
    pub(crate) binds: Vec<Bind>,
    /// `c 1:3 rwm`.
    pub(crate) devices: Vec<String>,
    /// Without a slash at either end.
    pub(crate) cgroup: &'a str,
    pub(crate) root_readonly: bool,
    pub(crate) privileged: bool,
    pub(crate) masked: Vec<String>,
    pub(crate) readonly: Vec<String>,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) seccomp: Option<LinuxSeccomp>,
}

/// `config.json`. Limits are not in it: the cgroup has them already.
pub(crate) fn spec(it: Description<'_>) -> Result<Spec, Invalid> {
    build(it).map_err(|error| Invalid(format!("cannot describe the container to its handler: {error}")))
}

fn build(it: Description<'_>) -> Result<Spec, OciSpecError> {
    let mut namespaces = Vec::new();
    let kinds = [(LinuxNamespaceType::Mount, Namespace::Own), (LinuxNamespaceType::Cgroup, Namespace::Own)];
    for (kind, namespace) in kinds.into_iter().chain(it.namespaces.iter().cloned()) {
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        namespaces.push(match namespace {
            Namespace::Own => builder.build()?,
            Namespace::Of(pid) => builder.path(format!("/proc/{pid}/ns/{kind}")).build()?,
        });
    }
    let mut devices = vec![LinuxDeviceCgroupBuilder::default().allow(it.privileged).access("rwm").build()?];
    for rule in &it.devices {
        devices.extend(device(rule)?);
    }
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(format!("/{}", it.cgroup))
        .resources(LinuxResourcesBuilder::default().devices(devices).build()?)
        .masked_paths(it.masked)
        .readonly_paths(it.readonly)
        .build()?;
    linux.set_seccomp(it.seccomp);
    let mut mounts = kernel_mounts(it.privileged)?;
    for bind in &it.binds {
        let options = ["rbind", bind.propagation].map(str::to_owned).to_vec();
        mounts.push(
            MountBuilder::default()
                .typ("bind")
                .source(&bind.source)
                .destination(&bind.target)
                .options(options)
                .build()?,
        );
    }
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(RootBuilder::default().path("rootfs").readonly(it.root_readonly).build()?)
        .mounts(mounts)
        .process(process_of(it.process)?)
        .annotations(it.annotations)
        .linux(linux)
        .build()?;
    spec.set_hostname(None); // that of the pod is set already
    Ok(spec)
}

/// A process, the first of a container or one more.
pub(crate) fn process(body: &ProcessBody) -> Result<Process, Invalid> {
    process_of(body).map_err(|error| Invalid(format!("cannot describe the process to its handler: {error}")))
}

fn process_of(body: &ProcessBody) -> Result<Process, OciSpecError> {
    let texts = |list: &[Vec<u8>]| -> Result<Vec<String>, OciSpecError> {
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone());
        let not_text = |_| OciSpecError::Other("a word or variable of the command is not UTF-8".to_owned());
        list.iter().map(|bytes| text(bytes).map_err(not_text)).collect()
    };
    let (held, ambient) = (capabilities(body.capabilities), capabilities(body.ambient));
    let set = LinuxCapabilitiesBuilder::default()
        .bounding(held.clone())
        .effective(held.clone())
        .permitted(held)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()?;
    let user = UserBuilder::default().uid(body.user).gid(body.group).additional_gids(body.groups.clone()).build()?;
    let mut process = ProcessBuilder::default()
        .terminal(body.terminal)
        .user(user)
        .args(texts(&body.arguments)?)
        .env(texts(&body.environment)?)
        .cwd(&body.directory)
        .capabilities(set)
        .no_new_privileges(body.no_new_privileges)
        .build()?;
    // What the shim gives to the handler is inherited, and a node without CAP_SYS_RESOURCE could raise nothing.
    process.set_rlimits(None);
    Ok(process)
}

fn capabilities(set: u64) -> Capabilities {
    capability::names(set).filter_map(|name| name.parse::<Capability>().ok()).collect()
}

fn device(rule: &str) -> Result<Option<LinuxDeviceCgroup>, OciSpecError> {
    let mut words = rule.split_whitespace();
    let (Some(kind), Some(numbers), Some(access)) = (words.next(), words.next(), words.next()) else { return Ok(None) };
    let Some((major, minor)) = numbers.split_once(':') else { return Ok(None) };
    let (Ok(major), Ok(minor)) = (major.parse::<i64>(), minor.parse::<i64>()) else { return Ok(None) };
    let kind = if kind == "b" { LinuxDeviceType::B } else { LinuxDeviceType::C };
    let builder = LinuxDeviceCgroupBuilder::default().allow(true).typ(kind).major(major).minor(minor).access(access);
    builder.build().map(Some)
}

/// What every container finds.
fn kernel_mounts(privileged: bool) -> Result<Vec<Mount>, OciSpecError> {
    let sys = if privileged { "rw" } else { "ro" };
    let list: [(&str, &str, &str, &[&str]); 6] = [
        ("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        ("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("devpts", "devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        ("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", sys]),
        ("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]),
    ];
    let mount = |(kind, source, target, options): (&str, &str, &str, &[&str])| {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        MountBuilder::default().typ(kind).source(source).destination(target).options(options).build()
    };
    list.into_iter().map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(process: &ProcessBody) -> Description<'_> {
        Description {
            process,
            namespaces: vec![
                (LinuxNamespaceType::Network, Namespace::Of(7)),
                (LinuxNamespaceType::Pid, Namespace::Own),
            ],
            binds: vec![Bind { source: "/b/m/0".into(), target: "/data".into(), propagation: "rslave" }],
            devices: vec!["c 1:3 rw".to_owned()],
            cgroup: "podbus/pod/c",
            root_readonly: true,
            privileged: false,
            masked: vec!["/proc/kcore".to_owned()],
            readonly: vec!["/proc/sys".to_owned()],
            annotations: HashMap::from([("a".to_owned(), "b".to_owned())]),
            seccomp: None,
        }
    }

    #[test]
    fn a_container_is_described_as_the_specification_has_it() {
        let process = ProcessBody {
            arguments: vec![b"sh".to_vec(), b"-c".to_vec()],
            environment: vec![b"A=1".to_vec()],
            directory: "/srv".to_owned(),
            user: 101,
            group: 102,
            groups: vec![103],
            capabilities: 1 << 10 | 1,
            no_new_privileges: true,
            ..ProcessBody::default()
        };
        let spec = serde_json::to_value(spec(description(&process)).unwrap()).unwrap();
        assert_eq!(spec["root"], serde_json::json!({ "path": "rootfs", "readonly": true }));
        assert_eq!(spec["process"]["args"], serde_json::json!(["sh", "-c"]));
        assert_eq!(spec["process"]["user"]["uid"], 101);
        assert_eq!(spec["process"]["user"]["additionalGids"], serde_json::json!([103]));
        assert_eq!(spec["process"]["noNewPrivileges"], true);
        assert!(spec["process"]["rlimits"].is_null());
        let held = spec["process"]["capabilities"]["effective"].as_array().unwrap();
        assert!(held.len() == 2 && held.contains(&"CAP_CHOWN".into()) && held.contains(&"CAP_NET_BIND_SERVICE".into()));
        let linux = &spec["linux"];
        assert_eq!(linux["cgroupsPath"], "/podbus/pod/c");
        let expected = serde_json::json!([
            { "type": "mount" }, { "type": "cgroup" }, { "type": "network", "path": "/proc/7/ns/net" }, { "type": "pid" }
        ]);
        assert_eq!(linux["namespaces"], expected);
        let devices = linux["resources"]["devices"].as_array().unwrap();
        assert_eq!((&devices[0]["allow"], &devices[1]["allow"]), (&false.into(), &true.into()));
        assert_eq!((&devices[1]["major"], &devices[1]["access"]), (&1.into(), &"rw".into()));
        let mounts = spec["mounts"].as_array().unwrap();
        assert_eq!(mounts.last().unwrap()["options"], serde_json::json!(["rbind", "rslave"]));
        assert!(
            mounts
                .iter()
                .any(|it| it["destination"] == "/sys" && it["options"].as_array().unwrap().contains(&"ro".into()))
        );
    }

    #[test]
    fn words_that_json_cannot_hold_are_refused() {
        let body = ProcessBody { arguments: vec![vec![0xff]], directory: "/".to_owned(), ..ProcessBody::default() };
        assert!(process(&body).unwrap_err().0.contains("not UTF-8"));
    }
}
