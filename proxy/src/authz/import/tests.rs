use super::*;
use crate::config::Snapshot;

fn imported(text: &str, labels: &[(&str, &str)]) -> Imported {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let options = ImportOptions { labels: Some(labels), trust_domain: Some("td".into()), namespace: None };
    import(text, &options).unwrap()
}

fn read(toml: &str) -> Snapshot {
    let text =
        format!("service = 'x'\n[[authorization.provider]]\nname = 'opa'\naddress = '10.0.0.1:80'\n{toml}");
    config::parse("x", &text).unwrap_or_else(|error| panic!("{text}\n{:?}", miette::Report::new(error)))
}

const BOOKINFO: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: httpbin
  namespace: foo
spec:
  selector:
    matchLabels:
      app: httpbin
      version: v1
  action: DENY
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/default/sa/curl", "other/ns/a/sa/b"]
        serviceAccounts: ["web", "bar/web"]
    - source:
        notIpBlocks: ["10.0.0.0/8"]
    to:
    - operation:
        methods: ["GET"]
        paths: ["/info*", "/a/{*}/b"]
        ports: ["8080", 9090]
    when:
    - key: request.auth.claims[iss]
      values: ["https://accounts.google.com"]
    - key: source.principal
      notValues: ["cluster.local/ns/x/sa/y"]
  - {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: allow-nothing, annotations: { "istio.io/dry-run": "true" } }
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ext }
spec:
  action: CUSTOM
  provider: { name: opa }
  rules: [{ to: [{ operation: { paths: ["/pay"] } }] }]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: jwt, namespace: foo }
spec:
  jwtRules:
  - issuer: "testing@secure.istio.io"
    audiences: [a]
    jwksUri: "http://idp.example/keys"
    timeout: 3s
    outputClaimToHeaders: [{ header: x-sub, claim: sub }]
  - issuer: "other"
    audiences: []
    jwks: '{"keys":[{"kty":"EC","crv":"P-256","x":"OCZDfwE6PSPSfUsFfQCB8DkekB27uFBaONSn0-mpgOU","y":"WynmvHaUCVlgDOt98ZWBZxyxWO63E3V5wavaAo2AZFU"}]}'
    fromHeaders: [{ name: x-jwt, prefix: "Token " }]
    fromParams: [t]
    forwardOriginalToken: true
"#;

#[test]
fn istios_policies_become_ours() {
    let imported = imported(BOOKINFO, &[("app", "httpbin"), ("version", "v1"), ("other", "x")]);
    assert!(imported.is_whole());
    let remarks: Vec<_> = imported.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(remarks, ["42: describe the external authorizer opa in [[authorization.provider]]"]);
    let snapshot = read(&imported.toml);
    let expected = read(
        r#"
[[authorization.policy]]
name = "foo/httpbin"
action = "deny"
[[authorization.policy.rule]]
from = [{ principals = ["td/ns/default/sa/curl", "other/ns/a/sa/b"], service_accounts = ["foo/web", "bar/web"] }, { not_ip_blocks = ["10.0.0.0/8"] }]
to = [{ methods = ["GET"], paths = ["/info*", "/a/{*}/b"], ports = [8080, 9090] }]
when = [
  { key = "request.auth.claims[iss]", values = ["https://accounts.google.com"] },
  { key = "source.principal", not_values = ["td/ns/x/sa/y"] },
]
[[authorization.policy.rule]]
[[authorization.policy]]
name = "allow-nothing"
dry_run = true
[[authorization.policy]]
name = "ext"
action = "custom"
provider = "opa"
[[authorization.policy.rule]]
to = [{ paths = ["/pay"] }]
[[jwt]]
name = "foo/jwt"
issuer = "testing@secure.istio.io"
audiences = ["a"]
jwks = { url = "http://idp.example/keys", timeout = "3s" }
from_params = ["access_token"]
claims_to_headers = { x-sub = "sub" }
[[jwt]]
name = "foo/jwt-2"
issuer = "other"
jwks = { inline = '{"keys":[{"kty":"EC","crv":"P-256","x":"OCZDfwE6PSPSfUsFfQCB8DkekB27uFBaONSn0-mpgOU","y":"WynmvHaUCVlgDOt98ZWBZxyxWO63E3V5wavaAo2AZFU"}]}' }
from_headers = [{ name = "x-jwt", prefix = "Token " }]
from_params = ["t"]
forward = true
"#,
    );
    assert_eq!(snapshot.authorization, expected.authorization);
    assert_eq!(snapshot.jwt, expected.jwt);
}

#[test]
fn policies_for_other_workloads_are_passed_over_and_named() {
    let one = "kind: AuthorizationPolicy\nmetadata: { name: a }\nspec:\n  selector:\n    matchLabels: { app: web }\n";
    let other = imported(one, &[("app", "orders")]);
    assert_eq!((other.toml.as_str(), other.is_whole()), ("", true));
    assert_eq!(other.remarks[0].to_string(), "5: a is for workloads with app=web, and not for this one");
    let unknown = import(one, &ImportOptions::default()).unwrap();
    assert!(
        unknown.toml.contains("name = \"a\"")
            && unknown.remarks[0].message.contains("taken to be for this one")
    );
}

#[test]
fn policies_of_other_namespaces_are_passed_over_or_there_is_a_question() {
    let of = |namespace: &str| {
        format!(
            "kind: AuthorizationPolicy\nmetadata: {{ name: in-{namespace}, namespace: {namespace} }}\n---\n"
        )
    };
    let all = format!("{}{}{}", of("istio-system"), of("foo"), of("bar"));
    let unasked = imported(&all, &[]);
    assert!(!unasked.is_whole());
    let remark = unasked.remarks[0].to_string();
    assert!(remark.contains("in-bar is of namespace bar, and others are of foo"), "{remark}");
    let options = ImportOptions { namespace: Some("bar".into()), ..ImportOptions::default() };
    let asked = import(&all, &options).unwrap();
    assert!(asked.is_whole());
    assert!(asked.toml.contains("in-istio-system") && asked.toml.contains("in-bar"), "{}", asked.toml);
    assert!(!asked.toml.contains("in-foo"), "{}", asked.toml);
}

#[test]
fn what_cannot_be_said_here_is_left_out_as_a_whole_and_named_with_its_line() {
    let policy = |spec: &str| format!("kind: AuthorizationPolicy\nmetadata: {{ name: a }}\nspec:\n{spec}");
    for (text, remark) in [
        (policy("  targetRefs: [{ kind: Gateway }]\n"), "4: left out: `targetRefs` is for gateways"),
        (policy("  action: LOG\n"), "4: left out: there is no action LOG"),
        (policy("  rules:\n  - from:\n    - source:\n        users: [a]\n"), "7: left out: `users` is not known here"),
        (policy("  rules:\n  - to:\n    - operation:\n        ports: [http]\n"), "7: left out: http is not a port"),
        (policy("  rules:\n  - when:\n    - key: connection.sni\n      values: [a]\n"), "1: left out: there is no key \"connection.sni\""),
        (policy("  rules:\n  - to:\n    - operation: { paths: [\"/a/*/b\"] }\n"), "1: left out: `*` stands inside of the text"),
        (policy("  rules: 7\n"), "4: left out: a list is expected here"),
        ("kind: AuthorizationPolicy\nmetadata:\n  name: a\n  annotations:\n    istio.io/dry-run: \"yes\"\n".into(), "5: left out: \"yes\" is neither true nor false"),
        (policy("  rules:\n  - from:\n    - source:\n        principals: [\"spiffe://cluster.local/ns/a/sa/b\"]\n"), "7: left out: Istio's principals have no `spiffe://`"),
        (policy("  rules:\n  - when:\n    - key: source.principal\n      notValues: [\"spiffe://*\"]\n"), "7: left out: Istio's principals have no `spiffe://`"),
        ("kind: PeerAuthentication\nmetadata: { name: a }\nspec: { mtls: { mode: STRICT } }\n".into(), "1: left out: PeerAuthentication \"a\": write `mode = \"strict\"` into [tls] instead"),
        ("kind: PeerAuthentication\nmetadata: { name: a }\nspec: { mtls: { mode: DISABLE } }\n".into(), "1: left out: PeerAuthentication \"a\": write `mode = \"disabled\"` into [tls]"),
        ("kind: PeerAuthentication\nmetadata: { name: a }\nspec: { portLevelMtls: { 80: { mode: STRICT } } }\n".into(), "1: left out: PeerAuthentication \"a\": write `tls` of each port"),
        ("a: b\n".into(), "1: left out: `kind` is missing"),
        ("kind: RequestAuthentication\nmetadata: { name: a }\nspec:\n  jwtRules:\n  - issuer: a\n".into(), "5: left out: its keys are found by OpenID discovery"),
        ("kind: RequestAuthentication\nmetadata: { name: a }\nspec:\n  jwtRules:\n  - issuer: a\n    jwksUri: ftp://a/b\n".into(), "5: left out: this is not where a key set can be"),
        ("kind: RequestAuthentication\nmetadata: { name: a }\nspec:\n  jwtRules:\n  - issuer: a\n    fromCookies: [a]\n".into(), "6: left out: `fromCookies` is not known here"),
    ] {
        let result = imported(&text, &[]);
        assert!(!result.is_whole() && result.toml.is_empty(), "{text}{result:?}");
        let said = result.remarks[0].to_string();
        assert!(said.starts_with(remark), "{text}{said}");
    }
    let wrong = import("a: [\n", &ImportOptions::default()).unwrap_err();
    assert!(wrong.message.starts_with("this is not YAML"), "{wrong}");
}

#[test]
fn a_list_of_resources_is_read_one_by_one() {
    let text = "kind: List\nitems:\n- kind: AuthorizationPolicy\n  metadata: { name: a }\n- kind: Secret\n";
    let result = imported(text, &[]);
    assert!(result.toml.contains("name = \"a\"") && result.remarks.len() == 1 && result.is_whole());
}

#[test]
fn a_list_of_one_kind_is_read_one_by_one_though_its_items_need_not_say_the_kind() {
    let text = "kind: AuthorizationPolicyList\nitems:\n- kind: AuthorizationPolicy\n  metadata: { name: a }\n\
                - metadata: { name: b }\n  spec: { action: DENY, rules: [{}] }\n- metadata: {}\n";
    let result = imported(text, &[]);
    let said: Vec<_> = result.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["7: left out: `name` is missing"]);
    assert!(result.toml.contains("name = \"a\"") && result.toml.contains("name = \"b\"\naction = \"deny\""));
}

#[test]
fn a_permissive_mode_is_no_loss() {
    for spec in ["{ mtls: { mode: PERMISSIVE } }", "{ mtls: {} }", ""] {
        let text = format!("kind: PeerAuthentication\nmetadata: {{ name: a }}\nspec: {spec}\n");
        let result = imported(&text, &[]);
        assert!(result.is_whole() && result.remarks[0].message.contains("is the default"), "{result:?}");
    }
}

#[test]
fn a_document_about_something_else_is_named_and_no_loss() {
    let text = "kind: Service\nmetadata: { name: orders }\n---\nkind: Telemetry\n---\n\
                kind: AuthorizationPolicy\nmetadata: { name: a }\n";
    let result = imported(text, &[]);
    assert!(result.is_whole() && result.toml.contains("name = \"a\""), "{result:?}");
    let remarks: Vec<_> = result.remarks.iter().map(ToString::to_string).collect();
    let why = "says nothing about who may call an app";
    assert_eq!(
        remarks,
        [
            format!("1: passed over: Service \"orders\" {why}"),
            format!("4: passed over: Telemetry \"\" {why}")
        ]
    );
}

#[test]
fn a_dry_run_is_said_in_the_words_that_istio_reads() {
    let of = |word: &str| {
        let text = format!(
            "kind: AuthorizationPolicy\nmetadata:\n  name: a\n  annotations:\n    istio.io/dry-run: {word}\n"
        );
        let result = imported(&text, &[]);
        result.is_whole().then(|| result.toml.contains("dry_run = true"))
    };
    for word in ["1", "t", "T", "true", "TRUE", "True"] {
        assert_eq!((of(word), of(&format!("'{word}'"))), (Some(true), Some(true)), "{word}");
    }
    for word in ["'0'", "f", "F", "false", "FALSE", "False", "\"false\""] {
        assert_eq!(of(word), Some(false), "{word}");
    }
    for word in ["yes", "2", "''", "tRUE", "on"] {
        assert_eq!(of(word), None, "{word}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(kind: AuthorizationPolicy\n)?(metadata: \\{name: a\\}\n)?(spec:\n)?[ \\-a-z:{}\\[\\],&*\n]{0,60}") {
        let _ = import(&text, &ImportOptions::default());
    }
}
