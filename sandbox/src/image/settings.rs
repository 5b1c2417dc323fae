//! What the node's owner says of its images.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::{GcRule, InvalidReference, Registries, RegistriesError};

/// Flags of `podbus sandbox` that concern images.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "images")]
pub struct Args {
    /// Mirrors and credentials of registries, in the form of k3s' registries.yaml (docs/IMAGES.md)
    // The variable reaches the nodes of `podbus up`.
    #[arg(long, value_name = "FILE", env = "PODBUS_REGISTRIES")]
    pub registries: Option<PathBuf>,
    /// The most bytes that the layers of an image may take; 64 GiB if it is not said
    #[arg(long, value_name = "BYTES")]
    pub image_bytes_max: Option<u64>,
    /// An image that is never collected; may be given several times
    #[arg(long, value_name = "NAME")]
    pub pinned_image: Vec<String>,
    /// From so many percent of the disk on images that nothing uses are removed; 85 if it is not said, 100: never
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub image_gc_high: Option<u8>,
    /// Down to so many percent; 80 if it is not said
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..100))]
    pub image_gc_low: Option<u8>,
    /// An image is kept for so long after it came, such as 2m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub image_gc_age_min: Option<Duration>,
    /// One that nothing used for so long is removed from a disk with room as well, such as 168h; else it stays
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub image_gc_unused_max: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(parsed).map_err(|_| "a duration is not negative".to_owned())
}

/// Why the flags cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration of registries is wrong.
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    /// A pinned image has no name that one can be.
    #[error("--pinned-image: {0}")]
    Pinned(#[source] InvalidReference),
    /// Collecting would never end, or never begin.
    #[error("--image-gc-low {low} has to be below --image-gc-high {high}")]
    Marks {
        /// Percent.
        low: u8,
        /// Percent.
        high: u8,
    },
}

impl Args {
    /// Checks them, and reads the files that they name.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let registries = self.registries.as_deref().map_or_else(|| Ok(Registries::default()), Registries::read)?;
        let name = |text: &String| Ok(super::lookup_name(&text.parse().map_err(SettingsError::Pinned)?));
        let pinned = self.pinned_image.iter().map(name).collect::<Result<_, SettingsError>>()?;
        let usual = GcRule::default();
        let gc = GcRule {
            high: self.image_gc_high.unwrap_or(usual.high),
            low: self.image_gc_low.unwrap_or(usual.low),
            age_min: self.image_gc_age_min.unwrap_or(usual.age_min),
            unused_max: self.image_gc_unused_max.or(usual.unused_max),
        };
        if gc.low >= gc.high {
            return Err(SettingsError::Marks { low: gc.low, high: gc.high });
        }
        Ok(Settings { registries, image_bytes_max: self.image_bytes_max, pinned, gc })
    }
}

/// What is said, read.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where images are pulled from.
    pub registries: Registries,
    /// Bytes that the layers of an image may take; None: 64 GiB.
    pub image_bytes_max: Option<u64>,
    /// Complete names of images that are never collected.
    pub pinned: BTreeSet<String>,
    /// When images that nothing uses are removed.
    pub gc: GcRule,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_that_make_no_sense_and_names_that_are_none_are_refused() {
        let low = Args { image_gc_high: Some(50), ..Args::default() }.settings().unwrap_err();
        assert_eq!(low.to_string(), "--image-gc-low 80 has to be below --image-gc-high 50");
        assert!(Args { pinned_image: vec!["A B".into()], ..Args::default() }.settings().is_err());
        let settings = Args { pinned_image: vec!["busybox".into()], ..Args::default() }.settings().unwrap();
        assert_eq!(settings.pinned.first().map(String::as_str), Some("docker.io/library/busybox:latest"));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("-2m").is_err() && duration("2").is_err());
    }
}
