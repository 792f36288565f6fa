//! Hosts, made comparable: policies see one spelling of each.

/// A host, perhaps with a port, in lower case and without the dot that may end a full name.
pub fn comparable(host: &str) -> String {
    let mut host = host.to_ascii_lowercase();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name.len(),
        _ => host.len(),
    };
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
