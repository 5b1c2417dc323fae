//! What containers may do with devices.

use podbus_sandbox_linux::device::{MKNOD, READ, Rule, WRITE};

/// In the order in which v1 wants them: make any node, open the harmless ones and terminals.
pub(super) const DEFAULT: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// A rule as v1 writes it, for v2. `None` where it is none.
pub(super) fn parse(text: &str) -> Option<Rule> {
    let mut words = text.split(' ');
    let is_block = match words.next()? {
        "b" => true,
        "c" => false,
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
    let access = words.next()?.chars().try_fold(0, |access, letter| {
        Some(
            access
                | match letter {
                    'm' => MKNOD,
                    'r' => READ,
                    'w' => WRITE,
                    _ => return None,
                },
        )
    })?;
    Some(Rule { is_block, major: number(major)?, minor: number(minor)?, access })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_rule_is_one_for_v2_as_well() {
        assert!(DEFAULT.iter().all(|rule| parse(rule).is_some()));
        let expected = Rule { is_block: false, major: Some(136), minor: None, access: MKNOD | READ | WRITE };
        assert_eq!(parse("c 136:* rwm"), Some(expected));
        assert_eq!([parse("a *:* rwm"), parse("c 1 r"), parse("c 1:x r"), parse("c 1:2 x")], [None; 4]);
    }
}
