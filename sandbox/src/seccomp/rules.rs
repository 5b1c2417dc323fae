//! The rules of a profile that hold here, by the numbers that each architecture gives to its calls.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use syscalls::{aarch64, arm, x86, x86_64};

use super::profile::{Action, Argument, Condition, Profile, Rule};

/// Where a container runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// What it may do.
    pub(super) capabilities: u64,
    /// Major and minor version.
    pub(super) kernel: (u32, u32),
}

/// A set of call numbers that this machine's kernel serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    X86_64,
    X86,
    Aarch64,
    Arm,
}

use Architecture::{Aarch64, Arm, X86, X86_64};

impl Architecture {
    /// The machine's own.
    pub(super) const NATIVE: Self = if cfg!(target_arch = "aarch64") { Aarch64 } else { X86_64 };

    /// `AUDIT_ARCH_*`, by which the kernel tells them apart.
    pub(super) fn audit(self) -> u32 {
        match self {
            X86_64 => 0xc000_003e,
            X86 => 0x4000_0003,
            Aarch64 => 0xc000_00b7,
            Arm => 0x4000_0028,
        }
    }

    /// As libseccomp names it.
    fn name(self) -> &'static str {
        match self {
            X86_64 => "SCMP_ARCH_X86_64",
            X86 => "SCMP_ARCH_X86",
            Aarch64 => "SCMP_ARCH_AARCH64",
            Arm => "SCMP_ARCH_ARM",
        }
    }

    fn number(self, name: &str) -> Option<u32> {
        let id = match self {
            X86_64 => x86_64::Sysno::from_str(name).ok()?.id(),
            X86 => x86::Sysno::from_str(name).ok()?.id(),
            Aarch64 => aarch64::Sysno::from_str(name).ok()?.id(),
            Arm => arm::Sysno::from_str(name).ok()?.id(),
        };
        u32::try_from(id).ok()
    }
}

/// A machine's own architecture, and those that it serves beside.
const SERVED: [(Architecture, &str, &[Architecture]); 2] = [(X86_64, "amd64", &[X86]), (Aarch64, "arm64", &[Arm])];

/// What happens to one call: the first test that holds decides, then `otherwise`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) tests: Vec<(Vec<Argument>, Action)>,
    pub(super) otherwise: Option<Action>,
}

/// All that a profile says of one architecture.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) architecture: Architecture,
    pub(super) default: Action,
    pub(super) calls: BTreeMap<u32, Call>,
    /// The highest call that the profile knows, also by rules that do not hold here.
    pub(super) highest: u32,
}

/// The tables of the architectures that this machine serves and the profile knows; its own first.
pub(super) fn resolve(profile: &Profile, place: &Place) -> Vec<Table> {
    resolve_for(profile, place, Architecture::NATIVE)
}

/// Whether a rule holds on this machine.
pub(super) fn holds(rule: &Rule, place: &Place) -> bool {
    let machine = SERVED.iter().find(|(own, ..)| *own == Architecture::NATIVE).map_or("", |(_, machine, _)| machine);
    place.meets(&rule.includes, machine) && !place.is_excluded(&rule.excludes, machine)
}

/// The names of the architectures that this machine serves and the profile knows; its own first.
pub(super) fn architectures(profile: &Profile) -> Vec<&'static str> {
    let beside = SERVED.iter().find(|(own, ..)| *own == Architecture::NATIVE).map_or(&[][..], |(.., beside)| beside);
    let known = beside.iter().filter(|it| profile.architectures.iter().any(|name| name == it.name()));
    std::iter::once(&Architecture::NATIVE).chain(known).map(|it| it.name()).collect()
}

fn resolve_for(profile: &Profile, place: &Place, native: Architecture) -> Vec<Table> {
    let served = SERVED.iter().find(|(own, _, _)| *own == native);
    let (machine, beside) = served.map_or(("", &[][..]), |(_, machine, beside)| (*machine, *beside));
    let known = beside.iter().filter(|it| profile.architectures.iter().any(|name| name == it.name()));
    [native].iter().chain(known).map(|it| table(profile, place, machine, *it)).collect()
}

fn table(profile: &Profile, place: &Place, machine: &str, architecture: Architecture) -> Table {
    let mut table = Table { architecture, default: profile.default, calls: BTreeMap::new(), highest: 0 };
    for rule in &profile.rules {
        let holds = place.meets(&rule.includes, machine) && !place.is_excluded(&rule.excludes, machine);
        for number in rule.names.iter().filter_map(|name| architecture.number(name)) {
            table.highest = table.highest.max(number);
            if holds {
                table.calls.entry(number).or_default().add(&rule.arguments, rule.action);
            }
        }
    }
    table
}

impl Call {
    /// Tests of one argument twice mean either, as runc has it: no argument can be two values.
    fn add(&mut self, arguments: &[Argument], action: Action) {
        let is_twice = |it: &Argument| arguments.iter().filter(|other| other.index == it.index).count() > 1;
        if arguments.is_empty() {
            self.otherwise.get_or_insert(action);
        } else if arguments.iter().any(is_twice) {
            self.tests.extend(arguments.iter().map(|argument| (vec![*argument], action)));
        } else {
            self.tests.push((arguments.to_vec(), action));
        }
    }
}

impl Place {
    fn meets(&self, condition: &Condition, machine: &str) -> bool {
        condition.capabilities.is_none_or(|set| self.capabilities & set == set)
            && (condition.machines.is_empty() || condition.machines.iter().any(|it| it == machine))
            && condition.kernel.is_none_or(|least| self.kernel >= least)
    }

    fn is_excluded(&self, condition: &Condition, machine: &str) -> bool {
        condition.capabilities.is_some_and(|set| self.capabilities & set != 0)
            || condition.machines.iter().any(|it| it == machine)
            || condition.kernel.is_some_and(|least| self.kernel >= least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_knows_the_calls_of_every_machine() {
        let profile = Profile::parse(super::super::DEFAULT).unwrap();
        let place = Place { capabilities: 0, kernel: (6, 1) };
        for (native, expected) in [(X86_64, [X86_64, X86]), (Aarch64, [Aarch64, Arm])] {
            let tables = resolve_for(&profile, &place, native);
            assert_eq!(tables.iter().map(|it| it.architecture).collect::<Vec<_>>(), expected);
            for table in tables {
                assert!(table.calls.len() > 250, "{:?}: {}", table.architecture, table.calls.len());
                let execve = table.architecture.number("execve").unwrap();
                assert_eq!(table.calls[&execve].otherwise, Some(Action::ALLOW));
            }
        }
    }

    #[test]
    fn rules_hold_by_capability_machine_and_kernel() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}}]}"#;
        let profile = Profile::parse(text).unwrap();
        let held = |capabilities, kernel, native| {
            let tables = resolve_for(&profile, &Place { capabilities, kernel }, native);
            let has = |name: &&str| tables[0].calls.contains_key(&native.number(name).unwrap());
            ["mount", "bpf", "chroot", "ptrace"].into_iter().filter(has).collect::<Vec<_>>()
        };
        assert_eq!(held(1 << 21, (5, 0), X86_64), ["mount", "ptrace"]);
        assert_eq!(held(0, (4, 7), Aarch64), ["bpf", "chroot"]);
    }
}
