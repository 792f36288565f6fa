//! Tokens and key sets of strangers: nothing panics, and whatever is done to a token, what is
//! believed is what its issuer has signed. The first byte says what the rest is: a token, a header
//! and claims without a signature, changes of a good token, a key set, or a whole query.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Uri, uri::PathAndQuery};
use libfuzzer_sys::fuzz_target;
use proxy::authz::Issuers;
use proxy::authz::jwt::{Remembered, Shown};
use proxy::jwk_set::KeySet;

#[path = "../../src/authz/fake.rs"]
mod issuer;

use issuer::{Signer, jwks};

static ISSUERS: LazyLock<Issuers> = LazyLock::new(|| {
    let text = format!(
        "service = 'x'\n[[jwt]]\nname = 'idp'\nissuer = 'https://idp'\nfrom_headers = [{{ name = 'authorization', \
         prefix = 'Bearer ' }}]\nfrom_params = ['token']\npayload_header = 'x-claims'\n\
         claims_to_headers = {{ x-sub = 'sub' }}\njwks.inline = '{}'\n",
        jwks(&[Signer::A, Signer::Ed, Signer::Rsa])
    );
    Issuers::new(&proxy::config::parse("x", &text).expect("a configuration").jwt, None)
});

static GOOD: LazyLock<[String; 3]> = LazyLock::new(|| {
    let claims = serde_json::json!({"iss": "https://idp", "sub": "alice", "exp": 1_800_000_300});
    [Signer::A, Signer::Ed, Signer::Rsa].map(|signer| signer.token(&claims))
});

/// Shows a token, and sees that nothing but the issuer's own word is believed.
fn show(value: Option<HeaderValue>, query: &str) {
    let mut headers = HeaderMap::new();
    if let Some(value) = value {
        headers.insert(AUTHORIZATION, value);
    }
    let Ok(path) = PathAndQuery::try_from(format!("/a?{query}")) else { return };
    let uri = Uri::from(path);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut remembered = Remembered::default();
    for _ in 0..2 {
        let request = Shown { headers: &headers, uri: &uri };
        let Ok(shown) = ISSUERS.token(request, &mut remembered, now) else { return };
        if let Some(shown) = &shown {
            assert_eq!(shown.token.principal.as_deref(), Some("https://idp/alice"));
        }
        let (mut prepared, mut target) = (headers.clone(), uri.clone());
        ISSUERS.prepare(shown.as_ref(), &mut prepared, &mut target);
        assert_eq!(prepared.contains_key("x-sub"), shown.is_some());
        assert_eq!(target.path(), "/a");
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let bearer = |token: &[u8]| HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok();
    match kind % 5 {
        0 => show(bearer(bytes), ""),
        1 => {
            let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            let (head, body) = bytes.split_at(at);
            let [head, body] = [head, body].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
            show(bearer(format!("{head}.{body}.AAAA").as_bytes()), "");
        }
        2 => {
            let Some((which, changes)) = bytes.split_first() else { return };
            let mut token = GOOD[usize::from(which % 3)].clone().into_bytes();
            for change in changes.chunks_exact(3) {
                let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % token.len();
                token[at] = change[2];
            }
            show(bearer(&token), "");
        }
        3 => {
            if let Ok(text) = std::str::from_utf8(bytes) {
                let _ = KeySet::read(text);
            }
        }
        _ => {
            if let Ok(text) = std::str::from_utf8(bytes) {
                show(None, &text.replace("GOOD", &GOOD[0]));
            }
        }
    }
});
