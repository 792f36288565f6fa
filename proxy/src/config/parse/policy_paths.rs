//! Paths of policies that no request can have once it was made comparable
//! (`authorization.path_normalization`): a policy that denies one would deny nothing.

use super::Check;
use crate::config::{PathNormalization, model};

impl Check<'_> {
    pub(super) fn policy_paths(&mut self, given: &model::Authorization, how: PathNormalization) {
        let operations = given.policy.iter().flat_map(|policy| &policy.rule);
        let operations = operations.flat_map(|rule| rule.to.iter().flat_map(|to| to.get_ref()));
        let lists = operations.flat_map(|operation| [&operation.paths, &operation.not_paths]);
        for path in lists.flatten().flat_map(|list| list.get_ref()) {
            if let Some(help) = impossible(path.get_ref(), how) {
                self.diagnostics.add("no path looks like this", path.span(), "never matches").help(help);
            }
        }
    }
}

/// Why no path can match a pattern, as what to do about it.
fn impossible(pattern: &str, how: PathNormalization) -> Option<String> {
    if let Some(odd) = pattern.chars().find(|c| !c.is_ascii_graphic()) {
        let mut bytes = [0; 4];
        let escaped: String =
            odd.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect();
        return Some(format!("clients send {odd:?} as {escaped:?}"));
    }
    if how == PathNormalization::None {
        return None;
    }
    if pattern.contains('\\') {
        return Some("`\\` becomes `/` before paths are compared".into());
    }
    // What stands before the first slash and after the last may be half of a segment, if `*` does.
    let dots = |segment: &str| matches!(segment, "." | "..");
    if pattern.split('/').skip(1).any(dots) {
        return Some("`.` and `..` are resolved before paths are compared".into());
    }
    if how != PathNormalization::Base && pattern.contains("//") {
        return Some("slashes are merged before paths are compared".into());
    }
    pattern.match_indices('%').find_map(|(at, _)| {
        let digits =
            pattern.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(digits) = digits else {
            return Some("`%` begins an escape: write two digits behind it".into());
        };
        let meant = char::from(u8::from_str_radix(digits, 16).unwrap_or_default());
        let slash = how == PathNormalization::DecodeAndMergeSlashes && matches!(meant, '/' | '\\');
        if meant.is_ascii_alphanumeric() || matches!(meant, '-' | '.' | '_' | '~') || slash {
            let meant = if slash { '/' } else { meant };
            return Some(format!(
                "it is decoded before paths are compared: write {meant:?} for \"%{digits}\""
            ));
        }
        let upper = digits.to_ascii_uppercase();
        (upper != digits).then(|| format!("escapes are compared in upper case: write \"%{upper}\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Never};

    #[test]
    fn a_pattern_that_no_path_can_match_is_told_with_what_was_meant() {
        for (pattern, how, help) in [
            ("/a b", Never, Some("%20")),
            ("/caf\u{e9}", Base, Some("%C3%A9")),
            ("/a/../b", Base, Some("resolved")),
            ("/a/..", Base, Some("resolved")),
            ("/a/../b", Never, None),
            ("/a..b/.c/*", Base, None),
            ("*/..b", Base, None),
            ("/%61dmin", Base, Some("write 'a' for \"%61\"")),
            ("/%2f", Base, Some("\"%2F\"")),
            ("/%2F", Base, None),
            ("/%2F", DecodeAndMergeSlashes, Some("write '/'")),
            ("/a%2", Base, Some("two digits")),
            ("/a//b", Base, None),
            ("/a//b", MergeSlashes, Some("merged")),
            ("/a\\b", Base, Some("becomes")),
            ("/a/{*}/b", Base, None),
        ] {
            let told = impossible(pattern, how);
            let fits = match help {
                Some(help) => told.as_ref().is_some_and(|told| told.contains(help)),
                None => told.is_none(),
            };
            assert!(fits, "{pattern} {how:?}: {told:?}");
        }
    }
}
