//! Paths are made comparable before policies see them, and the app gets the path that they saw: a
//! path that a policy reads in one way and the app in another is how policies are passed by.
//!
//! What is done is Envoy's (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`),
//! chosen by the names of Istio's `pathNormalization`. Beyond that, escapes that are none (`%4`,
//! `%zz`) and `%00` are refused, since no two readers agree on them.
//!
//! What it leaves out: the query, of which policies see nothing, and parameters of segments
//! (`;v=1`), which stay what they are.

use std::borrow::Cow;

use http::uri::{PathAndQuery, Uri};

use crate::config::PathNormalization;

/// Why a path has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path has an escape that is none, or %00")]
pub struct BadEscape;

/// The comparable form of `path`. Borrows if that is the path itself, which it usually is.
///
/// # Errors
/// If two readers would read it in two ways.
pub fn normalize(path: &str, how: PathNormalization) -> Result<Cow<'_, str>, BadEscape> {
    if how == PathNormalization::None || !path.starts_with('/') || is_normal(path, how) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path.as_bytes(), how == PathNormalization::DecodeAndMergeSlashes)?;
    let mut normal = without_dots(&decoded);
    if how != PathNormalization::Base {
        normal.dedup_by(|later, earlier| *later == b'/' && *earlier == b'/');
    }
    // What was decoded is ASCII, and everything else stands as it stood.
    Ok(Cow::Owned(String::from_utf8(normal).map_err(|_| BadEscape)?))
}

/// The same for the path of a URI, which is changed if it is not comparable as it is.
///
/// # Errors
/// As [`normalize`].
pub fn normalize_uri(uri: &mut Uri, how: PathNormalization) -> Result<(), BadEscape> {
    let Cow::Owned(path) = normalize(uri.path(), how)? else { return Ok(()) };
    let written = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(written).map_err(|_| BadEscape)?);
    *uri = Uri::from_parts(parts).map_err(|_| BadEscape)?;
    Ok(())
}

/// Whether there is nothing to do, which one look at the bytes tells.
fn is_normal(path: &str, how: PathNormalization) -> bool {
    let mut before = 0;
    for byte in path.bytes() {
        match byte {
            b'%' | b'\\' => return false,
            b'.' if before == b'/' => return false,
            b'/' if before == b'/' && how != PathNormalization::Base => return false,
            _ => before = byte,
        }
    }
    true
}

/// Undoes escapes of unreserved characters (RFC 3986 section 2.3), writes the others with
/// upper-case digits, and makes `/` of `\`.
fn decode(path: &[u8], slashes: bool) -> Result<Vec<u8>, BadEscape> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => decoded.push(b'/'),
            b'%' => {
                let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
                let (high, low) = (digit(bytes.next()), digit(bytes.next()));
                let code = high.zip(low).map(|(high, low)| (high * 16 + low) as u8).ok_or(BadEscape)?;
                match code {
                    0 => return Err(BadEscape),
                    b'/' | b'\\' if slashes => decoded.push(b'/'),
                    b'-' | b'.' | b'_' | b'~' => decoded.push(code),
                    _ if code.is_ascii_alphanumeric() => decoded.push(code),
                    _ => decoded.extend_from_slice(format!("%{code:02X}").as_bytes()),
                }
            }
            _ => decoded.push(*byte),
        }
    }
    Ok(decoded)
}

/// Resolves `.` and `..` (RFC 3986 section 5.2.4). What would lead above the root stays there.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut normal: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    let parent = normal.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    normal.truncate(parent);
                }
                if is_last {
                    normal.push(b'/');
                }
            }
            _ => {
                normal.push(b'/');
                normal.extend_from_slice(segment);
            }
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};

    const ALL: [PathNormalization; 4] = [None, Base, MergeSlashes, DecodeAndMergeSlashes];

    #[test]
    fn a_path_becomes_what_istio_makes_of_it() {
        for (path, none, base, merged, decoded) in [
            ("/", "/", "/", "/", "/"),
            ("/a/b", "/a/b", "/a/b", "/a/b", "/a/b"),
            ("/a/../b", "/a/../b", "/b", "/b", "/b"),
            ("/../../a", "/../../a", "/a", "/a", "/a"),
            ("/a/./b/.", "/a/./b/.", "/a/b/", "/a/b/", "/a/b/"),
            ("/a/..", "/a/..", "/", "/", "/"),
            ("/a/%2e%2E/b", "/a/%2e%2E/b", "/b", "/b", "/b"),
            ("/a//b", "/a//b", "/a//b", "/a/b", "/a/b"),
            ("/a///b//", "/a///b//", "/a///b//", "/a/b/", "/a/b/"),
            ("/a\\b", "/a\\b", "/a/b", "/a/b", "/a/b"),
            ("/a%2fb", "/a%2fb", "/a%2Fb", "/a%2Fb", "/a/b"),
            ("/a%5Cb", "/a%5Cb", "/a%5Cb", "/a%5Cb", "/a/b"),
            ("/a%2f..%2fb", "/a%2f..%2fb", "/a%2F..%2Fb", "/a%2F..%2Fb", "/b"),
            ("/%61dmin", "/%61dmin", "/admin", "/admin", "/admin"),
            ("/a%20b", "/a%20b", "/a%20b", "/a%20b", "/a%20b"),
            ("/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a"),
            ("/.hidden/..a", "/.hidden/..a", "/.hidden/..a", "/.hidden/..a", "/.hidden/..a"),
            ("*", "*", "*", "*", "*"),
            ("", "", "", "", ""),
        ] {
            let found = ALL.map(|how| normalize(path, how).expect("a path").into_owned());
            assert_eq!(found, [none, base, merged, decoded], "{path}");
        }
    }

    #[test]
    fn an_escape_that_is_none_is_refused() {
        for path in ["/%", "/%4", "/a%zz", "/%00", "/%%41", "/a/../%g0"] {
            for how in [Base, MergeSlashes, DecodeAndMergeSlashes] {
                assert_eq!(normalize(path, how), Err(BadEscape), "{path}");
            }
        }
    }

    #[test]
    fn the_app_gets_the_path_that_was_seen_and_its_query() {
        let mut uri: Uri = "http://orders.example/a/../b?x=/../%2e".parse().unwrap();
        normalize_uri(&mut uri, Base).unwrap();
        assert_eq!(uri, "http://orders.example/b?x=/../%2e");
        let mut same: Uri = "/b?c".parse().unwrap();
        normalize_uri(&mut same, Base).unwrap();
        assert_eq!(same, "/b?c");
    }

    proptest! {
        #[test]
        fn what_is_normal_stays_so(path in "/([a-c./%\\\\]|%2e|%2F|%41|%25){0,16}") {
            for how in ALL {
                let Ok(once) = normalize(&path, how) else { continue };
                let again = normalize(&once, how).expect("it was normal");
                prop_assert_eq!(&again, &once);
                if how != None {
                    prop_assert!(once.starts_with('/'));
                    prop_assert!(!once.split('/').any(|segment| segment == ".." || segment == "."), "{}", once);
                }
                if matches!(how, MergeSlashes | DecodeAndMergeSlashes) {
                    prop_assert!(!once.contains("//"), "{}", once);
                }
            }
        }
    }
}
