//! The values that an attribute may have, made ready to be compared.

use crate::host::{has_port, name_len};
use ipnet::IpNet;

use super::facts::Facts;
use crate::config::{Attribute, AttributeTest, PathTemplate, ValuePattern};

/// A [`AttributeTest`] that was made ready.
#[derive(Debug)]
pub(super) struct CompiledTest {
    pub(super) attribute: Attribute,
    values: Option<Values>,
    not_values: Option<Values>,
}

/// A list of patterns, by kind.
#[derive(Debug, Default)]
struct Values {
    /// Sorted.
    exact: Vec<Box<[u8]>>,
    prefixes: Vec<Box<[u8]>>,
    suffixes: Vec<Box<[u8]>>,
    /// Hosts without a port, which are meant with any. Sorted.
    hosts: Vec<Box<[u8]>>,
    host_suffixes: Vec<Box<[u8]>>,
    templates: Vec<PathTemplate>,
    networks: Vec<IpNet>,
    ports: Vec<u16>,
    present: bool,
}

impl CompiledTest {
    /// Makes a test ready.
    pub(super) fn new(test: &AttributeTest) -> Self {
        let values = |patterns: &[ValuePattern]| {
            (!patterns.is_empty()).then(|| Values::new(patterns, test.attribute == Attribute::Host))
        };
        let (values, not_values) = (values(&test.values), values(&test.not_values));
        CompiledTest { attribute: test.attribute.clone(), values, not_values }
    }

    /// Whether it holds. What there is not has no value: it is none of those that must be, and none
    /// of those that must not.
    pub(super) fn holds(&self, facts: &Facts<'_>) -> bool {
        self.values.as_ref().is_none_or(|values| values.match_any(&self.attribute, facts))
            && !self.not_values.as_ref().is_some_and(|values| values.match_any(&self.attribute, facts))
    }
}

impl Values {
    fn new(patterns: &[ValuePattern], of_hosts: bool) -> Self {
        let mut values = Values::default();
        for pattern in patterns {
            let bytes = |text: &String| text.as_bytes().into();
            match pattern {
                ValuePattern::Exact(host) if of_hosts && !has_port(host) => values.hosts.push(bytes(host)),
                ValuePattern::Suffix(host) if of_hosts && !has_port(host) => {
                    values.host_suffixes.push(bytes(host))
                }
                ValuePattern::Exact(text) => values.exact.push(bytes(text)),
                ValuePattern::Prefix(text) => values.prefixes.push(bytes(text)),
                ValuePattern::Suffix(text) => values.suffixes.push(bytes(text)),
                ValuePattern::Present => values.present = true,
                ValuePattern::Template(template) => values.templates.push(template.clone()),
                ValuePattern::Network(network) => values.networks.push(*network),
                ValuePattern::Port(port) => values.ports.push(*port),
            }
        }
        values.exact.sort_unstable();
        values.hosts.sort_unstable();
        values
    }

    fn match_any(&self, attribute: &Attribute, facts: &Facts<'_>) -> bool {
        match attribute {
            Attribute::DestinationPort => self.ports.contains(&facts.destination.port()),
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                let address = facts.address(attribute);
                address.is_some_and(|address| self.networks.iter().any(|network| network.contains(&address)))
            }
            _ => facts.any_text(attribute, |text| self.match_text(text)),
        }
    }

    fn match_text(&self, text: &[u8]) -> bool {
        let is_listed = |list: &[Box<[u8]>], text: &[u8]| match list {
            [one] => **one == *text,
            list => list.binary_search_by(|exact| (**exact).cmp(text)).is_ok(),
        };
        (self.present && !text.is_empty())
            || is_listed(&self.exact, text)
            || self.prefixes.iter().any(|prefix| text.starts_with(prefix))
            || self.suffixes.iter().any(|suffix| text.ends_with(suffix))
            || (!self.hosts.is_empty() && is_listed(&self.hosts, &text[..name_len(text)]))
            || self.host_suffixes.iter().any(|suffix| text[..name_len(text)].ends_with(suffix))
            || self
                .templates
                .iter()
                .any(|template| std::str::from_utf8(text).is_ok_and(|text| template.matches(text)))
    }
}
