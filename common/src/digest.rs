//! The digest of a node's desired set: the agent sends it with each heartbeat, the leader compares it with its own.

use sha2::{Digest, Sha256};

/// SHA-256 over the pods of a node, sorted by UID: (UID, generation, whether it is being deleted).
///
/// Both sides hold the same set exactly when the digests are equal; the order of `pods` does not matter.
pub fn desired_set<'a>(pods: impl IntoIterator<Item = (&'a str, u64, bool)>) -> [u8; 32] {
    let mut pods: Vec<_> = pods.into_iter().collect();
    pods.sort_unstable();
    let mut hash = Sha256::new();
    for (uid, generation, deleting) in pods {
        hash.update(uid.as_bytes());
        // NUL ends the UID, so that no two sets read alike.
        hash.update([0]);
        hash.update(generation.to_le_bytes());
        hash.update([u8::from(deleting)]);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::desired_set;

    #[test]
    fn the_order_does_not_matter_and_each_part_does() {
        let digest = desired_set([("a", 1, false), ("b", 2, true)]);
        assert_eq!(digest, desired_set([("b", 2, true), ("a", 1, false)]));
        for other in
            [[("a", 1, false), ("b", 2, false)], [("a", 2, false), ("b", 2, true)], [("a", 1, false), ("c", 2, true)]]
        {
            assert_ne!(digest, desired_set(other));
        }
    }
}
