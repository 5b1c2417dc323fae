//! Whether a service lives and is ready, check by check, as the API server of Kubernetes tells it.

use std::fmt::Write as _;

/// Asked again with each request; the error says what is missing, for a person.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks behind one path. All must pass.
#[derive(Default)]
pub struct Checks(Vec<(&'static str, Check)>);

/// An answer: whether it is well, and the words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) passed: bool,
    pub(crate) text: String,
}

impl Checks {
    /// Adds a check.
    pub fn add(&mut self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.push((name, Box::new(check)));
    }

    /// Answers `/PATH?QUERY`: `ok`, or the list of checks where one fails or `verbose` asks for it.
    pub(crate) fn all(&self, path: &str, query: &str) -> Verdict {
        let parameters = || query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let excluded = |name: &str| parameters().any(|(key, value)| key == "exclude" && value == name);
        let (mut passed, mut text) = (true, String::new());
        for (name, check) in &self.0 {
            // Writing to a String cannot fail.
            let _ = match check() {
                _ if excluded(name) => writeln!(text, "[+]{name} excluded: ok"),
                Ok(()) => writeln!(text, "[+]{name} ok"),
                Err(why) => {
                    passed = false;
                    writeln!(text, "[-]{name} failed: {why}")
                }
            };
        }
        if passed && !parameters().any(|(key, _)| key == "verbose") {
            return Verdict { passed, text: "ok".to_owned() };
        }
        text += &format!("{path} check {}\n", if passed { "passed" } else { "failed" });
        Verdict { passed, text }
    }

    /// Answers `/PATH/NAME`; `None`: there is no such check.
    pub(crate) fn one(&self, name: &str) -> Option<Verdict> {
        let (_, check) = self.0.iter().find(|(own, _)| *own == name)?;
        Some(match check() {
            Ok(()) => Verdict { passed: true, text: "ok".to_owned() },
            Err(why) => Verdict { passed: false, text: format!("{name} failed: {why}\n") },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Checks {
        let mut checks = Checks::default();
        checks.add("ping", || Ok(()));
        checks.add("nats", || Err("not connected".to_owned()));
        checks
    }

    #[test]
    fn a_check_that_fails_is_named_with_its_reason() {
        let verdict = checks().all("readyz", "");
        assert!(!verdict.passed);
        assert_eq!(verdict.text, "[+]ping ok\n[-]nats failed: not connected\nreadyz check failed\n");
    }

    #[test]
    fn an_excluded_check_counts_as_passed() {
        assert_eq!(checks().all("readyz", "exclude=nats"), Verdict { passed: true, text: "ok".to_owned() });
        let verbose = checks().all("readyz", "verbose&exclude=nats");
        assert_eq!(verbose.text, "[+]ping ok\n[+]nats excluded: ok\nreadyz check passed\n");
    }

    #[test]
    fn one_check_is_asked_by_its_name() {
        assert!(checks().one("ping").is_some_and(|verdict| verdict.passed));
        assert!(checks().one("nats").is_some_and(|verdict| !verdict.passed));
        assert_eq!(checks().one("disk"), None);
    }
}
