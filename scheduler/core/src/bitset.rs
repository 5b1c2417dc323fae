//! A set of nodes, a bit each.

/// Nodes by their slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bitset {
    words: Vec<u64>,
}

impl Bitset {
    pub(crate) fn insert(&mut self, slot: u32) {
        let (word, bit) = place(slot);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        let (word, bit) = place(slot);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bit;
        }
    }

    pub(crate) fn set(&mut self, slot: u32, holds: bool) {
        if holds {
            self.insert(slot);
        } else {
            self.remove(slot);
        }
    }

    #[inline]
    pub(crate) fn holds(&self, slot: u32) -> bool {
        let (word, bit) = place(slot);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Keeps what is in both.
    pub(crate) fn and(&mut self, other: &Self) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(index).copied().unwrap_or(0);
        }
    }

    /// Takes out what is in `other`.
    pub(crate) fn and_not(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= !other;
        }
    }

    /// Adds what is in `other`.
    pub(crate) fn or(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// In order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let bits = |(index, word): (u32, u64)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    index * 64 + bit
                })
            })
        };
        (0..).zip(self.words.iter().copied()).flat_map(bits)
    }
}

fn place(slot: u32) -> (usize, u64) {
    (slot as usize / 64, 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_combine_across_words() {
        let of = |slots: &[u32]| {
            let mut set = Bitset::default();
            slots.iter().for_each(|slot| set.insert(*slot));
            set
        };
        let (mut both, mut without, mut either) = (of(&[1, 63, 64, 200]), of(&[1, 63, 200]), of(&[1]));
        both.and(&of(&[63, 200]));
        without.and_not(&of(&[63]));
        either.or(&of(&[200]));
        assert_eq!(both.iter().collect::<Vec<_>>(), [63, 200]);
        assert_eq!(without.iter().collect::<Vec<_>>(), [1, 200]);
        assert_eq!((either.len(), either.holds(200), either.holds(64)), (2, true, false));
    }
}
