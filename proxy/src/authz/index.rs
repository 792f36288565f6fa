//! Finds the clauses that a request may match, so that ten thousand policies are not tried one by
//! one.
//!
//! Each clause is filed under the values of one of its tests: the one that it shares with the
//! fewest others. A request's own values then name the few clauses that are worth a look. Texts
//! are found by hash, and what begins or ends with them, and networks, through a sorted list in
//! which each entry knows the longest one that it extends (a Patricia tree laid flat): the last
//! entry that is not above a value leads to all that are a beginning of it. A clause with nothing
//! but `not_` tests is filed nowhere, and always looked at.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;

use ipnet::IpNet;

use super::facts::Facts;
use crate::config::{Attribute, AttributeTest, PathTemplate, ValuePattern};
use crate::host::{has_port, name_len};

/// A map that is the same from run to run. Its keys come from the configuration.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// A position in the list of clauses.
pub(super) type ClauseId = u32;

/// Which clauses may match.
#[derive(Debug, Default)]
pub(super) struct Index {
    attributes: Vec<(Attribute, Filed)>,
    /// Those that are filed nowhere.
    always: Vec<ClauseId>,
}

/// The clauses that are filed under one attribute.
#[derive(Debug, Default)]
struct Filed {
    exact: Map<Box<[u8]>, Vec<ClauseId>>,
    /// Hosts without a port.
    hosts: Map<Box<[u8]>, Vec<ClauseId>>,
    prefixes: Chain<Box<[u8]>>,
    /// Reversed.
    suffixes: Chain<Box<[u8]>>,
    /// The same, of hosts without a port.
    host_suffixes: Chain<Box<[u8]>>,
    networks: Chain<(u128, u8)>,
    ports: Map<u16, Vec<ClauseId>>,
    present: Vec<ClauseId>,
}

/// Under what a pattern is filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'t> {
    Exact(&'t str),
    /// Compared without the port.
    Host(&'t str),
    Prefix(&'t str),
    Suffix(&'t str),
    /// Compared without the port.
    HostSuffix(&'t str),
    /// A template, by what all its paths begin with.
    Template(&'t PathTemplate),
    Network(u128, u8),
    Port(u16),
    Present,
}

impl<'t> Key<'t> {
    fn of(attribute: &Attribute, pattern: &'t ValuePattern) -> Self {
        let without_port = |host: &str| *attribute == Attribute::Host && !has_port(host);
        match pattern {
            ValuePattern::Exact(host) if without_port(host) => Key::Host(host),
            ValuePattern::Suffix(host) if without_port(host) => Key::HostSuffix(host),
            ValuePattern::Exact(text) => Key::Exact(text),
            ValuePattern::Prefix(text) => Key::Prefix(text),
            ValuePattern::Suffix(text) => Key::Suffix(text),
            ValuePattern::Present => Key::Present,
            ValuePattern::Template(template) => Key::Template(template),
            ValuePattern::Network(network) => Key::Network(bits(network.network()), length(network)),
            ValuePattern::Port(port) => Key::Port(*port),
        }
    }
}

/// An address as IPv6 writes it.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn length(network: &IpNet) -> u8 {
    match network {
        IpNet::V4(v4) => v4.prefix_len() + 96,
        IpNet::V6(v6) => v6.prefix_len(),
    }
}

impl Index {
    /// Files clauses, each of which is given by all of its tests.
    pub(super) fn new<'t, C, T>(clauses: C) -> Self
    where
        C: Iterator<Item = T> + Clone,
        T: Iterator<Item = &'t AttributeTest>,
    {
        let mut common: Map<(&Attribute, Key<'_>), u32> = Map::default();
        for test in clauses.clone().flatten() {
            for pattern in &test.values {
                *common.entry((&test.attribute, Key::of(&test.attribute, pattern))).or_default() += 1;
            }
        }
        let mut filing: Vec<(&Attribute, Map<Key<'_>, Vec<ClauseId>>)> = Vec::new();
        let mut always = Vec::new();
        for (id, tests) in (0..).zip(clauses) {
            // How many clauses a request sees that has one of the test's values.
            let crowd = |test: &AttributeTest| {
                let key = |pattern| Key::of(&test.attribute, pattern);
                let seen = |pattern| match key(pattern) {
                    Key::Present => u32::MAX,
                    key => common[&(&test.attribute, key)],
                };
                test.values.iter().map(seen).max().unwrap_or(u32::MAX)
            };
            let Some(test) = tests.filter(|test| !test.values.is_empty()).min_by_key(|test| crowd(test))
            else {
                always.push(id);
                continue;
            };
            let place = match filing.iter().position(|(attribute, _)| **attribute == test.attribute) {
                Some(place) => place,
                None => {
                    filing.push((&test.attribute, Map::default()));
                    filing.len() - 1
                }
            };
            for pattern in &test.values {
                let filed = filing[place].1.entry(Key::of(&test.attribute, pattern)).or_default();
                if filed.last() != Some(&id) {
                    filed.push(id);
                }
            }
        }
        let attributes = filing.into_iter().map(|(attribute, keys)| (attribute.clone(), Filed::new(keys)));
        Index { attributes: attributes.collect(), always }
    }

    /// Calls `look` for each clause that may match, in no order, some of them more than once.
    pub(super) fn candidates(&self, facts: &Facts<'_>, look: &mut impl FnMut(ClauseId)) {
        self.always.iter().for_each(|id| look(*id));
        for (attribute, filed) in &self.attributes {
            filed.candidates(attribute, facts, look);
        }
    }
}

impl Filed {
    fn new(keys: Map<Key<'_>, Vec<ClauseId>>) -> Self {
        let mut filed = Filed::default();
        let (mut prefixes, mut networks) = (Map::<Box<[u8]>, Vec<ClauseId>>::default(), Vec::new());
        let (mut suffixes, mut host_suffixes) = (Vec::new(), Vec::new());
        let bytes = |text: &str| Box::<[u8]>::from(text.as_bytes());
        let reversed = |text: &str| text.bytes().rev().collect::<Box<[u8]>>();
        for (key, ids) in keys {
            match key {
                Key::Exact(text) => drop(filed.exact.insert(bytes(text), ids)),
                Key::Host(text) => drop(filed.hosts.insert(bytes(text), ids)),
                Key::Port(port) => drop(filed.ports.insert(port, ids)),
                Key::Present => filed.present = ids,
                // A template may begin with what another pattern begins with.
                Key::Prefix(text) => prefixes.entry(bytes(text)).or_default().extend(ids),
                Key::Template(template) => {
                    prefixes.entry(bytes(&template.literal_prefix())).or_default().extend(ids);
                }
                Key::Suffix(text) => suffixes.push((reversed(text), ids)),
                Key::HostSuffix(text) => host_suffixes.push((reversed(text), ids)),
                Key::Network(bits, length) => networks.push(((bits, length), ids)),
            }
        }
        filed.prefixes = Chain::new(prefixes.into_iter().collect());
        filed.suffixes = Chain::new(suffixes);
        filed.host_suffixes = Chain::new(host_suffixes);
        filed.networks = Chain::new(networks);
        filed
    }

    fn candidates(&self, attribute: &Attribute, facts: &Facts<'_>, look: &mut impl FnMut(ClauseId)) {
        let mut each = |ids: &[ClauseId]| ids.iter().for_each(|id| look(*id));
        if *attribute == Attribute::DestinationPort {
            return each(self.ports.get(&facts.destination.port()).map_or(&[], Vec::as_slice));
        }
        if let Some(address) = facts.address(attribute) {
            let bits = bits(address);
            let contains = |(network, length): &(u128, u8)| shared(*network, bits) >= u32::from(*length);
            return self.networks.beginnings(|network| network.cmp(&(bits, u8::MAX)), contains, &mut each);
        }
        facts.any_text(attribute, |text| {
            if !self.exact.is_empty() {
                each(self.exact.get(text).map_or(&[], Vec::as_slice));
            }
            if !self.hosts.is_empty() {
                each(self.hosts.get(&text[..name_len(text)]).map_or(&[], Vec::as_slice));
            }
            self.prefixes.beginnings(
                |prefix| (**prefix).cmp(text),
                |prefix| text.starts_with(prefix),
                &mut each,
            );
            self.suffixes.endings(text, &mut each);
            if !self.host_suffixes.entries.is_empty() {
                self.host_suffixes.endings(&text[..name_len(text)], &mut each);
            }
            each(&self.present);
            // The next value, too.
            false
        });
    }
}

/// How many bits two addresses have in common from the left.
fn shared(a: u128, b: u128) -> u32 {
    (a ^ b).leading_zeros()
}

/// Entries in order, each with the longest other one that is a beginning of it.
#[derive(Debug)]
struct Chain<T> {
    entries: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    key: T,
    ids: Vec<ClauseId>,
    extends: Option<u32>,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Chain { entries: Vec::new() }
    }
}

/// Something that may begin with another of its kind.
trait Begins {
    fn begins_with(&self, other: &Self) -> bool;
}

impl Begins for Box<[u8]> {
    fn begins_with(&self, other: &Self) -> bool {
        self.starts_with(other)
    }
}

impl Begins for (u128, u8) {
    fn begins_with(&self, other: &Self) -> bool {
        self.1 >= other.1 && shared(self.0, other.0) >= u32::from(other.1)
    }
}

impl<T: Ord + Begins> Chain<T> {
    fn new(mut entries: Vec<(T, Vec<ClauseId>)>) -> Self {
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut chain = Chain { entries: Vec::with_capacity(entries.len()) };
        for (key, ids) in entries {
            // What the entry before extends, it may extend too; nothing else between them does.
            let mut extends = chain.entries.len().checked_sub(1).map(|last| last as u32);
            while let Some(position) = extends {
                let candidate = &chain.entries[position as usize];
                if key.begins_with(&candidate.key) {
                    break;
                }
                extends = candidate.extends;
            }
            chain.entries.push(Entry { key, ids, extends });
        }
        chain
    }

    /// The clauses of all entries that are a beginning of a value, which `order` compares an entry
    /// with.
    fn beginnings(
        &self,
        order: impl Fn(&T) -> Ordering,
        is_beginning: impl Fn(&T) -> bool,
        each: &mut impl FnMut(&[ClauseId]),
    ) {
        let above = self.entries.partition_point(|entry| order(&entry.key) != Ordering::Greater);
        let mut next = above.checked_sub(1).map(|last| last as u32);
        while let Some(position) = next {
            let entry = &self.entries[position as usize];
            if is_beginning(&entry.key) {
                each(&entry.ids);
            }
            next = entry.extends;
        }
    }
}

impl Chain<Box<[u8]>> {
    /// The clauses of all reversed entries that a text ends with.
    fn endings(&self, text: &[u8], each: &mut impl FnMut(&[ClauseId])) {
        let reversed = || text.iter().rev();
        self.beginnings(
            |suffix| suffix.iter().cmp(reversed()),
            |suffix| suffix.len() <= text.len() && suffix.iter().eq(reversed().take(suffix.len())),
            each,
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(keys: &[&str]) -> Chain<Box<[u8]>> {
        let entries = (0..).zip(keys).map(|(id, key)| (Box::<[u8]>::from(key.as_bytes()), vec![id]));
        Chain::new(entries.collect())
    }

    fn found(chain: &Chain<Box<[u8]>>, value: &str) -> Vec<ClauseId> {
        let mut found = Vec::new();
        let value = value.as_bytes();
        chain
            .beginnings(|key| (**key).cmp(value), |key| value.starts_with(key), &mut |ids| found.extend(ids));
        found.sort_unstable();
        found
    }

    #[test]
    fn each_beginning_of_a_value_is_found_and_nothing_else() {
        let chain = texts(&["/a", "/a/b", "/a/b/c", "/a/c", "/b", "/"]);
        assert_eq!(found(&chain, "/a/b/z"), [0, 1, 5]);
        assert_eq!(found(&chain, "/a/b/c"), [0, 1, 2, 5]);
        assert_eq!(found(&chain, "/c"), [5]);
        assert_eq!(found(&chain, "x"), [] as [ClauseId; 0]);
    }

    #[test]
    fn the_networks_of_an_address_are_found_in_both_families() {
        let networks =
            ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "::/0", "11.0.0.0/8"];
        let entries = (0..).zip(networks).map(|(id, network)| {
            let network: IpNet = network.parse().unwrap();
            ((bits(network.network()), length(&network)), vec![id])
        });
        let chain = Chain::new(entries.collect());
        let found = |address: &str| {
            let (address, mut found) = (bits(address.parse().unwrap()), Vec::<ClauseId>::new());
            chain.beginnings(
                |network: &(u128, u8)| network.cmp(&(address, u8::MAX)),
                |(network, length)| shared(*network, address) >= u32::from(*length),
                &mut |ids| found.extend(ids),
            );
            found.sort_unstable();
            found
        };
        assert_eq!(found("10.1.2.3"), [0, 1, 2, 3, 5]);
        assert_eq!(found("10.1.9.9"), [0, 1, 3, 5]);
        assert_eq!(found("12.0.0.1"), [3, 5]);
        assert_eq!(found("fd00::1"), [4, 5]);
    }

    proptest! {
        #[test]
        fn a_chain_finds_what_a_look_at_each_entry_finds(
            keys in prop::collection::btree_set("[ab]{0,6}", 0..20), value in "[ab]{0,8}",
        ) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let expected: Vec<ClauseId> =
                (0..).zip(&keys).filter(|(_, key)| value.starts_with(**key)).map(|(id, _)| id).collect();
            prop_assert_eq!(found(&texts(&keys), &value), expected);
        }
    }
}
