//! What a pod takes, by what each of its containers takes.

use crate::model::{Container, PodSpec, RestartPolicy};

/// Its containers and sidecars together, or the most that an init container needs with the sidecars that were started
/// before it (Kubernetes: "Resource sharing within containers").
pub fn of_pod<T: Copy + Default>(
    pod: &PodSpec,
    of: impl Fn(&Container) -> T,
    add: impl Fn(T, T) -> T,
    max: impl Fn(T, T) -> T,
) -> T {
    let (mut sidecars, mut most) = (T::default(), T::default());
    for container in &pod.init_containers {
        let with_it = add(sidecars, of(container));
        most = max(most, with_it);
        if container.restart_policy == Some(RestartPolicy::Always) {
            sidecars = with_it;
        }
    }
    let together = pod.containers.iter().fold(sidecars, |sum, container| add(sum, of(container)));
    max(most, together)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(name: &str) -> Container {
        Container { name: name.into(), ..Container::default() }
    }

    fn sidecar(name: &str) -> Container {
        Container { restart_policy: Some(RestartPolicy::Always), ..init(name) }
    }

    /// Each container takes what its name says.
    fn total(init_containers: Vec<Container>, containers: &[&str]) -> u64 {
        let containers = containers.iter().map(|name| init(name)).collect();
        let pod = PodSpec { init_containers, containers, ..PodSpec::default() };
        of_pod(&pod, |container| container.name.parse::<u64>().unwrap(), u64::saturating_add, u64::max)
    }

    #[test]
    fn a_sidecar_counts_with_the_containers_and_with_the_init_containers_after_it() {
        assert_eq!(total(vec![], &["1", "2"]), 3);
        assert_eq!(total(vec![init("5"), init("4")], &["1", "2"]), 5);
        assert_eq!(total(vec![init("5"), sidecar("2")], &["1"]), 5);
        assert_eq!(total(vec![sidecar("2"), init("5")], &["1"]), 7);
        assert_eq!(total(vec![sidecar("2"), init("1")], &["6"]), 8);
    }
}
