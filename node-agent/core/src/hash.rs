//! The hash of a container: what it covers, when changed, means that the container is restarted.

use podbus_common::model::Container;

/// 32-bit FNV-1a over name and image, in hex, as the annotation `io.kubernetes.container.hash` has it.
///
/// The kubelet covers the same two fields: no other change of a running pod's spec restarts anything.
pub fn container_hash(container: &Container) -> String {
    const OFFSET_BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    // The separator cannot be part of a name.
    let bytes = container.name.bytes().chain([0]).chain(container.image.bytes());
    let hash = bytes.fold(OFFSET_BASIS, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME));
    format!("{hash:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, image: &str) -> Container {
        Container { name: name.into(), image: image.into(), ..Container::default() }
    }

    #[test]
    fn the_hash_changes_with_the_image_and_with_nothing_else() {
        let base = container("web", "busybox:1");
        let with_args = Container { args: vec!["x".into()], ..base.clone() };
        assert_eq!(container_hash(&base), container_hash(&with_args));
        assert_ne!(container_hash(&base), container_hash(&container("web", "busybox:2")));
        assert_ne!(container_hash(&container("a", "bc")), container_hash(&container("ab", "c")));
    }
}
