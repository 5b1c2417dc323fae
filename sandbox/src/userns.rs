//! User namespaces: which ids of the node the ids of a pod are.

use podbus_common_cri::runtime::{IdMapping, NamespaceMode, NamespaceOption};

use crate::process::Invalid;

/// The ids of a pod: those from 0 on, each list as one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// What user 0 of the pod is on the node, and how many there are.
    pub(crate) users: Piece,
    pub(crate) groups: Piece,
}

/// Ids from 0 on, as ids of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Mapping {
    /// What the request asks for; `None`: the node's ids.
    pub(crate) fn of(options: &NamespaceOption) -> Result<Option<Self>, Invalid> {
        let Some(userns) = &options.userns_options else { return Ok(None) };
        match NamespaceMode::try_from(userns.mode) {
            Ok(NamespaceMode::Node) if userns.uids.is_empty() && userns.gids.is_empty() => Ok(None),
            Ok(NamespaceMode::Node) => Err(Invalid("the node's user namespace has no id mappings".to_owned())),
            Ok(NamespaceMode::Pod) => {
                let (users, groups) = (Piece::of("uids", &userns.uids)?, Piece::of("gids", &userns.gids)?);
                Ok(Some(Self { users, groups }))
            }
            _ => Err(Invalid("a user namespace is the pod's or the node's".to_owned())),
        }
    }

    /// A user of the pod, as the node knows it.
    pub(crate) fn on_node(&self, user: u32) -> u32 {
        self.users.first.saturating_add(user)
    }

    /// A pod with ids of its own has no business in namespaces where the node's count.
    pub(crate) fn check_pod(&self, options: &NamespaceOption) -> Result<(), Invalid> {
        let node = NamespaceMode::Node as i32;
        for (name, mode) in [("network", options.network), ("pid", options.pid), ("ipc", options.ipc)] {
            if mode == node {
                return Err(Invalid(format!(
                    "a pod with a user namespace of its own cannot have the node's {name} one"
                )));
            }
        }
        Ok(())
    }

    /// Refuses ids that the pod does not have.
    pub(crate) fn check(
        &self,
        users: impl IntoIterator<Item = i64>,
        groups: impl IntoIterator<Item = i64>,
    ) -> Result<(), Invalid> {
        let missing = |piece: &Piece, id: &i64| u32::try_from(*id).is_ok_and(|id| id >= piece.count);
        let user = users.into_iter().find(|it| missing(&self.users, it));
        let group = groups.into_iter().find(|it| missing(&self.groups, it));
        match (user, group) {
            (None, None) => Ok(()),
            (Some(id), _) => Err(Invalid(format!("the pod's user namespace has no user {id}"))),
            (_, Some(id)) => Err(Invalid(format!("the pod's user namespace has no group {id}"))),
        }
    }

    /// Refuses mappings of a mount that are not the pod's.
    pub(crate) fn check_mount(&self, users: &[IdMapping], groups: &[IdMapping]) -> Result<(), Invalid> {
        if Piece::of("uidMappings", users)? == self.users && Piece::of("gidMappings", groups)? == self.groups {
            return Ok(());
        }
        Err(Invalid("the id mappings of the mount are not those of its pod".to_owned()))
    }
}

impl Piece {
    /// The line of `uid_map` or `gid_map`.
    pub(crate) fn line(&self) -> String {
        format!("0 {} {}", self.first, self.count)
    }

    /// Exactly one mapping, which begins with 0: as every runtime has it.
    fn of(name: &str, list: &[IdMapping]) -> Result<Self, Invalid> {
        let [one] = list else {
            return Err(Invalid(format!("{name} of a user namespace has {} mappings, not one", list.len())));
        };
        if one.container_id != 0 {
            return Err(Invalid(format!("{name} of a user namespace does not map the container's id 0")));
        }
        let end = one.host_id.checked_add(one.length).filter(|end| *end < u32::MAX && one.length > 0);
        end.ok_or_else(|| Invalid(format!("{name} of a user namespace maps no ids, or some that there are not")))?;
        if one.host_id == 0 {
            return Err(Invalid(format!("{name} of a user namespace would make the pod's root the node's")));
        }
        Ok(Self { first: one.host_id, count: one.length })
    }
}

#[cfg(test)]
mod tests {
    use podbus_common_cri::runtime::UserNamespace;

    use super::*;

    fn piece(host_id: u32, container_id: u32, length: u32) -> IdMapping {
        IdMapping { host_id, container_id, length }
    }

    fn mapping(mode: NamespaceMode, uids: &[IdMapping], gids: &[IdMapping]) -> Result<Option<Mapping>, Invalid> {
        let userns = UserNamespace { mode: mode.into(), uids: uids.to_vec(), gids: gids.to_vec() };
        Mapping::of(&NamespaceOption { userns_options: Some(userns), ..Default::default() })
    }

    #[test]
    fn one_mapping_from_zero_is_taken_and_no_other() {
        use NamespaceMode::{Container, Node, Pod, Target};
        let good = [piece(1000, 0, 100_000)];
        let expected = Piece { first: 1000, count: 100_000 };
        assert_eq!(mapping(Pod, &good, &good), Ok(Some(Mapping { users: expected, groups: expected })));
        assert_eq!(mapping(Node, &[], &[]), Ok(None));
        let bad = [
            mapping(Node, &good, &good),
            mapping(Pod, &good, &[]),
            mapping(Pod, &[good[0], piece(200_000, 100_000, 10)], &good),
            mapping(Pod, &[piece(1000, 1, 10)], &good),
            mapping(Pod, &[piece(0, 0, 10)], &good),
            mapping(Pod, &[piece(1000, 0, 0)], &good),
            mapping(Pod, &[piece(u32::MAX, 0, 10)], &good),
            mapping(Container, &good, &good),
            mapping(Target, &good, &good),
        ];
        for (at, case) in bad.iter().enumerate() {
            assert!(case.is_err(), "{at}: {case:?}");
        }
    }

    #[test]
    fn ids_outside_of_the_mapping_are_refused() {
        let piece = Piece { first: 1000, count: 10 };
        let mapping = Mapping { users: piece, groups: piece };
        assert!(mapping.check([0, 9], [9]).is_ok());
        assert!(mapping.check([10], []).is_err());
        assert!(mapping.check([], [10]).is_err());
    }
}
