//! What follows from all policies together.

use super::*;

#[test]
fn all_of_a_rule_must_hold_and_one_of_each_list() {
    check(&[
        ("{}", &[get("/"), get("/").by_nobody(), tcp()], &[]),
        (
            "{ from = [{ namespaces = ['shop'], ip_blocks = ['10.0.0.0/8'] }] }",
            &[get("/")],
            &[get("/").from("11.0.0.1"), get("/").by("spiffe://td/ns/x/sa/y")],
        ),
        (
            "{ from = [{ namespaces = ['a'] }, { ip_blocks = ['10.0.0.0/8'] }] }",
            &[get("/"), get("/").by("spiffe://td/ns/a/sa/b").from("11.0.0.1")],
            &[get("/").from("11.0.0.1")],
        ),
        (
            "{ from = [{ namespaces = ['shop'] }], to = [{ methods = ['GET'] }], when = [{ key = 'request.headers[x]', values = ['1'] }] }",
            &[get("/").header("x", "1")],
            &[get("/"), get("/").header("x", "1").method("PUT"), get("/").header("x", "1").by_nobody()],
        ),
        (
            "{ when = [{ key = 'request.headers[x]', values = ['1'] }, { key = 'request.headers[y]', values = ['2'] }] }",
            &[get("/").header("x", "1").header("y", "2")],
            &[get("/").header("x", "1")],
        ),
    ]);
}

#[test]
fn denials_come_first_and_what_no_allow_matches_is_denied() {
    let allow_web = policy("web", "allow", "{ from = [{ namespaces = ['shop'] }] }");
    let deny_admin = policy("admin", "deny", "{ to = [{ paths = ['/admin/*'] }] }");
    let nothing = policy("nothing", "allow", "");
    let everything = policy("everything", "allow", "{}");
    let other = get("/a").by("spiffe://td/ns/other/sa/x");
    for (text, ask, expected) in [
        ("", get("/a"), "+"),
        ("default = 'deny'\n", get("/a"), "-"),
        (&deny_admin, get("/a"), "+"),
        (&deny_admin, get("/admin/x"), "- admin.1"),
        (&allow_web, get("/a"), "+ web.1"),
        (&allow_web, other.clone(), "-"),
        (&format!("{allow_web}{deny_admin}"), get("/admin/x"), "- admin.1"),
        (&format!("{allow_web}{deny_admin}"), get("/a"), "+ web.1"),
        (&nothing, get("/a"), "-"),
        (&format!("{nothing}{allow_web}"), get("/a"), "+ web.1"),
        (&format!("default = 'deny'\n{allow_web}"), get("/a"), "+ web.1"),
        (&format!("default = 'deny'\n{deny_admin}"), get("/a"), "-"),
        (&format!("{everything}{allow_web}"), other, "+ everything.1"),
        (
            &policy("p", "allow", "{ to = [{ ports = [1] }] }, { to = [{ ports = [8080] }] }"),
            get("/"),
            "+ p.2",
        ),
        (&format!("{}{}", policy("b", "deny", "{}"), policy("a", "deny", "{}")), get("/"), "- b.1"),
    ] {
        assert_eq!(said(text, &ask), expected, "{text} {ask:?}");
    }
}

#[test]
fn rules_about_http_are_narrower_for_what_may_pass_and_wider_for_what_may_not_where_there_is_none() {
    let get_only = "{ to = [{ methods = ['GET'], ports = [8080] }] }";
    let not_delete = "{ to = [{ not_methods = ['DELETE'], ports = [8080] }] }";
    let header = "{ when = [{ key = 'request.headers[x]', values = ['1'] }] }";
    for (text, ask, expected) in [
        (policy("p", "allow", get_only), tcp(), "-"),
        (policy("p", "allow", not_delete), tcp(), "-"),
        (policy("p", "deny", get_only), tcp(), "- p.1"),
        (policy("p", "deny", get_only), tcp().port(9090), "+"),
        (policy("p", "deny", not_delete), tcp(), "- p.1"),
        (policy("p", "deny", header), tcp(), "- p.1"),
        (policy("p", "allow", &format!("{header}, {{ to = [{{ ports = [8080] }}] }}")), tcp(), "+ p.2"),
        (policy("p", "allow", "{ from = [{ namespaces = ['shop'] }] }"), tcp(), "+ p.1"),
    ] {
        assert_eq!(said(&text, &ask), expected, "{text} {ask:?}");
    }
}

#[test]
fn a_connection_of_http_lives_as_long_as_one_of_its_requests_could_pass() {
    for (text, lives) in [
        (String::new(), "+"),
        (policy("p", "deny", "{ to = [{ paths = ['/admin'] }] }"), "+"),
        (policy("p", "deny", "{ from = [{ namespaces = ['shop'] }] }"), "- p.1"),
        (
            policy("p", "allow", "{ from = [{ namespaces = ['shop'] }], to = [{ methods = ['GET'] }] }"),
            "+ p.1",
        ),
        (policy("p", "allow", "{ from = [{ namespaces = ['pay'] }], to = [{ methods = ['GET'] }] }"), "-"),
        (policy("p", "allow", ""), "-"),
        ("default = 'deny'\n".into(), "-"),
    ] {
        let policies = Policies::new(&authorization(&text));
        assert_eq!(
            tcp().with(PathNormalization::Base, |facts| ruling(&policies.may_live(facts))),
            lives,
            "{text}"
        );
    }
}

#[test]
fn a_dry_run_decides_nothing_and_says_what_it_would_have_decided() {
    let dry = |text: String| text.replace("rule = [", "dry_run = true\nrule = [");
    let deny = policy("deny", "deny", "{ to = [{ methods = ['GET'] }] }");
    let allow = policy("allow", "allow", "{ from = [{ namespaces = ['pay'] }] }");
    for (text, enforced, proposed) in [
        (dry(deny.clone()), "+", Some("- deny.1")),
        (dry(allow.clone()), "+", Some("-")),
        (format!("{}{}", dry(policy("all", "allow", "{}")), allow), "-", Some("+ all.1")),
        (format!("{deny}{}", dry(deny.replace("'deny'\naction", "'again'\naction"))), "- deny.1", None),
        (deny, "- deny.1", None),
    ] {
        let policies = Policies::new(&authorization(&text));
        let decision = get("/").with(PathNormalization::Base, |facts| policies.decide(facts));
        assert_eq!(ruling(&decision.enforced), enforced, "{text}");
        assert_eq!(decision.proposed.as_ref().map(ruling).as_deref(), proposed, "{text}");
    }
}

#[test]
fn what_is_audited_and_who_else_must_be_asked_is_named() {
    let text = format!(
        "[[authorization.provider]]\nname = 'opa'\naddress = '10.0.0.7:80'\n{}{}",
        policy("watch", "audit", "{ to = [{ methods = ['DELETE'] }] }"),
        policy("ask", "custom", "{ to = [{ paths = ['/pay/*'] }] }")
            .replace("rule", "provider = 'opa'\nrule"),
    );
    let policies = Policies::new(&authorization(&text));
    let ask = |ask: Ask| {
        ask.with(PathNormalization::Base, |facts| {
            let audited = policies.decide(facts).audited.map(|rule| rule.to_string());
            (audited, policies.authorizer(facts).map(|(who, rule)| (who, rule.to_string())))
        })
    };
    assert_eq!(ask(get("/")), (None, None));
    assert_eq!(ask(get("/").method("DELETE")), (Some("watch, rule 1".into()), None));
    assert_eq!(ask(get("/pay/1")), (None, Some((0, "ask, rule 1".into()))));
}
