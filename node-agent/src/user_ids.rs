//! Which users of the node the users of a pod are, where it has its own (`hostUsers: false`).
//!
//! Each such pod has 65,536 ids that nobody else has, users and groups alike: its root is nobody on the node, and
//! neither is it anybody in another pod. They are written to `<pod>/user-ids` before the runtime hears of them, so that
//! a killed agent never gives them twice, and they are free again when that directory is gone.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use fs_err as fs;

/// The ids of a pod, from 0 on: images use no others (Kubernetes, KEP-127).
pub(crate) const IDS_PER_POD: u32 = 1 << 16;

/// The ids of the node that pods may have, as `/etc/subuid` has them: the first, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    first: u32,
    pods: u32,
}

impl FromStr for IdRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(':').and_then(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)));
        let (first, count): (u32, u32) = numbers.ok_or("write the ids as FIRST:COUNT")?;
        if first < IDS_PER_POD || first % IDS_PER_POD != 0 {
            return Err(format!("{first} is no multiple of {IDS_PER_POD}, of which the first is the node's own"));
        }
        if first.checked_add(count).is_none() {
            return Err(format!("there are no {count} ids from {first} on"));
        }
        Ok(Self { first, pods: count / IDS_PER_POD })
    }
}

/// Who has which ids.
#[derive(Debug)]
pub(crate) struct UserIds {
    range: IdRange,
    /// The first id, and the UID of the pod.
    taken: Mutex<BTreeMap<u32, String>>,
}

impl UserIds {
    /// Reads what the pods have whose directories are in `pods`.
    pub(crate) fn open(range: IdRange, pods: &Path) -> io::Result<Self> {
        let mut taken = BTreeMap::new();
        for entry in fs::read_dir(pods)? {
            let entry = entry?;
            let first = read(&entry.path())?;
            taken.extend(first.map(|first| (first, entry.file_name().to_string_lossy().into_owned())));
        }
        Ok(Self { range, taken: Mutex::new(taken) })
    }

    /// The first id of a pod: the one that it has, else one that is free, written down.
    pub(crate) fn of(&self, pod_dir: &Path, uid: &str) -> io::Result<u32> {
        if let Some(first) = read(pod_dir)? {
            return Ok(first);
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all = (0..self.range.pods).map(|index| self.range.first + index * IDS_PER_POD);
        let Some(first) = all.into_iter().find(|first| !taken.contains_key(first)) else {
            return Err(io::Error::other(format!(
                "no user ids of the node are free for a pod with users of its own: {} pods have them (--user-ids)",
                taken.len()
            )));
        };
        write(pod_dir, first)?;
        taken.insert(first, uid.to_owned());
        Ok(first)
    }

    /// The directory of a pod is gone, and nobody has its ids.
    pub(crate) fn release(&self, uid: &str) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, of| of != uid);
    }
}

/// What a pod has; nothing stands in a file that was torn before its first use.
pub(crate) fn read(pod_dir: &Path) -> io::Result<Option<u32>> {
    match fs::read_to_string(pod_dir.join("user-ids")) {
        Ok(text) => Ok(text.strip_suffix('\n').and_then(|first| first.parse().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes down what a pod has.
pub(crate) fn write(pod_dir: &Path, first: u32) -> io::Result<()> {
    fs::create_dir_all(pod_dir)?;
    fs::write(pod_dir.join("user-ids"), format!("{first}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(place: &Path, range: &str) -> UserIds {
        UserIds::open(range.parse().unwrap(), place).unwrap()
    }

    #[test]
    fn no_two_pods_have_the_same_ids_also_after_a_restart() {
        let place = tempfile::tempdir().unwrap();
        let dir = |uid: &str| place.path().join(uid);
        let before = ids(place.path(), "65536:131072");
        assert_eq!(before.of(&dir("a"), "a").unwrap(), 65_536);
        assert_eq!(before.of(&dir("b"), "b").unwrap(), 131_072);
        assert_eq!(before.of(&dir("a"), "a").unwrap(), 65_536);

        let after = ids(place.path(), "65536:131072");
        let error = after.of(&dir("c"), "c").unwrap_err().to_string();
        assert!(error.starts_with("no user ids of the node are free"), "{error}");
        assert_eq!(after.of(&dir("b"), "b").unwrap(), 131_072);
        fs::remove_dir_all(dir("a")).unwrap();
        after.release("a");
        assert_eq!(after.of(&dir("c"), "c").unwrap(), 65_536);
    }

    #[test]
    fn ids_whose_file_was_torn_were_not_used() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("a");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("user-ids"), "1310").unwrap();
        assert_eq!(ids(place.path(), "65536:65536").of(&dir, "a").unwrap(), 65_536);
        assert_eq!(read(&dir).unwrap(), Some(65_536));
    }

    #[test]
    fn a_range_is_of_whole_pods_and_never_the_nodes_own() {
        assert_eq!("131072:65536".parse(), Ok(IdRange { first: 131_072, pods: 1 }));
        for wrong in ["", "65536", "0:65536", "65537:65536", "65536:-1", "4294901760:65536"] {
            assert!(wrong.parse::<IdRange>().is_err(), "{wrong}");
        }
    }
}
