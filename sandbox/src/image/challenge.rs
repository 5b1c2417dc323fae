//! What a registry wants to know of who asks: the header `WWW-Authenticate` (RFC 9110, section 11), and where one server
//! may lead to another. Pure.

use reqwest::Url;

/// A challenge that podbus can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password.
    Basic,
    /// A token, which the server at `realm` gives out for `service`.
    Bearer { realm: String, service: Option<String> },
}

/// Reads a header, which may have several challenges in it. What is not understood is left out.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(value) => {
                let Some((value, after)) = quoted_or_token(value.trim_start_matches([' ', '\t'])) else { break };
                match found.last_mut() {
                    Some((_, parameters)) => parameters.push((word.to_ascii_lowercase(), value)),
                    None => break, // a parameter of no challenge
                }
                rest = after;
            }
            None => {
                found.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    found.into_iter().filter_map(|(scheme, parameters)| challenge(&scheme, &parameters)).collect()
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer { realm: get("realm")?, service: get("service") }),
        _ => None,
    }
}

/// Splits a token of RFC 9110 off.
fn token(text: &str) -> (&str, &str) {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    text.split_at(text.bytes().position(|byte| !is_part(byte)).unwrap_or(text.len()))
}

fn quoted_or_token(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = token(text);
        return (!word.is_empty()).then(|| (word.to_owned(), rest));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, character) in quoted.char_indices() {
        match character {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '"' if !escaped => return Some((value, &quoted[at + 1..])),
            _ => value.push(character),
        }
        escaped = false;
    }
    None // the quote is never closed
}

/// Fails if a server at `from` may not send us to `to`: out of TLS, or to services that only this machine can reach.
pub(super) fn check_hop(from: &Url, to: &Url) -> Result<(), &'static str> {
    if !matches!(to.scheme(), "http" | "https") {
        return Err("it leads to something that is not HTTP");
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err("it leads from https to http");
    }
    if is_of_this_machine(to) && !is_of_this_machine(from) {
        return Err("it leads to an address of this machine, or of its link");
    }
    Ok(())
}

/// Loopback, link-local (where clouds keep a machine's credentials) and unspecified addresses.
fn is_of_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let v4 = |ip: std::net::Ipv4Addr| ip.is_loopback() || ip.is_link_local() || ip.is_unspecified();
    match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => v4(ip),
        Ok(std::net::IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(v4)
        }
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) }
    }

    #[test]
    fn challenges_are_read_one_by_one() {
        let cases = [
            ("Basic realm=\"x\"", vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                "Bearer realm=\"https://a/token\",service=\"a b\",scope=\"repository:x:pull,push\"",
                vec![bearer("https://a/token", Some("a b"))],
            ),
            ("Bearer realm = https, Basic realm=\"x, y\"", vec![bearer("https", None), Challenge::Basic]),
            ("Negotiate, Bearer realm=\"a\\\"b\"", vec![bearer("a\"b", None)]),
            ("Bearer service=\"a\"", vec![]),
            ("Bearer realm=\"never closed", vec![]),
            ("realm=\"x\"", vec![]),
            ("", vec![]),
        ];
        for (header, expected) in cases {
            assert_eq!(parse(header), expected, "{header}");
        }
    }

    #[test]
    fn a_registry_leads_neither_out_of_tls_nor_to_this_machine() {
        let hop = |from: &str, to: &str| check_hop(&from.parse().unwrap(), &to.parse().unwrap()).is_ok();
        assert!(hop("https://a.example", "https://b.example") && hop("http://a.example", "http://b.example"));
        assert!(hop("http://127.0.0.1:5000", "http://localhost:6000") && hop("http://a.example", "https://a.example"));
        assert!(!hop("https://a.example", "http://a.example"));
        for to in [
            "https://169.254.169.254/",
            "https://[fe80::1]/",
            "https://127.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://localhost/",
            "https://0.0.0.0/",
            "file:///etc/passwd",
        ] {
            assert!(!hop("https://a.example", to), "{to}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(header in any::<String>()) {
            let _ = parse(&header);
        }
    }
}
