//! The rules of one volume.

use super::{Faults, names};
use crate::model::{EmptyDirVolume, HostPathVolume, Volume};
use crate::quantity::Quantity;

pub(super) fn validate_volume(path: &str, volume: &Volume, faults: &mut Faults) {
    let name_path = format!("{path}.name");
    if volume.name.is_empty() {
        faults.required(&name_path, "");
    } else {
        faults.name(&name_path, &volume.name, names::dns_label);
    }
    if volume.empty_dir.is_some() && volume.host_path.is_some() {
        faults.forbidden(&format!("{path}.hostPath"), "may not specify more than 1 volume type");
    }
    if let Some(dir) = &volume.empty_dir {
        validate_empty_dir(&format!("{path}.emptyDir"), dir, faults);
    }
    if let Some(host) = &volume.host_path {
        validate_host_path(&format!("{path}.hostPath"), host, faults);
    }
}

fn validate_empty_dir(path: &str, dir: &EmptyDirVolume, faults: &mut Faults) {
    faults.one_of(&format!("{path}.medium"), &dir.medium, &["", "Memory"]);
    let Some(text) = &dir.size_limit else { return };
    let path = format!("{path}.sizeLimit");
    match Quantity::parse(text) {
        Err(why) => faults.invalid(&path, text, &why.to_string()),
        Ok(limit) if limit.is_negative() => faults.invalid(&path, text, "must be greater than or equal to 0"),
        Ok(_) => {}
    }
}

fn validate_host_path(path: &str, host: &HostPathVolume, faults: &mut Faults) {
    let field = format!("{path}.path");
    if host.path.is_empty() {
        faults.required(&field, "");
    } else if host.path.split('/').any(|part| part == "..") {
        faults.invalid(&field, &host.path, "must not contain '..'");
    } else if !host.path.starts_with('/') {
        faults.invalid(&field, &host.path, "must be an absolute path");
    }
    faults.one_of(
        &format!("{path}.type"),
        &host.kind,
        &["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket", ""],
    );
}

/// A path that must stay inside of a volume.
pub(super) fn validate_path_inside(path: &str, value: &str, faults: &mut Faults) {
    if value.starts_with('/') {
        faults.invalid(path, value, "must be a relative path");
    }
    if value.split('/').any(|part| part == "..") {
        faults.invalid(path, value, "must not contain '..'");
    }
}
