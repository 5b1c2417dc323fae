//! Randomness from a seed: the same inputs with the same seed give the same outputs.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// For UIDs and generated names.
#[derive(Debug)]
pub(crate) struct Random(StdRng);

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self(StdRng::from_seed(seed))
    }

    /// A UID that was never given before.
    pub(crate) fn uid(&mut self) -> String {
        let mut bytes = [0; 16];
        self.0.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// Any number, for the letters of a generated name.
    pub(crate) fn number(&mut self) -> usize {
        usize::try_from(self.0.next_u32()).unwrap_or(0)
    }
}
