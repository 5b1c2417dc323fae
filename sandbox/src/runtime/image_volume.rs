//! Image volumes of a container: found when it is created, mounted when it starts.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use podbus_common_cri::runtime::{ContainerConfig, Mount};

use super::{Container, Outcome, Runtime, RuntimeError};
use crate::image::Image;
use crate::image_volume;
use crate::record::ImageVolumeBody;
use crate::volume::Volume;

impl Runtime {
    /// Finds the images of a request's mounts, and that what is wanted of them is there. The images keep the layers.
    pub(super) fn find_image_volumes(&self, config: &ContainerConfig) -> Outcome<(Vec<ImageVolumeBody>, Vec<Image>)> {
        let (mut found, mut images) = (Vec::new(), Vec::new());
        for (at, mount) in (0..).zip(&config.mounts) {
            let Some(spec) = &mount.image else { continue };
            image_volume::check(mount)?;
            let image = self.store.resolve(&spec.image).map_err(|error| RuntimeError::NotFound {
                kind: "image",
                id: format!("{} for the volume on {}: {error}", spec.image, mount.container_path),
            })?;
            let layers = image.layers.iter().map(|layer| layer.to_string_lossy().into_owned()).collect();
            let volume = ImageVolumeBody { mount: at, image_id: image.id.clone(), layers };
            open(&volume, mount, None)?; // now, not at the start: a wrong sub path is the request's fault
            found.push(volume);
            images.push(image);
        }
        Ok((found, images))
    }
}

/// Opens the image volumes of a container.
pub(super) fn open_all(container: &Container, user: Option<&OwnedFd>) -> Outcome<Vec<Volume>> {
    let mounts = &container.config().mounts;
    let with_mount = |volume: &ImageVolumeBody| Some(open(volume, mounts.get(volume.mount as usize)?, user));
    container.body.image_volumes.iter().filter_map(with_mount).collect()
}

fn open(volume: &ImageVolumeBody, mount: &Mount, user: Option<&OwnedFd>) -> Outcome<Volume> {
    let layers: Vec<PathBuf> = volume.layers.iter().map(PathBuf::from).collect();
    let opened = image_volume::open(&layers, &mount.image_sub_path, &mount.container_path, user);
    opened.map_err(|source| {
        let part = if mount.image_sub_path.is_empty() { "all" } else { &mount.image_sub_path };
        let volume = format!("{part} of the image {} on {}", volume.image_id, mount.container_path);
        RuntimeError::ImageVolume { volume, source }
    })
}

impl Container {
    /// The request's mounts, each image volume with the id of its image.
    pub(super) fn mounts(&self) -> Vec<Mount> {
        let mut mounts = self.config().mounts.clone();
        for volume in &self.body.image_volumes {
            if let Some(image) = mounts.get_mut(volume.mount as usize).and_then(|mount| mount.image.as_mut()) {
                image.image_ref.clone_from(&volume.image_id);
            }
        }
        mounts
    }
}
