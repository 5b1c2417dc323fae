//! Which devices the processes of a cgroup v2 may use: a program of the kernel decides.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use std::vec::Vec;

use crate::arch::call;
use crate::{Fd, Result};

/// May make a node.
pub const MKNOD: u32 = 1;
/// May open for reading.
pub const READ: u32 = 2;
/// May open for writing.
pub const WRITE: u32 = 4;

/// A device that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A block device, or a character device.
    pub is_block: bool,
    /// `None`: any.
    pub major: Option<u32>,
    /// `None`: any.
    pub minor: Option<u32>,
    /// [`MKNOD`], [`READ`], [`WRITE`].
    pub access: u32,
}

/// An instruction of the kernel's machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

// Registers 2 to 5 hold kind, access, major and minor; 6 is scratch; 1 is the context, 0 the answer.
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

const LOAD_WORD: u8 = 0x61;
const MOVE_VALUE: u8 = 0xb7;
const MOVE_REGISTER_32: u8 = 0xbc;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: u32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, value: value.cast_signed() }
}

/// The program: what no rule allows is refused.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    // The context: kind in the lower half of the first word, access in the upper; major; minor.
    let mut list = std::vec![
        instruction(LOAD_WORD, KIND, 1, 0, 0),
        instruction(MOVE_REGISTER_32, ACCESS, KIND, 0, 0),
        instruction(AND_32, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_32, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, 1, 4, 0),
        instruction(LOAD_WORD, MINOR, 1, 8, 0),
    ];
    for rule in rules {
        // A test that fails jumps over the rest of the rule; offsets are set when its length is known.
        let mut part = std::vec![instruction(JUMP_UNLESS_EQUAL, KIND, 0, 0, if rule.is_block { 1 } else { 2 })];
        part.extend(rule.major.map(|major| instruction(JUMP_UNLESS_EQUAL, MAJOR, 0, 0, major)));
        part.extend(rule.minor.map(|minor| instruction(JUMP_UNLESS_EQUAL, MINOR, 0, 0, minor)));
        part.push(instruction(MOVE_REGISTER_32, SCRATCH, ACCESS, 0, 0));
        part.push(instruction(AND_32, SCRATCH, 0, 0, !rule.access & 0xffff));
        part.push(instruction(JUMP_UNLESS_EQUAL, SCRATCH, 0, 0, 0));
        part.push(instruction(MOVE_VALUE, 0, 0, 0, 1));
        part.push(instruction(EXIT, 0, 0, 0, 0));
        let length = part.len();
        for (at, test) in part.iter_mut().enumerate().filter(|(_, it)| it.code == JUMP_UNLESS_EQUAL) {
            test.offset = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
        }
        list.extend(part);
    }
    list.push(instruction(MOVE_VALUE, 0, 0, 0, 0));
    list.push(instruction(EXIT, 0, 0, 0, 0));
    list
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Lets the processes of the cgroup whose directory is `cgroup` use what `rules` allow, and nothing else. It holds for
/// as long as the cgroup exists, together with what its parents have.
pub fn confine(cgroup: i32, rules: &[Rule]) -> Result<()> {
    const PROGRAM_LOAD: u32 = 5;
    const PROGRAM_ATTACH: u32 = 8;
    const KIND_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let list = program(rules);
    let load = Load {
        kind: KIND_CGROUP_DEVICE,
        count: u32::try_from(list.len()).unwrap_or(u32::MAX),
        instructions: list.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: `load` has the size that is given, and points to `count` instructions and a text that ends in NUL.
    let program = unsafe { call!(SYS_bpf, PROGRAM_LOAD, &raw const load, size_of::<Load>()) }.map(Fd::new)?;
    let attach = Attach {
        target: cgroup.cast_unsigned(),
        program: program.raw().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: `attach` has the size that is given.
    unsafe { call!(SYS_bpf, PROGRAM_ATTACH, &raw const attach, size_of::<Attach>()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, by running it as the kernel would.
    fn run(list: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let it = list[at];
            let (to, from) = (usize::from(it.registers & 15), usize::from(it.registers >> 4));
            let value = u64::from(it.value.cast_unsigned());
            at += 1;
            match it.code {
                LOAD_WORD => registers[to] = context[usize::try_from(it.offset).unwrap() / 4].into(),
                MOVE_VALUE => registers[to] = value,
                MOVE_REGISTER_32 => registers[to] = registers[from] & 0xffff_ffff,
                AND_32 => registers[to] &= value,
                SHIFT_RIGHT_32 => registers[to] >>= value,
                JUMP_UNLESS_EQUAL if registers[to] != value => at += usize::try_from(it.offset).unwrap(),
                JUMP_UNLESS_EQUAL => {}
                EXIT => return registers[0],
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn only_what_a_rule_allows_is_allowed() {
        let rules = [
            Rule { is_block: true, major: None, minor: None, access: MKNOD },
            Rule { is_block: false, major: Some(1), minor: Some(3), access: MKNOD | READ | WRITE },
            Rule { is_block: false, major: Some(136), minor: None, access: READ },
        ];
        let list = program(&rules);
        let cases = [
            // (block, access, major, minor, allowed)
            (true, MKNOD, 8, 0, true),
            (true, READ, 8, 0, false),
            (true, MKNOD | READ, 8, 0, false),
            (false, READ | WRITE, 1, 3, true),
            (false, READ, 1, 1, false),
            (false, READ, 136, 77, true),
            (false, WRITE, 136, 77, false),
        ];
        for (is_block, access, major, minor, allowed) in cases {
            let answer = run(&list, if is_block { 1 } else { 2 }, access, major, minor);
            assert_eq!(answer, u64::from(allowed), "{is_block} {access} {major}:{minor}");
        }
        assert_eq!(run(&program(&[]), 2, READ, 1, 3), 0);
    }
}
