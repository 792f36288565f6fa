//! Tokens that are believed, and those that are not.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::authz::fake::{Signer, jwks, unsigned};
use crate::config;

const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

/// The issuers of `[[jwt]]` tables; `KEYS` stands for a key set.
fn issuers(text: &str, keys: &[Signer]) -> Issuers {
    let text =
        format!("service = 'orders'\n{}", text.replace("KEYS", &format!("{{ inline = '{}' }}", jwks(keys))));
    let snapshot = config::parse("sidecar.toml", &text);
    let snapshot = snapshot.unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
    Issuers::new(&snapshot.jwt, None)
}

const ONE: &str = "[[jwt]]\nname = 'idp'\nissuer = 'https://idp'\njwks = KEYS\n";

fn claims(more: &Value) -> Value {
    let mut claims = json!({"iss": "https://idp", "sub": "alice", "exp": NOW + 300});
    for (key, value) in more.as_object().expect("an object") {
        claims[key] = value.clone();
    }
    claims
}

/// What comes of a token in the usual place.
fn shown(issuers: &Issuers, token: &str) -> Result<ShownToken, TokenError> {
    let headers = [("authorization", format!("Bearer {token}"))];
    ask(issuers, &mut Remembered::default(), &headers, "/").map(|shown| shown.expect("a token is shown"))
}

fn ask(
    issuers: &Issuers,
    remembered: &mut Remembered,
    headers: &[(&'static str, String)],
    uri: &str,
) -> Result<Option<ShownToken>, TokenError> {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect();
    issuers.token(Shown { headers: &headers, uri: &uri.parse().unwrap() }, remembered, now())
}

#[test]
fn a_token_of_each_algorithm_is_believed() {
    let all = [Signer::A, Signer::Ed, Signer::Rsa];
    let issuers = issuers(ONE, &all);
    for signer in all {
        let shown = shown(&issuers, &signer.token(&claims(&json!({})))).unwrap();
        assert_eq!(shown.token.principal.as_deref(), Some("https://idp/alice"), "{signer:?}");
    }
    for algorithm in [Algorithm::RS512, Algorithm::PS256] {
        let token = Signer::Rsa.token_with(algorithm, Some("rsa"), &claims(&json!({})));
        assert!(shown(&issuers, &token).is_ok(), "{algorithm:?}");
    }
    let nameless = Signer::A.token_with(Algorithm::ES256, None, &claims(&json!({})));
    assert!(shown(&issuers, &nameless).is_ok(), "all keys are tried");
}

#[test]
fn a_token_that_is_not_to_be_believed_is_refused_with_its_reason() {
    use TokenError as E;
    let issuers = issuers(&format!("{ONE}audiences = ['orders']\n"), &[Signer::A, Signer::Rsa]);
    let good = claims(&json!({"aud": ["orders", "x"]}));
    let token = Signer::A.token(&good);
    let of = |more: Value| Signer::A.token(&claims(&more));
    let (head, rest) = token.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let forged_body =
        BASE64_URL_SAFE_NO_PAD.encode(claims(&json!({"aud": "orders", "sub": "root"})).to_string());
    let cases = [
        (token.clone(), None),
        (String::new(), Some(E::Malformed)),
        ("a.b".into(), Some(E::Malformed)),
        ("a.b.c".into(), Some(E::Malformed)),
        (format!("{token}.x"), Some(E::Malformed)),
        (format!("{head}.{forged_body}.{signature}"), Some(E::Signature)),
        (format!("{head}.{body}."), Some(E::Signature)),
        (format!("{head}.{body}.{}", &signature[..signature.len() - 6]), Some(E::Signature)),
        (unsigned(&json!({"alg": "none"}), &good), Some(E::Algorithm)),
        (unsigned(&json!({"alg": "ES512", "kid": "a"}), &good), Some(E::Algorithm)),
        (unsigned(&json!({"alg": 7}), &good), Some(E::Malformed)),
        (unsigned(&json!({"typ": "JWT"}), &good), Some(E::Malformed)),
        (unsigned(&json!({"alg": "HS256", "kid": "a"}), &good), Some(E::Algorithm)),
        (unsigned(&json!({"alg": "ES384", "kid": "a"}), &good), Some(E::Algorithm)),
        (unsigned(&json!({"alg": "RS256", "kid": "a"}), &good), Some(E::Algorithm)),
        (unsigned(&json!({"alg": "RS256", "kid": "b"}), &good), Some(E::UnknownKey)),
        (unsigned(&json!({"alg": "ES256", "kid": "a", "crit": ["x"], "x": 1}), &good), Some(E::Extension)),
        (unsigned(&json!({"alg": "ES256", "kid": "a", "b64": false}), &good), Some(E::Extension)),
        (format!("{head}.{body}.~"), Some(E::Malformed)),
        (Signer::B.token(&good), Some(E::UnknownKey)),
        (Signer::B.token_with(Algorithm::ES256, Some("a"), &good), Some(E::Signature)),
        (Signer::B.token_with(Algorithm::ES256, None, &good), Some(E::Signature)),
        (of(json!({"iss": "https://evil", "aud": "orders"})), Some(E::Issuer)),
        (of(json!({"iss": "https://idp/", "aud": "orders"})), Some(E::Issuer)),
        (of(json!({"iss": ["https://idp"], "aud": "orders"})), Some(E::Issuer)),
        (of(json!({})), Some(E::Audience)),
        (of(json!({"aud": "order"})), Some(E::Audience)),
        (of(json!({"aud": "orders"})), None),
        (of(json!({"aud": "orders", "exp": NOW - 59})), None),
        (of(json!({"aud": "orders", "exp": NOW - 61})), Some(E::Expired)),
        (of(json!({"aud": "orders", "nbf": NOW + 59})), None),
        (of(json!({"aud": "orders", "nbf": NOW + 61})), Some(E::NotYet)),
        (of(json!({"aud": "orders", "exp": "never"})), Some(E::Malformed)),
        (of(json!({"aud": "orders", "exp": null})), Some(E::Malformed)),
        ("x".repeat(TOKEN_BYTES + 1), Some(E::TooLong)),
    ];
    for (token, why) in cases {
        assert_eq!(shown(&issuers, &token).err(), why, "{token}");
    }
}

#[test]
fn algorithms_are_the_configurations_choice_and_not_the_tokens() {
    let issuers = issuers(&format!("{ONE}algorithms = ['RS256']\n"), &[Signer::A, Signer::Rsa]);
    assert_eq!(shown(&issuers, &Signer::A.token(&claims(&json!({})))).err(), Some(TokenError::Algorithm));
    assert!(shown(&issuers, &Signer::Rsa.token(&claims(&json!({})))).is_ok());
}

#[test]
fn each_issuer_is_believed_in_its_own_places_only() {
    let text = format!(
        "{ONE}from_headers = [{{ name = 'x-token' }}]\nfrom_params = ['token']\n\
         [[jwt]]\nname = 'other'\nissuer = 'https://other'\njwks = KEYS\n"
    );
    let issuers = issuers(&text, &[Signer::A]);
    let idp = Signer::A.token(&claims(&json!({})));
    let other = Signer::A.token(&claims(&json!({"iss": "https://other"})));
    let ask = |headers: &[(&'static str, String)], uri: &str| {
        let found = ask(&issuers, &mut Remembered::default(), headers, uri)?;
        Ok(found.map(|shown| issuers.name_of(&shown).to_owned()))
    };
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    assert_eq!(ask(&[], "/"), Ok(None));
    assert_eq!(ask(&[("authorization", "Basic YTpi".into())], "/?x=1"), Ok(None));
    assert_eq!(ask(&[("x-token", idp.clone())], "/"), Ok(Some("idp".into())));
    assert_eq!(ask(&[], &format!("/a?b=c&token={idp}")), Ok(Some("idp".into())));
    assert_eq!(ask(&[bearer(&other)], "/"), Ok(Some("other".into())));
    assert_eq!(ask(&[("authorization", format!("bearer {other}"))], "/"), Ok(Some("other".into())));
    assert_eq!(ask(&[bearer(&idp)], "/"), Err(TokenError::Issuer));
    assert_eq!(ask(&[("x-token", other.clone())], "/"), Err(TokenError::Issuer));
    assert_eq!(ask(&[bearer(&other), ("x-token", idp.clone())], "/"), Err(TokenError::Several));
    assert_eq!(ask(&[bearer(&other), bearer(&other)], "/"), Err(TokenError::Several));
    assert_eq!(ask(&[("x-token", idp.clone())], &format!("/?token={idp}")), Err(TokenError::Several));
}

#[test]
fn what_an_app_might_take_for_a_token_is_one_that_cannot_be_read() {
    let text = format!(
        "{ONE}from_headers = [{{ name = 'authorization', prefix = 'Bearer ' }}, {{ name = 'x-token', prefix = '' }}]\n\
         from_params = ['access_token']\n"
    );
    let issuers = issuers(&text, &[Signer::A]);
    let token = Signer::A.token(&claims(&json!({})));
    let ask = |name: &'static str, value: &str, uri: &str| {
        let headers = [(name, value.replace("TOKEN", &token))];
        let asked = ask(&issuers, &mut Remembered::default(), &headers, &uri.replace("TOKEN", &token));
        asked.map(|shown| shown.is_some())
    };
    for value in [
        "Bearer\tTOKEN",
        "bearer \tTOKEN",
        "BEARER",
        "Bearer ",
        "Bearer,TOKEN",
        "Bearer:TOKEN",
        "Bearer TOKEN, Basic YTpi",
        "Basic YTpi, Bearer TOKEN",
        "Basic YTpi,bearer\tTOKEN",
        "Basic YTpi Bearer TOKEN",
        "Bearer Bearer TOKEN",
        "Bearer TOKEN TOKEN",
    ] {
        assert_eq!(ask("authorization", value, "/"), Err(TokenError::Malformed), "{value:?}");
    }
    for (value, is_token) in [
        ("Bearer  TOKEN", true),
        ("bEARER TOKEN", true),
        ("Basic YTpi", false),
        ("Bearers TOKEN", false),
        ("Digest username=\"forbearer\"", false),
    ] {
        assert_eq!(ask("authorization", value, "/"), Ok(is_token), "{value:?}");
    }
    assert_eq!(ask("x_token", "TOKEN", "/"), Err(TokenError::Malformed), "some apps take it for x-token");
    for (query, found) in [
        ("access_token=TOKEN", Ok(true)),
        ("access%5ftoken=TOKEN", Ok(true)),
        ("a=b&%61ccess_token=TOKEN", Ok(true)),
        ("a=b;access_token=TOKEN", Err(TokenError::Malformed)),
        ("access_token=TOKEN;a=b", Err(TokenError::Malformed)),
        ("access_token=%65.x.y", Err(TokenError::Malformed)),
        ("access_token=TOKEN&access%5Ftoken=TOKEN", Err(TokenError::Several)),
        ("access_token=", Ok(false)),
        ("a=access_token;b=c", Ok(false)),
        ("access_tokens=TOKEN", Ok(false)),
    ] {
        assert_eq!(ask("x-other", "a", &format!("/?{query}")), found, "{query}");
    }
}

#[test]
fn only_what_held_the_token_is_removed() {
    let issuers = issuers(
        &format!(
            "{ONE}from_params = ['t%']\nfrom_headers = [{{ name = 'authorization', prefix = 'Bearer ' }}]\n"
        ),
        &[Signer::A],
    );
    let token = Signer::A.token(&claims(&json!({})));
    let mut headers = HeaderMap::new();
    for value in ["Basic YTpi".into(), format!("Bearer {token}"), "Digest x".into()] {
        headers.append("authorization", value.parse().unwrap());
    }
    let prepare = |headers: &mut HeaderMap, uri: &str| {
        let mut uri: Uri = uri.parse().unwrap();
        let shown = issuers.token(Shown { headers, uri: &uri }, &mut Remembered::default(), now()).unwrap();
        issuers.prepare(shown.as_ref(), headers, &mut uri);
        uri.to_string()
    };
    prepare(&mut headers, "/");
    let left: Vec<_> = headers.get_all("authorization").iter().collect();
    assert_eq!(left, ["Basic YTpi", "Digest x"]);
    let mut headers = HeaderMap::new();
    assert_eq!(prepare(&mut headers, &format!("/?t=1&t%25={token}&a%25=2")), "/?t=1&a%25=2");
}

#[test]
fn the_payload_goes_to_the_app_as_it_came() {
    let issuers = issuers(&format!("{ONE}payload_header = 'x-payload'\n"), &[Signer::A]);
    // A library would write neither the number nor the spaces like this.
    let text = r#"{ "iss":"https://idp", "n": 18446744073709551616 }"#;
    let raw: Box<serde_json::value::RawValue> = serde_json::from_str(text).unwrap();
    let token = Signer::A.token_with(Algorithm::ES256, Some("a"), &raw);
    let mut remembered = Remembered::default();
    for _ in 0..2 {
        let shown =
            ask(&issuers, &mut remembered, &[("authorization", format!("Bearer {token}"))], "/").unwrap();
        let mut headers = HeaderMap::new();
        issuers.prepare(shown.as_ref(), &mut headers, &mut Uri::from_static("/"));
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(&headers["x-payload"]).unwrap(), text.as_bytes());
    }
}

#[test]
fn a_token_with_a_claim_twice_cannot_be_read() {
    let issuers = issuers(ONE, &[Signer::A]);
    for text in [
        r#"{"iss":"https://idp","role":"user","role":"admin"}"#,
        r#"{"iss":"https://idp","realm":{"role":"user","role":"admin"}}"#,
        r#"{"iss":"https://evil","iss":"https://idp"}"#,
    ] {
        let raw: Box<serde_json::value::RawValue> = serde_json::from_str(text).unwrap();
        let token = Signer::A.token_with(Algorithm::ES256, Some("a"), &raw);
        assert_eq!(shown(&issuers, &token).err(), Some(TokenError::Malformed), "{text}");
    }
}

#[test]
fn a_signature_is_verified_once_for_each_token_and_set_of_keys() {
    let issuers = issuers(ONE, &[Signer::A]);
    let (mut remembered, token) = (Remembered::default(), Signer::A.token(&claims(&json!({}))));
    let headers = [("authorization", format!("Bearer {token}"))];
    let mut ask = || ask(&issuers, &mut remembered, &headers, "/").map(|shown| shown.unwrap().was_known);
    assert_eq!((ask(), ask(), ask()), (Ok(false), Ok(true), Ok(true)));
    let keys = &issuers.iter().next().unwrap().keys;
    keys.put(Some(KeySet::read(&jwks(&[Signer::A, Signer::B])).unwrap()));
    assert_eq!((ask(), ask()), (Ok(false), Ok(true)), "under other keys it is verified anew");
    keys.put(Some(KeySet::read(&jwks(&[Signer::B])).unwrap()));
    assert_eq!(ask(), Err(TokenError::UnknownKey), "a key that is gone takes its tokens with it");
    keys.put(None);
    assert_eq!(ask(), Err(TokenError::NoKeys));
}

#[test]
fn a_remembered_token_expires_all_the_same() {
    let issuers = issuers(ONE, &[Signer::A]);
    let (mut remembered, token) = (Remembered::default(), Signer::A.token(&claims(&json!({}))));
    let headers =
        HeaderMap::from_iter([(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())]);
    let mut ask = |later| {
        let (uri, now) = (Uri::from_static("/"), now() + Duration::from_secs(later));
        issuers.token(Shown { headers: &headers, uri: &uri }, &mut remembered, now).map(|_| ())
    };
    assert_eq!((ask(0), ask(359), ask(361)), (Ok(()), Ok(()), Err(TokenError::Expired)));
}

#[test]
fn what_is_remembered_is_bounded_and_what_is_in_use_stays() {
    let issuers = issuers(ONE, &[Signer::A]);
    let (mut remembered, token) = (Remembered::default(), Signer::A.token(&claims(&json!({}))));
    let headers = [("authorization", format!("Bearer {token}"))];
    let known = ask(&issuers, &mut remembered, &headers, "/").unwrap().unwrap();
    let keys = issuers.iter().next().unwrap();
    for n in 0..3 * TOKENS_REMEMBERED {
        let filler = Known {
            token: known.token.clone(),
            issuer: 0,
            config: keys.config.clone(),
            keys: keys.keys.set().unwrap(),
            payload: None,
        };
        remembered.put(&n.to_string(), filler);
        assert!(remembered.len() <= TOKENS_REMEMBERED + 1);
        if n % 1000 == 0 {
            assert!(ask(&issuers, &mut remembered, &headers, "/").unwrap().unwrap().was_known, "{n}");
        }
    }
}

#[test]
fn the_app_gets_claims_and_nobody_else_can_say_them() {
    let text = format!(
        "{ONE}from_params = ['token']\npayload_header = 'x-payload'\n\
         claims_to_headers = {{ 'x-sub' = 'sub', 'x-level' = 'level', 'x-role' = 'realm.role', 'x-list' = 'list' }}\n"
    );
    let prepared = |text: &str, in_query: bool, shows: bool| {
        let issuers = issuers(text, &[Signer::A]);
        let token = Signer::A.token(&claims(&json!({"level": 3, "realm": {"role": "r"}, "list": ["a"]})));
        let mut headers = HeaderMap::new();
        for name in ["x-sub", "x-level", "x-payload", "x-list"] {
            headers.insert(name, HeaderValue::from_static("forged"));
        }
        let mut uri: Uri = "/a?b=c".parse().unwrap();
        match (shows, in_query) {
            (false, _) => {}
            (true, true) => uri = format!("/a?token={token}&b=c").parse().unwrap(),
            (true, false) => {
                headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
        }
        let request = Shown { headers: &headers, uri: &uri };
        let shown = issuers.token(request, &mut Remembered::default(), now()).unwrap();
        issuers.prepare(shown.as_ref(), &mut headers, &mut uri);
        let said = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let said = ["x-sub", "x-level", "x-role", "x-list"].map(said);
        let payload = headers.get("x-payload").map(|value| BASE64_URL_SAFE_NO_PAD.decode(value).unwrap());
        let payload = payload.map(|json| serde_json::from_slice::<Value>(&json).unwrap()["sub"].clone());
        (said, payload, uri.to_string().len(), headers.contains_key("authorization"))
    };
    let expected = ["alice", "3", "r"].map(|text| Some(text.to_owned()));
    let [sub, level, role] = expected;
    let claims = [sub, level, role, None];
    let payload = Some(json!("alice"));
    assert_eq!(prepared(&text, false, true), (claims.clone(), payload.clone(), 6, false));
    assert_eq!(prepared(&text, true, true), (claims.clone(), payload.clone(), 6, false));
    assert_eq!(prepared(&text, false, false), ([None, None, None, None], None, 6, false));
    let forward = format!("{text}forward = true\n");
    assert_eq!(prepared(&forward, false, true), (claims.clone(), payload.clone(), 6, true));
    assert!(prepared(&forward, true, true).2 > 100);
}

#[test]
fn a_claim_that_an_app_would_read_otherwise_than_policies_is_no_header() {
    for (claim, header) in [
        (json!("alice"), Some("alice")),
        (json!("a b"), Some("a b")),
        (json!(""), Some("")),
        (json!(true), Some("true")),
        (json!(" alice"), None),
        (json!("alice  "), None),
        (json!("\talice"), None),
        (json!(" "), None),
        (json!("a\r\nb"), None),
        (json!(null), None),
    ] {
        assert_eq!(as_header(&claim), header.map(HeaderValue::from_static), "{claim}");
    }
}

#[test]
fn keys_outlive_a_reload_that_does_not_concern_them() {
    let before = issuers(ONE, &[Signer::A]);
    let config = before.iter().next().unwrap().config.clone();
    let mut changed = JwtProvider::clone(&config);
    changed.audiences.push("x".into());
    let kept = Issuers::new(&[Arc::new(changed.clone())], Some(&before));
    assert!(Arc::ptr_eq(&kept.iter().next().unwrap().keys, &before.iter().next().unwrap().keys));
    changed.issuer.push('/');
    let other = Issuers::new(&[Arc::new(changed)], Some(&before));
    assert!(!Arc::ptr_eq(&other.iter().next().unwrap().keys, &before.iter().next().unwrap().keys));
}

proptest! {
    #[test]
    fn no_text_is_believed_but_a_signed_one(head in "\\PC{0,40}", body in "\\PC{0,60}", signature in "[a-zA-Z0-9_-]{0,90}") {
        let issuers = issuers(ONE, &[Signer::A]);
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        for token in [
            format!("{}.{}.{signature}", part(&head), part(&body)),
            format!("{}.{}.{signature}", part("{\"alg\":\"ES256\",\"kid\":\"a\"}"), part(&body)),
            format!("{}.{}.{signature}", part("{\"alg\":\"ES256\"}"), part("{\"iss\":\"https://idp\"}")),
        ] {
            prop_assert!(shown(&issuers, &token).is_err());
        }
    }
}
