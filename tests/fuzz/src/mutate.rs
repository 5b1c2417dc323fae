//! From a seed to an input: a sample with a few faults, as bad disks, old programs and attackers make them.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _};

/// Beyond what any sample grows to by itself; keeps a run fast.
const INPUT_BYTES_MAX: usize = 64 << 10;
const FAULTS_MAX: usize = 8;
/// Where readers count wrong.
const NUMBERS: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff];

/// Makes an input. Most are a sample with up to [`FAULTS_MAX`] faults; some are words of the format in any order, and
/// a few are noise.
pub(crate) fn input(random: &mut StdRng, samples: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut input = match random.random_range(0..16) {
        0 => noise(random, 512),
        1 => (0..random.random_range(0..40)).filter_map(|_| words.choose(random)).copied().flatten().copied().collect(),
        _ => samples.choose(random).cloned().unwrap_or_default(),
    };
    for _ in 0..random.random_range(0..=FAULTS_MAX) {
        add_fault(random, &mut input, samples, words);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn add_fault(random: &mut StdRng, input: &mut Vec<u8>, samples: &[Vec<u8>], words: &[&[u8]]) {
    let at = random.random_range(0..=input.len());
    let until = (at + random.random_range(0..=64)).min(input.len());
    match random.random_range(0..10) {
        0 => flip_a_bit(random, input),
        1 => overwrite(input, at, &[random.random()]),
        2 => overwrite(input, at, &number(random)),
        3 => overwrite(input, at, words.choose(random).copied().unwrap_or_default()),
        4 => insert(input, at, words.choose(random).copied().unwrap_or_default()),
        5 => insert(input, at, &noise(random, 16)),
        6 => {
            let again = input[at..until].to_vec();
            insert(input, at, &again);
        }
        7 => drop(input.drain(at..until)),
        8 => input.truncate(at),
        _ => {
            // What another sample ends with.
            let other = samples.choose(random).map_or(&[][..], Vec::as_slice);
            input.truncate(at);
            input.extend_from_slice(&other[random.random_range(0..=other.len())..]);
        }
    }
}

fn flip_a_bit(random: &mut StdRng, input: &mut [u8]) {
    if !input.is_empty() {
        let at = random.random_range(0..input.len());
        input[at] ^= 1 << random.random_range(0..8);
    }
}

fn overwrite(input: &mut [u8], at: usize, bytes: &[u8]) {
    input[at..].iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

/// A number of 1, 2, 4 or 8 bytes at the edge of what these hold, or beside it, in either order of bytes.
fn number(random: &mut StdRng) -> Vec<u8> {
    let number =
        NUMBERS.choose(random).copied().unwrap_or_default().wrapping_add(random.random_range(0..3)).wrapping_sub(1);
    let size = 1 << random.random_range(0..4);
    match random.random() {
        true => number.to_le_bytes()[..size].to_vec(),
        false => number.to_be_bytes()[8 - size..].to_vec(),
    }
}

fn noise(random: &mut StdRng, bytes_max: usize) -> Vec<u8> {
    let mut noise = vec![0; random.random_range(0..=bytes_max)];
    random.fill_bytes(&mut noise);
    noise
}
