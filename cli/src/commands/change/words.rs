//! The words of a verb that changes objects: their names first, then the changes. Pure.

use crate::failure::{Failure, Outcome};

/// Splits the words where the first one `is_change`. `what`: `label`, `taint`.
pub(crate) fn split<'a>(
    words: &'a [String],
    what: &str,
    is_change: fn(&str) -> bool,
) -> Outcome<(&'a [String], &'a [String])> {
    let at = words.iter().position(|word| is_change(word)).unwrap_or(words.len());
    let (names, changes) = words.split_at(at);
    match changes.iter().find(|word| !is_change(word)) {
        Some(name) => Err(Failure::local(format!("all resources must be specified before {what} changes: {name}"))),
        None => Ok((names, changes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_before_changes() {
        let is_change = |word: &str| word.contains('=');
        for (text, expected) in
            [("pod web api a=1 b=", Some((3, 2))), ("pod/web", Some((1, 0))), ("", Some((0, 0))), ("pod a=1 web", None)]
        {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            let found = split(&words, "label", is_change).ok().map(|(names, changes)| (names.len(), changes.len()));
            assert_eq!(found, expected, "{text}");
        }
    }
}
