//! Names of hosts: what may be one, in a configuration as on the wire.

use hickory_proto::rr::Name;

/// Whether `name` is a host's name as SNI carries it: labels of letters, digits, hyphens and (seen
/// in practice) underscores, in ASCII.
pub fn is_server_name(name: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        (1..=63).contains(&label.len())
            && label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(|b| *b == b'.').all(is_label)
}

/// The name that `text` stands for. Names are absolute: there is no search list.
///
/// # Errors
/// What is wrong with it.
pub fn absolute(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|error| error.to_string())?;
    name.set_fqdn(true);
    if name.is_root() { Err("it names nothing".into()) } else { Ok(name) }
}
