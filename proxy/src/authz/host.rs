//! Hosts, made comparable: policies see one spelling of each.

use super::values::without_port;

/// A host, perhaps with a port, in lower case and without the dot that may end a full name.
pub fn comparable(host: &str) -> String {
    let mut host = host.to_ascii_lowercase();
    let name = without_port(host.as_bytes()).len();
    if host[..name].ends_with('.') {
        host.remove(name - 1);
    }
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_a_last_dot_make_no_other_host() {
        for (host, same) in [
            ("Orders", "orders"),
            ("orders.example.", "orders.example"),
            ("orders.:8080", "orders:8080"),
            ("orders:8080", "orders:8080"),
            ("[FD00::1]:80", "[fd00::1]:80"),
            ("[fd00::1]", "[fd00::1]"),
            (".", ""),
            ("", ""),
        ] {
            assert_eq!(comparable(host), same, "{host}");
        }
    }
}
