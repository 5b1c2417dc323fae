//! Tables become one program.
//!
//! Call numbers are found by halving, not one after the other: the kernel runs the program once for each call when it
//! is loaded, to learn which it always allows, and that is on the path of every start.

use super::bpf::{
    ARCHITECTURE, IF_AT_LEAST, IF_EQUAL, INSTRUCTIONS_MAX, Instruction, JUMP, LOAD, NUMBER, RETURN, branch, encode,
    plain, rule,
};
use super::profile::{Action, Argument};
use super::rules::{Architecture, Table};

/// A call that the kernel lacks: libraries then fall back to older ones.
const ENOSYS: Action = Action::errno(38);
/// From here on an x86-64 kernel serves the x32 ABI, of which no profile of ours says anything.
const X32: u32 = 0x4000_0000;

/// The program would be longer than the kernel takes.
#[derive(Debug, thiserror::Error)]
#[error("it needs {0} instructions, and the kernel takes {INSTRUCTIONS_MAX}")]
pub(super) struct TooLong(usize);

/// What happens to the calls from one number to the next segment's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    start: u32,
    tests: Vec<(Vec<Argument>, Action)>,
    otherwise: Action,
}

/// The program, as the kernel reads it.
pub(super) fn compile(tables: &[Table]) -> Result<Vec<u8>, TooLong> {
    let list = program(tables);
    if list.len() > INSTRUCTIONS_MAX {
        return Err(TooLong(list.len()));
    }
    Ok(encode(&list))
}

fn program(tables: &[Table]) -> Vec<Instruction> {
    let mut list = vec![plain(LOAD, ARCHITECTURE)];
    for table in tables {
        let mut body = vec![plain(LOAD, NUMBER)];
        body.extend(tree(&segments(table)));
        list.push(branch(IF_EQUAL, table.architecture.audit(), 1, 0));
        list.push(jump(body.len()));
        list.extend(body);
    }
    list.push(plain(RETURN, ENOSYS.0)); // an architecture of which the profile says nothing
    list
}

fn jump(count: usize) -> Instruction {
    plain(JUMP, u32::try_from(count).unwrap_or(u32::MAX)) // too long a program is refused as a whole
}

/// All numbers, in order, neighbours of one fate together.
fn segments(table: &Table) -> Vec<Segment> {
    // What is newer than the profile does not exist, rather than being forbidden.
    let beyond = if table.default.lets_pass() { table.default } else { ENOSYS };
    let plain = |start, otherwise| Segment { start, tests: Vec::new(), otherwise };
    let mut list = Vec::new();
    let mut next = 0;
    for (number, call) in &table.calls {
        if *number > next {
            list.push(plain(next, table.default));
        }
        let otherwise = call.otherwise.unwrap_or(table.default);
        list.push(Segment { start: *number, tests: call.tests.clone(), otherwise });
        next = number + 1;
    }
    if next <= table.highest {
        list.push(plain(next, table.default));
    }
    list.push(plain(table.highest + 1, beyond));
    if table.architecture == Architecture::X86_64 {
        list.push(plain(X32, ENOSYS));
    }
    list.dedup_by(|right, left| right.tests == left.tests && right.otherwise == left.otherwise);
    list
}

/// Finds the segment of the number that is loaded, by halving.
fn tree(segments: &[Segment]) -> Vec<Instruction> {
    let [segment] = segments else {
        let (left, right) = segments.split_at(segments.len() / 2);
        let Some(border) = right.first().map(|it| it.start) else { return Vec::new() };
        let (left, right) = (tree(left), tree(right));
        let mut list = match u8::try_from(left.len()) {
            Ok(length) => vec![branch(IF_AT_LEAST, border, length, 0)],
            Err(_) => vec![branch(IF_AT_LEAST, border, 0, 1), jump(left.len())],
        };
        list.extend(left);
        list.extend(right);
        return list;
    };
    let tests = segment.tests.iter().flat_map(|(arguments, action)| rule(arguments, action.0));
    tests.chain([plain(RETURN, segment.otherwise.0)]).collect()
}

#[cfg(test)]
mod tests {
    use syscalls::x86_64::Sysno;

    use super::super::bpf::run;
    use super::super::profile::Profile;
    use super::super::rules::{Place, resolve};
    use super::*;

    const EPERM: u32 = Action::errno(1).0;
    const ALLOW: u32 = Action::ALLOW.0;
    const X86_64: u32 = 0xc000_003e;
    const X86: u32 = 0x4000_0003;
    const SYS_ADMIN: u64 = 1 << 21;

    fn default(capabilities: u64) -> Vec<Instruction> {
        let profile = Profile::parse(super::super::DEFAULT).unwrap();
        program(&resolve(&profile, &Place { capabilities, kernel: (6, 1) }))
    }

    fn answer(list: &[Instruction], call: Sysno, first: u64) -> u32 {
        run(list, X86_64, u32::try_from(call.id()).unwrap(), [first, 0, 0, 0, 0, 0])
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_default_profile_refuses_what_reaches_deep_into_the_kernel() {
        let list = default(crate::capability::DEFAULT);
        let cases = [
            (Sysno::read, 0, ALLOW),
            (Sysno::ptrace, 0, ALLOW),
            (Sysno::chroot, 0, ALLOW), // SYS_CHROOT is held
            (Sysno::arch_prctl, 0, ALLOW),
            (Sysno::socket, 2, ALLOW),
            (Sysno::socket, 38, EPERM),           // AF_ALG
            (Sysno::socket, 40, EPERM),           // AF_VSOCK
            (Sysno::socket, 1 << 32 | 38, EPERM), // of which the kernel drops the upper half
            (Sysno::clone, 0x0011, ALLOW),
            (Sysno::clone, 0x1000_0000, EPERM), // CLONE_NEWUSER
            (Sysno::clone3, 0, ENOSYS.0),
            (Sysno::unshare, 0, EPERM),
            (Sysno::mount, 0, EPERM),
            (Sysno::fsopen, 0, EPERM),
            (Sysno::bpf, 0, EPERM),
            (Sysno::keyctl, 0, EPERM),
            (Sysno::userfaultfd, 0, EPERM),
            (Sysno::io_uring_setup, 0, EPERM),
            (Sysno::personality, 8, ALLOW),
            (Sysno::personality, 0x0040_0000, EPERM),
        ];
        for (call, first, expected) in cases {
            assert_eq!(answer(&list, call, first), expected, "{call} {first:#x}");
        }
        assert_eq!(run(&list, X86_64, 5000, [0; 6]), ENOSYS.0, "newer than the profile");
        assert_eq!(run(&list, X86_64, X32, [0; 6]), ENOSYS.0, "read, by x32");
        assert_eq!(run(&list, X86, 3, [0; 6]), ALLOW, "read, by a 32-bit program");
        assert_eq!(run(&list, X86, 310, [0; 6]), EPERM, "unshare, by a 32-bit program");
        assert_eq!(run(&list, 0xc000_00b7, 63, [0; 6]), ENOSYS.0, "another machine's");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_capability_that_is_added_opens_its_calls() {
        let list = default(SYS_ADMIN);
        for call in [Sysno::mount, Sysno::unshare, Sysno::clone3, Sysno::bpf, Sysno::sethostname] {
            assert_eq!(answer(&list, call, 0x7e02_0000), ALLOW, "{call}");
        }
        assert_eq!(answer(&list, Sysno::chroot, 0), EPERM);
    }

    /// Every call of every architecture that the machine serves, asked of the program and of the table.
    #[test]
    fn the_program_answers_as_the_table_says() {
        let profile = Profile::parse(super::super::DEFAULT).unwrap();
        let tables = resolve(&profile, &Place { capabilities: 0, kernel: (6, 1) });
        let list = program(&tables);
        for table in &tables {
            for number in 0..=table.highest {
                let call = table.calls.get(&number).cloned().unwrap_or_default();
                if call.tests.is_empty() {
                    let expected = call.otherwise.unwrap_or(table.default);
                    assert_eq!(run(&list, table.architecture.audit(), number, [0; 6]), expected.0, "{number}");
                }
            }
        }
        assert!(list.len() < 1000, "{} instructions", list.len());
    }

    #[test]
    fn a_profile_that_allows_all_else_allows_newer_calls_as_well() {
        let profile = Profile::parse(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#,
        );
        let tables = resolve(&profile.unwrap(), &Place { capabilities: 0, kernel: (6, 1) });
        let list = program(&tables);
        let native = tables[0].architecture.audit();
        assert_eq!(run(&list, native, 5000, [0; 6]), ALLOW);
        assert_eq!(run(&list, native, tables[0].highest, [0; 6]), EPERM);
    }
}
