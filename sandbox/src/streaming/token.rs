//! What URLs stand for, until their clients come: each once, for a while, and not too many.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a URL may be used.
const LIFE: Duration = Duration::from_secs(60);
/// How many URLs may wait for their client.
pub(super) const TOKENS_MAX: usize = 1000;

/// By token.
pub(super) struct Tokens<T> {
    waiting: HashMap<String, (T, Instant)>,
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new() }
    }
}

impl<T> Tokens<T> {
    /// Keeps what `token` stands for; not where too many wait.
    pub(super) fn keep(&mut self, token: String, what: T, now: Instant) -> bool {
        self.waiting.retain(|_, (_, until)| *until > now);
        if self.waiting.len() >= TOKENS_MAX {
            return false;
        }
        self.waiting.insert(token, (what, now + LIFE));
        true
    }

    /// Takes what `token` stands for: nobody gets it a second time, nor too late.
    pub(super) fn take(&mut self, token: &str, now: Instant) -> Option<T> {
        let (what, until) = self.waiting.remove(token)?;
        (until > now).then_some(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_once_and_for_a_minute() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        assert!(tokens.keep("a".into(), 1, now) && tokens.keep("b".into(), 2, now));
        assert_eq!(tokens.take("a", now), Some(1));
        assert_eq!(tokens.take("a", now), None);
        assert_eq!(tokens.take("b", now + LIFE), None);
        assert_eq!(tokens.take("c", now), None);
    }

    #[test]
    fn no_more_than_a_thousand_wait_and_old_ones_make_room() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        for n in 0..TOKENS_MAX {
            assert!(tokens.keep(n.to_string(), n, now));
        }
        assert!(!tokens.keep("more".into(), 0, now));
        assert!(tokens.keep("more".into(), 0, now + LIFE));
    }
}
