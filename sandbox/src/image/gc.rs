//! Which images to remove when the disk fills, or when nobody has used them for long. Pure.
//!
//! The rule is the kubelet's: from `high` percent of the disk on, the images that were used least recently go until
//! the disk is at `low` percent; none that is in use, pinned, or younger than `age_min`. One that was only loaded is
//! kept as well: no pull would bring it back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::digest::Digest;

/// When images go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcRule {
    /// Percent of the disk from which on images go; 100: never for the disk's sake.
    pub high: u8,
    /// Percent of the disk at which that ends.
    pub low: u8,
    /// An image that came later than this stays.
    pub age_min: Duration,
    /// One that nobody has used for so long goes, however empty the disk is. None: it stays.
    pub unused_max: Option<Duration>,
}

/// As the kubelet has it.
impl Default for GcRule {
    fn default() -> Self {
        GcRule { high: 85, low: 80, age_min: Duration::from_secs(120), unused_max: None }
    }
}

/// The file system that images are on, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) capacity: u64,
    pub(super) available: u64,
}

/// What there is to say of one image. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) id: Digest,
    /// With the bytes of each.
    pub(super) layers: Vec<(Digest, u64)>,
    /// When it came.
    pub(super) came: i64,
    /// When something last used it.
    pub(super) used: i64,
    /// In use, pinned, or not to be had again.
    pub(super) is_kept: bool,
}

/// What to remove.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The images, in this order.
    pub(super) images: Vec<Digest>,
    /// Bytes that the disk will still have too much on it.
    pub(super) missing: u64,
}

/// Plans one collection. `held` are the layers that something uses, whatever becomes of their images.
pub(super) fn plan(rule: &GcRule, disk: Disk, images: &[Candidate], held: &HashSet<Digest>, now: i64) -> Plan {
    let mut wanted = bytes_to_free(rule, disk);
    let mut users: HashMap<Digest, usize> = HashMap::new();
    for (layer, _) in images.iter().flat_map(|image| &image.layers) {
        *users.entry(*layer).or_default() += 1;
    }
    let older =
        |time: i64, age: Duration| now.saturating_sub(time) >= i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let mut free: Vec<&Candidate> =
        images.iter().filter(|image| !image.is_kept && older(image.came, rule.age_min)).collect();
    free.sort_by_key(|image| (image.used, image.came, image.id));
    let mut plan = Plan::default();
    for image in free {
        let is_forgotten = rule.unused_max.is_some_and(|age| older(image.used, age));
        if wanted == 0 && !is_forgotten {
            continue;
        }
        plan.images.push(image.id);
        for (layer, bytes) in &image.layers {
            let left = users.entry(*layer).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 && !held.contains(layer) {
                wanted = wanted.saturating_sub(*bytes);
            }
        }
    }
    plan.missing = wanted;
    plan
}

/// Zero below the high mark; else what brings the disk to the low one.
fn bytes_to_free(rule: &GcRule, disk: Disk) -> u64 {
    let percent =
        |bytes: u64, percent: u8| u64::try_from(u128::from(bytes) * u128::from(percent) / 100).unwrap_or(bytes);
    let used = disk.capacity.saturating_sub(disk.available);
    if rule.high >= 100 || disk.capacity == 0 || used < percent(disk.capacity, rule.high) {
        return 0;
    }
    used.saturating_sub(percent(disk.capacity, rule.low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layer(n: u8) -> Digest {
        Digest::of(&[n])
    }

    /// An image of layers of 10 bytes, which came at 0.
    fn image(name: &str, layers: &[u8], used: i64) -> Candidate {
        let layers = layers.iter().map(|n| (layer(*n), 10)).collect();
        Candidate { id: Digest::of(name.as_bytes()), layers, came: 0, used, is_kept: false }
    }

    fn planned(disk_used: u64, images: &[Candidate], held: &[u8]) -> (Vec<usize>, u64) {
        let disk = Disk { capacity: 100, available: 100 - disk_used };
        let held = held.iter().map(|n| layer(*n)).collect();
        let plan = plan(&GcRule::default(), disk, images, &held, 1_000_000);
        let at = |id: &Digest| images.iter().position(|image| image.id == *id).unwrap();
        (plan.images.iter().map(at).collect(), plan.missing)
    }

    #[test]
    fn from_the_high_mark_to_the_low_one_the_least_recently_used_go() {
        let images = [image("a", &[1], 30), image("b", &[2], 10), image("c", &[3], 20)];
        assert_eq!(planned(84, &images, &[]), (vec![], 0));
        assert_eq!(planned(85, &images, &[]), (vec![1], 0));
        assert_eq!(planned(95, &images, &[]), (vec![1, 2], 0));
        assert_eq!(planned(100, &images[..1], &[]), (vec![0], 10), "and what is missing is said");
    }

    #[test]
    fn an_image_in_use_pinned_young_or_only_loaded_stays() {
        let kept = Candidate { is_kept: true, ..image("kept", &[1], 0) };
        let young = Candidate { came: 880_001, ..image("young", &[2], 0) };
        assert_eq!(planned(100, &[kept, young.clone()], &[]), (vec![], 20));
        assert_eq!(planned(90, &[Candidate { came: 880_000, ..young }], &[]).0, [0]);
    }

    #[test]
    fn only_layers_that_nothing_else_has_count_as_freed() {
        let images = [image("a", &[1, 2], 10), image("b", &[1, 3], 20), image("c", &[4], 30)];
        // 15 to free: a brings 10 (its layer 1 is b's too), b the rest.
        assert_eq!(planned(95, &images, &[]), (vec![0, 1], 0));
        assert_eq!(planned(95, &images, &[1, 2, 3]), (vec![0, 1, 2], 5), "layers in use stay on the disk");
    }

    #[test]
    fn what_nobody_used_for_long_goes_from_an_empty_disk_too() {
        let rule = GcRule { unused_max: Some(Duration::from_secs(900)), ..GcRule::default() };
        let images = [image("a", &[1], 100_000), image("b", &[2], 100_001)];
        let disk = Disk { capacity: 100, available: 100 };
        assert_eq!(plan(&rule, disk, &images, &HashSet::new(), 1_000_000).images, [images[0].id]);
    }

    proptest! {
        #[test]
        fn no_kept_image_goes_and_no_more_than_need_be(
            used in 0_u64..=100,
            seeds in proptest::collection::vec((proptest::collection::vec(0_u8..12, 0..5), 0_i64..1000, any::<bool>()), 0..10),
        ) {
            let images: Vec<Candidate> = seeds.iter().enumerate().map(|(n, (layers, used, is_kept))| {
                Candidate { is_kept: *is_kept, ..image(&n.to_string(), layers, *used) }
            }).collect();
            let (removed, missing) = planned(used, &images, &[]);
            prop_assert!(removed.iter().all(|at| !images[*at].is_kept));
            prop_assert!(removed.is_sorted_by_key(|at| images[*at].used));
            if used < 85 {
                prop_assert!(removed.is_empty() && missing == 0);
            } else if let Some((_, all_but_last)) = removed.split_last() {
                // Without the last one it would not have been enough.
                let fewer: Vec<Candidate> = images.iter().enumerate().map(|(at, image)| {
                    Candidate { is_kept: image.is_kept || !all_but_last.contains(&at), ..image.clone() }
                }).collect();
                prop_assert!(planned(used, &fewer, &[]).1 > 0);
            }
        }
    }
}
