//! What is to become of a node's taints. Pure; rules and words are kubectl's.

use std::fmt;

use podbus_common::model::{Taint, TaintEffect};
use podbus_common::validation::names;

use crate::failure::{Failure, Outcome};

/// `gpu=true:NoSchedule`, `gpu-`: no name of a node looks so.
pub(super) fn is_change(word: &str) -> bool {
    word.contains(['=', ':']) || word.ends_with('-')
}

/// What to set and what to take away.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changes {
    set: Vec<Taint>,
    remove: Vec<Removal>,
}

/// Taints to take away: those of a key, and of one effect or of any.
#[derive(Debug, PartialEq, Eq)]
struct Removal {
    key: String,
    effect: Option<TaintEffect>,
}

impl Removal {
    fn takes(&self, taint: &Taint) -> bool {
        taint.key == self.key && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.effect {
            Some(effect) => write!(f, "{}:{}", self.key, effect.as_str()),
            None => f.write_str(&self.key),
        }
    }
}

impl Changes {
    /// Reads `KEY=VALUE:EFFECT`, `KEY:EFFECT`, and with a `-` at the end also `KEY`.
    pub(super) fn parse(words: &[String]) -> Outcome<Self> {
        let mut changes = Self { set: Vec::new(), remove: Vec::new() };
        for word in words {
            let (text, removes) = word.strip_suffix('-').map_or((word.as_str(), false), |text| (text, true));
            let (key, value, effect) = parts(text)?;
            match effect {
                effect if removes => changes.remove.push(Removal { key, effect }),
                Some(effect) => changes.set.push(Taint { key, value, effect, time_added: None }),
                None => return Err(invalid(word, "it has no effect").hint("write it as KEY=VALUE:NoSchedule")),
            }
        }
        for (index, taint) in changes.set.iter().enumerate() {
            if changes.set[..index].iter().any(|other| same(other, taint)) {
                let text = format!("duplicated taints with the same key and effect: {}", shown(taint));
                return Err(Failure::local(text));
            }
            if changes.remove.iter().any(|removal| removal.takes(taint)) {
                let text = format!(
                    "can not both modify and remove the following taint(s) in the same command: {}",
                    shown(taint)
                );
                return Err(Failure::local(text));
            }
        }
        Ok(changes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Makes them in the taints of `node`, and says what it is then: `tainted`, `untainted`, `modified`.
    pub(super) fn make(&self, node: &str, taints: &mut Vec<Taint>, overwrite: bool) -> Outcome<&'static str> {
        let there: Vec<&str> =
            self.set.iter().filter(|new| taints.iter().any(|old| same(old, new))).map(|t| t.key.as_str()).collect();
        if !there.is_empty() && !overwrite {
            let text = format!(
                "node {node} already has {} taint(s) with same effect(s) and --overwrite is false",
                there.join(",")
            );
            return Err(Failure::local(text).hint("--overwrite replaces them"));
        }
        if let Some(missing) = self.remove.iter().find(|removal| !taints.iter().any(|taint| removal.takes(taint))) {
            return Err(Failure::local(format!("taint \"{missing}\" not found")).because(format!("node/{node}")));
        }
        taints.retain(|taint| !self.remove.iter().any(|removal| removal.takes(taint)));
        for new in &self.set {
            match taints.iter_mut().find(|old| same(old, new)) {
                // It keeps its time.
                Some(old) => old.value.clone_from(&new.value),
                None => taints.push(new.clone()),
            }
        }
        let (sets, removes) = (!self.set.is_empty(), !self.remove.is_empty());
        Ok(match (sets, removes) {
            (true, false) if !overwrite => "tainted",
            (false, true) if !overwrite => "untainted",
            _ => "modified",
        })
    }
}

/// A node has one taint of a key and an effect.
fn same(a: &Taint, b: &Taint) -> bool {
    (&a.key, a.effect) == (&b.key, b.effect)
}

fn shown(taint: &Taint) -> String {
    format!("{}={}:{}", taint.key, taint.value, taint.effect.as_str())
}

fn parts(text: &str) -> Outcome<(String, String, Option<TaintEffect>)> {
    let (pair, effect) = match text.split_once(':') {
        Some((pair, effect)) => (pair, Some(self::effect(effect)?)),
        None => (text, None),
    };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    if let Some(why) = names::qualified_name(key).or_else(|| names::label_value(value)) {
        return Err(invalid(text, &why));
    }
    Ok((key.to_owned(), value.to_owned(), effect))
}

fn effect(text: &str) -> Outcome<TaintEffect> {
    let all = [TaintEffect::NoSchedule, TaintEffect::PreferNoSchedule, TaintEffect::NoExecute];
    all.into_iter().find(|effect| effect.as_str() == text).ok_or_else(|| {
        Failure::local(format!("invalid taint effect: {text}, unsupported taint effect"))
            .hint("there are NoSchedule, PreferNoSchedule and NoExecute")
    })
}

fn invalid(text: &str, why: &str) -> Failure {
    Failure::local(format!("invalid taint spec: {text}, {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `a=1:NoSchedule b:NoExecute`: the word, and what is left; or the first line of the message.
    fn made(words: &str, overwrite: bool) -> Result<(&'static str, String), String> {
        let parse = |text: &str| Changes::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let mut taints = parse("a=1:NoSchedule b:NoExecute").unwrap().set;
        let word = parse(words).and_then(|changes| changes.make("n", &mut taints, overwrite));
        let word = word.map_err(|failure| failure.text().lines().next().unwrap_or_default().to_owned())?;
        Ok((word, taints.iter().map(shown).collect::<Vec<_>>().join(" ")))
    }

    #[test]
    fn taints_change_by_the_rules_and_words_of_kubectl() {
        for (words, overwrite, word, left) in [
            ("c=2:NoSchedule", false, "tainted", "a=1:NoSchedule b=:NoExecute c=2:NoSchedule"),
            ("a:NoExecute", false, "tainted", "a=1:NoSchedule b=:NoExecute a=:NoExecute"),
            ("a=2:NoSchedule", true, "modified", "a=2:NoSchedule b=:NoExecute"),
            ("a-", false, "untainted", "b=:NoExecute"),
            ("b:NoExecute-", false, "untainted", "a=1:NoSchedule"),
            ("a=1:NoSchedule- c:PreferNoSchedule", false, "modified", "b=:NoExecute c=:PreferNoSchedule"),
        ] {
            assert_eq!(made(words, overwrite), Ok((word, left.to_owned())), "{words}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_the_words_of_kubectl() {
        for (words, message) in [
            ("a=2:NoSchedule", "error: node n already has a taint(s) with same effect(s) and --overwrite is false"),
            ("c-", "error: taint \"c\" not found"),
            ("a:NoExecute-", "error: taint \"a:NoExecute\" not found"),
            ("c=1", "error: invalid taint spec: c=1, it has no effect"),
            ("c:Never", "error: invalid taint effect: Never, unsupported taint effect"),
            ("c:NoExecute c=1:NoExecute", "error: duplicated taints with the same key and effect: c=1:NoExecute"),
            (
                "c:NoExecute c-",
                "error: can not both modify and remove the following taint(s) in the same command: c=:NoExecute",
            ),
        ] {
            assert_eq!(made(words, false), Err(message.to_owned()), "{words}");
        }
        let text = made("c=a b:NoExecute:x", false).unwrap_err();
        assert!(text.starts_with("error: invalid taint"), "{text}");
    }
}
