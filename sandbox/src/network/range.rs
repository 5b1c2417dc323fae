//! The addresses of a node's pods. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why a text names no ranges.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// Not an address range.
    #[error("{0:?} is not an address range such as 10.85.1.0/24")]
    NotARange(String),
    /// One of each family at most, and IPv4 always.
    #[error("pods need one IPv4 range, and may have one IPv6 range beside it: {0:?}")]
    Families(String),
    /// The second range has fewer addresses than the first.
    #[error("the IPv6 range {v6} has no address for each one of {v4}")]
    TooSmall {
        /// The IPv4 range.
        v4: Ipv4Net,
        /// The IPv6 range.
        v6: Ipv6Net,
    },
}

/// The ranges that pods have their addresses from. `10.85.1.0/24` or `10.85.1.0/24,fd00:85::/64`.
///
/// A pod's IPv6 address has the place in its range that the pod's IPv4 address has in its own: leases are kept for
/// one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
}

impl From<Ipv4Net> for Ranges {
    fn from(v4: Ipv4Net) -> Self {
        Self { v4: v4.trunc(), v6: None }
    }
}

impl FromStr for Ranges {
    type Err = RangesError;

    fn from_str(text: &str) -> Result<Self, RangesError> {
        let (mut v4, mut v6) = (None, None);
        for part in text.split(',').map(str::trim) {
            let is_second = match part.parse().map_err(|_| RangesError::NotARange(part.to_owned()))? {
                IpNet::V4(range) => v4.replace(range.trunc()).is_some(),
                IpNet::V6(range) => v6.replace(range.trunc()).is_some(),
            };
            if is_second {
                return Err(RangesError::Families(text.to_owned()));
            }
        }
        let v4 = v4.ok_or_else(|| RangesError::Families(text.to_owned()))?;
        match v6 {
            Some(v6) if 128 - v6.prefix_len() < 32 - v4.prefix_len() => Err(RangesError::TooSmall { v4, v6 }),
            _ => Ok(Self { v4, v6 }),
        }
    }
}

impl std::fmt::Display for Ranges {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.v4)?;
        self.v6.map_or(Ok(()), |v6| write!(formatter, ",{v6}"))
    }
}

impl Ranges {
    /// The IPv4 range.
    pub fn v4(&self) -> Ipv4Net {
        self.v4
    }

    /// The IPv6 range, where pods have both.
    pub fn v6(&self) -> Option<Ipv6Net> {
        self.v6
    }

    /// The IPv6 address of the pod, or gateway, with this IPv4 address.
    pub fn second(&self, ip: Ipv4Addr) -> Option<Ipv6Addr> {
        let place = u32::from(ip).checked_sub(u32::from(self.v4.network()))?;
        Some(Ipv6Addr::from(u128::from(self.v6?.network()) + u128::from(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_a_pods_place_in_common() {
        let ranges: Ranges = "10.85.1.9/24, fd00:85::7/64".parse().unwrap();
        assert_eq!(ranges.to_string(), "10.85.1.0/24,fd00:85::/64");
        assert_eq!(ranges.second([10, 85, 1, 18].into()), Some("fd00:85::12".parse().unwrap()));
        assert_eq!(ranges.second([10, 85, 0, 18].into()), None);
        let turned: Ranges = "fd00:85::/64,10.85.1.0/24".parse().unwrap();
        assert_eq!(turned, ranges);
        assert_eq!(Ranges::from(ranges.v4()).second([10, 85, 1, 18].into()), None);
    }

    #[test]
    fn what_names_no_ranges_is_refused() {
        for text in ["", "10.0.0.0", "fd00::/64", "10.0.0.0/24,10.1.0.0/24", "10.0.0.0/24,x"] {
            assert!(text.parse::<Ranges>().is_err(), "{text}");
        }
        let error = "10.0.0.0/16,fd00::/120".parse::<Ranges>().unwrap_err();
        assert_eq!(error.to_string(), "the IPv6 range fd00::/120 has no address for each one of 10.0.0.0/16");
    }
}
