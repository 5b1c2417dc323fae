//! Which pod has which address. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// What is known of an address that is not free.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Use {
    /// A pod has it.
    Leased,
    /// Its pod is gone, but this link may still answer for it.
    Resting { link: String },
}

/// The addresses of one pod CIDR. The first one is the gateway's, the network's and the broadcast address are nobody's.
///
/// Freed addresses rotate: the search begins behind the last one that was given, so an address comes back as late
/// as possible, and never while the link that had it is there.
#[derive(Debug)]
pub(super) struct Leases {
    cidr: Ipv4Net,
    first: u32,
    count: u32,
    next: u32,
    in_use: BTreeMap<u32, Use>,
}

impl Leases {
    /// Leases of `cidr` with `used` taken; None if the CIDR has no room for a gateway and a pod.
    pub(super) fn new(cidr: Ipv4Net, used: &[Ipv4Addr]) -> Option<Self> {
        if cidr.prefix_len() > 30 {
            return None;
        }
        let network = u32::from(cidr.network());
        let first = network + 2;
        let count = u32::from(cidr.broadcast()) - first;
        let mut leases = Leases { cidr: cidr.trunc(), first, count, next: 0, in_use: BTreeMap::new() };
        for address in used {
            if let Some(slot) = leases.slot(*address) {
                leases.in_use.insert(slot, Use::Leased);
                leases.next = leases.next.max(slot + 1);
            }
        }
        leases.next %= count;
        Some(leases)
    }

    /// The gateway: the first address.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.first - 1)
    }

    /// The range that addresses come from.
    pub(super) fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// Takes the next free address; `is_gone` says whether a link of this name is no longer there.
    pub(super) fn take(&mut self, mut is_gone: impl FnMut(&str) -> bool) -> Option<Ipv4Addr> {
        for step in 0..self.count {
            let slot = (self.next + step) % self.count;
            let free = match self.in_use.get(&slot) {
                None => true,
                Some(Use::Leased) => false,
                Some(Use::Resting { link }) => is_gone(link),
            };
            if free {
                self.in_use.insert(slot, Use::Leased);
                self.next = (slot + 1) % self.count;
                return Some(Ipv4Addr::from(self.first + slot));
            }
        }
        None
    }

    /// Gives `address` back; it rests until `link` is gone. An address that nobody has: no effect.
    pub(super) fn release(&mut self, address: Ipv4Addr, link: &str) {
        if let Some(slot) = self.slot(address)
            && self.in_use.get(&slot) == Some(&Use::Leased)
        {
            self.in_use.insert(slot, Use::Resting { link: link.to_owned() });
        }
    }

    /// Notes that `link`, of no pod that is known, may still answer for `address`.
    pub(super) fn rest(&mut self, address: Ipv4Addr, link: &str) {
        if let Some(slot) = self.slot(address) {
            self.in_use.entry(slot).or_insert_with(|| Use::Resting { link: link.to_owned() });
        }
    }

    fn slot(&self, address: Ipv4Addr) -> Option<u32> {
        u32::from(address).checked_sub(self.first).filter(|slot| *slot < self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn leases(cidr: &str, used: &[&str]) -> Leases {
        let used: Vec<Ipv4Addr> = used.iter().map(|address| address.parse().unwrap()).collect();
        Leases::new(cidr.parse().unwrap(), &used).unwrap()
    }

    #[test]
    fn the_gateway_is_the_first_address_and_pods_follow() {
        let mut leases = leases("10.9.8.0/24", &[]);
        assert_eq!(leases.gateway(), Ipv4Addr::new(10, 9, 8, 1));
        assert_eq!(leases.take(|_| true), Some(Ipv4Addr::new(10, 9, 8, 2)));
        assert_eq!(leases.take(|_| true), Some(Ipv4Addr::new(10, 9, 8, 3)));
    }

    #[test]
    fn every_address_but_three_is_given_once() {
        let mut leases = leases("10.0.0.8/29", &[]);
        let given: Vec<_> = std::iter::from_fn(|| leases.take(|_| true)).collect();
        assert_eq!(given.len(), 5);
        assert_eq!(given.last(), Some(&Ipv4Addr::new(10, 0, 0, 14)));
    }

    #[test]
    fn a_used_address_is_not_given_and_those_outside_are_ignored() {
        let mut leases = leases("10.0.0.0/29", &["10.0.0.2", "10.0.0.3", "192.0.2.1"]);
        let given: Vec<_> = std::iter::from_fn(|| leases.take(|_| true)).collect();
        assert_eq!(given.len(), 3);
        assert!(!given.contains(&Ipv4Addr::new(10, 0, 0, 2)));
    }

    #[test]
    fn a_freed_address_rests_until_its_link_is_gone() {
        let mut leases = leases("10.0.0.0/30", &[]);
        let address = leases.take(|_| true).unwrap();
        leases.release(address, "old");
        assert_eq!(leases.take(|link| link != "old"), None);
        assert_eq!(leases.take(|link| link == "old"), Some(address));
    }

    #[test]
    fn freed_addresses_rotate() {
        let mut leases = leases("10.0.0.0/29", &[]);
        let first = leases.take(|_| true).unwrap();
        leases.release(first, "old");
        assert_ne!(leases.take(|_| true), Some(first));
    }

    #[test]
    fn a_range_without_room_for_a_pod_is_refused() {
        assert!(Leases::new("10.0.0.0/31".parse().unwrap(), &[]).is_none());
        assert!(Leases::new("10.0.0.0/30".parse().unwrap(), &[]).is_some());
    }

    proptest! {
        #[test]
        fn no_address_is_held_twice(steps in proptest::collection::vec(any::<Option<u8>>(), 1..200)) {
            let mut leases = leases("10.0.0.0/27", &[]);
            let mut held: BTreeSet<Ipv4Addr> = BTreeSet::new();
            for step in steps {
                match step {
                    None => if let Some(address) = leases.take(|_| true) { prop_assert!(held.insert(address)); },
                    Some(nth) => if let Some(address) = held.iter().nth(usize::from(nth) % held.len().max(1)).copied() {
                        held.remove(&address);
                        leases.release(address, "x");
                    },
                }
            }
            prop_assert!(held.len() <= 29);
        }
    }
}
