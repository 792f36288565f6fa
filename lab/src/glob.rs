//! Patterns of names: `orders-*`, `web/sidecar`.

/// Whether `pattern`, in which `*` stands for any characters but `/`, describes all of `text`.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), text.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (Some(pattern), Some(part)) if glob_part(pattern, part) => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

fn glob_part(pattern: &str, text: &str) -> bool {
    let Some((head, mut pattern)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    while let Some((part, rest)) = pattern.split_once('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
        pattern = rest;
    }
    text.ends_with(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("web/sidecar", "web/sidecar", true),
            ("web/sidecar", "web/sidecars", false),
            ("orders-*/app", "orders-12/app", true),
            ("orders-*/app", "orders-/app", true),
            ("orders-*/app", "orders-1/sidecar", false),
            ("*", "fabric", true),
            ("*", "web/app", false),
            ("*", "", true),
            ("*/*", "web/app", true),
            ("web*", "web/app", false),
            ("*/app", "web/app", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
