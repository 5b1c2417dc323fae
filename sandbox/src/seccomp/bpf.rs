//! Programs of the kernel's classic packet filter, as seccomp runs them.

use super::profile::{Argument, Operator};

/// The kernel takes no longer program.
pub(super) const INSTRUCTIONS_MAX: usize = 4096;

/// An instruction: on a test, `if_true` and `if_false` are how many to skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) if_true: u8,
    pub(super) if_false: u8,
    pub(super) value: u32,
}

pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_GREATER: u16 = 0x25;
pub(super) const IF_AT_LEAST: u16 = 0x35;
pub(super) const AND: u16 = 0x54;
pub(super) const RETURN: u16 = 0x06;

/// Where the call's number stands among the data of a call.
pub(super) const NUMBER: u32 = 0;
/// Where its architecture stands.
pub(super) const ARCHITECTURE: u32 = 4;
/// Where its six arguments of 64 bits begin.
const ARGUMENTS: u32 = 16;

/// In [`test()`]: to the next test of the rule.
const NEXT: u8 = 0;
/// In [`test()`]: past the rest of the rule. No rule is this long.
const FAIL: u8 = u8::MAX;

pub(super) fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, value }
}

pub(super) fn branch(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, value }
}

/// What returns `action` where all of `arguments` are as they have to be, and goes on behind itself where not.
pub(super) fn rule(arguments: &[Argument], action: u32) -> Vec<Instruction> {
    let mut list: Vec<Instruction> = arguments.iter().flat_map(test).collect();
    list.push(plain(RETURN, action));
    let length = list.len();
    for (at, it) in list.iter_mut().enumerate().filter(|(_, it)| it.code & 7 == 5) {
        let past = u8::try_from(length - at - 1).unwrap_or(FAIL); // six tests of at most seven instructions
        for place in [&mut it.if_true, &mut it.if_false] {
            if *place == FAIL {
                *place = past;
            }
        }
    }
    list
}

/// A test of one argument: its upper half, then, where that does not decide, its lower one.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a number")]
fn test(it: &Argument) -> Vec<Instruction> {
    let low_at = ARGUMENTS + it.index * 8; // both machines are little-endian
    let (high, low) = ((it.value >> 32) as u32, it.value as u32);
    let (load_high, load_low) = (plain(LOAD, low_at + 4), plain(LOAD, low_at));
    // Past the two instructions of the lower half: the test holds.
    const HOLDS: u8 = 2;
    let greater = |last: u16| {
        vec![
            load_high,
            branch(IF_GREATER, high, HOLDS + 1, NEXT),
            branch(IF_EQUAL, high, NEXT, FAIL),
            load_low,
            branch(last, low, NEXT, FAIL),
        ]
    };
    let less = |last: u16| {
        vec![
            load_high,
            branch(IF_GREATER, high, FAIL, NEXT),
            branch(IF_EQUAL, high, NEXT, HOLDS),
            load_low,
            branch(last, low, FAIL, NEXT),
        ]
    };
    match it.op {
        Operator::Equal => {
            vec![load_high, branch(IF_EQUAL, high, NEXT, FAIL), load_low, branch(IF_EQUAL, low, NEXT, FAIL)]
        }
        Operator::NotEqual => {
            vec![load_high, branch(IF_EQUAL, high, NEXT, HOLDS), load_low, branch(IF_EQUAL, low, FAIL, NEXT)]
        }
        Operator::Greater => greater(IF_GREATER),
        Operator::GreaterOrEqual => greater(IF_AT_LEAST),
        Operator::Less => less(IF_AT_LEAST),
        Operator::LessOrEqual => less(IF_GREATER),
        Operator::Masked => vec![
            load_high,
            plain(AND, high),
            branch(IF_EQUAL, (it.value_two >> 32) as u32, NEXT, FAIL),
            load_low,
            plain(AND, low),
            branch(IF_EQUAL, it.value_two as u32, NEXT, FAIL),
        ],
    }
}

/// As the kernel reads it.
pub(super) fn encode(list: &[Instruction]) -> Vec<u8> {
    let bytes = |it: &Instruction| {
        let [c0, c1] = it.code.to_ne_bytes();
        let [v0, v1, v2, v3] = it.value.to_ne_bytes();
        [c0, c1, it.if_true, it.if_false, v0, v1, v2, v3]
    };
    list.iter().flat_map(bytes).collect()
}

/// What a program answers, by running it as the kernel would.
#[cfg(test)]
pub(super) fn run(list: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [number, architecture].map(u32::to_le_bytes).concat();
    data.extend([0; 8]);
    data.extend(arguments.iter().flat_map(|it| it.to_le_bytes()));
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let it = list[at];
        at += 1;
        let holds = match it.code {
            IF_EQUAL => accumulator == it.value,
            IF_GREATER => accumulator > it.value,
            IF_AT_LEAST => accumulator >= it.value,
            _ => false,
        };
        match it.code {
            LOAD => {
                let start = usize::try_from(it.value).unwrap();
                accumulator = u32::from_le_bytes(data[start..start + 4].try_into().unwrap());
            }
            AND => accumulator &= it.value,
            JUMP => at += usize::try_from(it.value).unwrap(),
            RETURN => return it.value,
            _ => at += usize::from(if holds { it.if_true } else { it.if_false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(it: &Argument, actual: u64) -> bool {
        match it.op {
            Operator::Equal => actual == it.value,
            Operator::NotEqual => actual != it.value,
            Operator::Less => actual < it.value,
            Operator::LessOrEqual => actual <= it.value,
            Operator::Greater => actual > it.value,
            Operator::GreaterOrEqual => actual >= it.value,
            Operator::Masked => actual & it.value == it.value_two,
        }
    }

    /// Numbers whose halves are often alike: where comparing them by halves goes wrong.
    fn number() -> impl Strategy<Value = u64> {
        let half = prop_oneof![0_u64..3, Just(0xffff_ffff)];
        (half.clone(), half).prop_map(|(high, low)| high << 32 | low)
    }

    fn argument() -> impl Strategy<Value = Argument> {
        use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Masked, NotEqual};
        let op = prop::sample::select(vec![Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual, Masked]);
        (0_u32..6, number(), number(), op).prop_map(|(index, value, value_two, op)| Argument {
            index,
            value,
            value_two,
            op,
        })
    }

    proptest! {
        #[test]
        fn a_rule_decides_as_its_tests_do(
            tests in prop::collection::vec(argument(), 1..4),
            actual in prop::array::uniform6(number()),
        ) {
            let mut list = rule(&tests, 7);
            list.push(plain(RETURN, 9));
            let all = tests.iter().all(|it| holds(it, actual[usize::try_from(it.index).unwrap()]));
            prop_assert_eq!(run(&list, 0, 0, actual), if all { 7 } else { 9 });
        }
    }
}
