//! Capabilities by name.

/// In the order of their numbers (`linux/capability.h`).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it asks otherwise: containerd's and Docker's set.
pub(crate) const DEFAULT: u64 = 0xa804_25fb;

/// Why a set of capabilities cannot be given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CapabilityError {
    /// A name that is no capability's.
    #[error("{0:?} is not a capability: NET_ADMIN, SYS_TIME and such are, and ALL")]
    Unknown(String),
    /// The kernel lets nobody give what it has not.
    #[error("this runtime does not have the capability {0} itself, and cannot give it")]
    NotHeld(&'static str),
}

/// The names of a set, without `CAP_`.
pub(crate) fn names(set: u64) -> impl Iterator<Item = &'static str> {
    NAMES.iter().enumerate().filter(move |(number, _)| set >> number & 1 == 1).map(|(_, name)| *name)
}

/// The set that `add` and `drop` make of the default one: ALL first, then single ones, `drop` after `add`. ALL and the
/// default are never more than `held`; a single one beyond it is an error.
pub(crate) fn apply(held: u64, add: &[String], drop: &[String]) -> Result<u64, CapabilityError> {
    let mut set = DEFAULT & held;
    if add.iter().any(|name| is_all(name)) {
        set = held;
    }
    if drop.iter().any(|name| is_all(name)) {
        set = 0;
    }
    set = (set | union(add)?) & !union(drop)?;
    check(held, set)
}

/// `set`, if no more than what is held.
pub(crate) fn check(held: u64, set: u64) -> Result<u64, CapabilityError> {
    let missing = NAMES.iter().enumerate().find(|(number, _)| (set & !held) >> number & 1 == 1);
    missing.map_or(Ok(set), |(_, name)| Err(CapabilityError::NotHeld(name)))
}

/// What this process may give to others: its permitted set, of the capabilities that have a name here.
pub(crate) fn held() -> u64 {
    static HELD: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        let set = permitted.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
        set & ((1 << NAMES.len()) - 1)
    });
    *HELD
}

/// The set of these names; ALL counts for nothing here.
pub(crate) fn union(names: &[String]) -> Result<u64, CapabilityError> {
    names.iter().filter(|name| !is_all(name)).try_fold(0, |set, name| Ok(set | 1 << number(name)?))
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL")
}

fn number(name: &str) -> Result<usize, CapabilityError> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).ok_or_else(|| CapabilityError::Unknown(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_and_dropped_capabilities_change_the_default_set() {
        const ALL: u64 = (1 << NAMES.len()) - 1;
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let set = |add: &[&str], drop: &[&str]| apply(ALL, &names(add), &names(drop));
        assert_eq!(set(&[], &[]), Ok(DEFAULT));
        assert_eq!(set(&["cap_sys_time"], &["MKNOD"]), Ok((DEFAULT | 1 << 25) & !(1 << 27)));
        assert_eq!(set(&["NET_BIND_SERVICE"], &["ALL"]), Ok(1 << 10));
        assert_eq!(set(&["ALL"], &["SYS_ADMIN"]), Ok(ALL & !(1 << 21)));
        assert_eq!(set(&["NET_ADMON"], &[]), Err(CapabilityError::Unknown("NET_ADMON".into())));
    }

    #[test]
    fn nothing_is_given_that_the_runtime_does_not_have() {
        let few = DEFAULT & !1;
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(apply(few, &[], &[]), Ok(few));
        assert_eq!(apply(few, &names(&["ALL"]), &[]), Ok(few));
        assert_eq!(apply(few, &names(&["CHOWN"]), &[]), Err(CapabilityError::NotHeld("CHOWN")));
    }
}
