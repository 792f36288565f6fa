//! Services, links and settings of sidecars.

use super::{mesh, message};

#[test]
fn names_that_nobody_has() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/names_that_nobody_has.toml"))));
}

#[test]
fn services_that_cannot_be() {
    insta::assert_snapshot!(message(include_str!("cases/services_that_cannot_be.toml")));
}

#[test]
fn replicas_that_cannot_be_told_apart_so() {
    insta::assert_snapshot!(message(&mesh("").replace(
        "replicas = 3",
        "replicas = 2\nweights = [0, 5000]\nlabels = [{ version = \"1\" }, { version = \"2\" }, { version = \"3\" }]"
    )));
}

#[test]
fn links_that_cannot_be() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/links_that_cannot_be.toml"))));
}

#[test]
fn a_sidecar_where_there_is_none() {
    let text = mesh(include_str!("cases/a_sidecar_where_there_is_none.toml"));
    insta::assert_snapshot!(message(
        &text.replace("duration = \"10s\"", "duration = \"10s\"\nsidecar = \"none\"")
    ));
}

#[test]
fn keys_that_the_sidecar_would_refuse() {
    let text = mesh(include_str!("cases/keys_that_the_sidecar_would_refuse.toml"));
    insta::assert_snapshot!("shape_of_keys_that_the_sidecar_would_refuse", message(&text));
    let text = text
        .replace("attempt =", "attempts =")
        .replace("= 5\n", "= \"5s\"\n")
        .replace("passthru", "passthrough");
    insta::assert_snapshot!("meaning_of_keys_that_the_sidecar_would_refuse", message(&text));
}

#[test]
fn keys_of_the_sidecar_that_are_the_labs_to_decide() {
    insta::assert_snapshot!(message(
        &mesh(include_str!("cases/keys_of_the_sidecar_that_are_the_labs_to_decide.toml")).replacen(
            "[service.web]\n",
            "",
            1
        )
    ));
    insta::assert_snapshot!("policy_that_is_no_table", message(&mesh("[service.x]\npolicy = 5\n")));
}

#[test]
fn what_a_service_says_twice() {
    insta::assert_snapshot!(message(include_str!("cases/what_a_service_says_twice.toml")));
}

#[test]
fn identities_that_cannot_be() {
    insta::assert_snapshot!(message(include_str!("cases/identities_that_cannot_be.toml")));
    let names = mesh(
        "[ca.mesh]\n[cert.domain]\nid = \"spiffe://x\"\n\
         [cert.authority]\nid = \"spiffe://cluster.local/sidelab/ca\"\n[service.x]\nnamespace = \"a/b\"\n\
         [service.y]\nnamespace = \"shop\"\ntls = { mode = \"disabled\" }\n",
    );
    insta::assert_snapshot!("names_of_no_workload", message(&names));
    let shape =
        mesh("[ca.mesh]\ntrust-domain = \"a\"\n[cert.x]\nlifetime = 5\n[service.x]\ntls = \"strict\"\n");
    insta::assert_snapshot!("shape_of_identities_that_cannot_be", message(&shape));
}

#[test]
fn a_policy_about_callers_that_the_sidecar_would_refuse() {
    let text = mesh(
        "[service.ledger]\nport = 9000\napp = { http = {} }\n\
         [service.ledger.authorization]\ndefault = \"refuse\"\npolicies = []\n",
    );
    insta::assert_snapshot!(message(&text));
}

#[test]
fn processes_that_an_authority_does_not_have() {
    let text = mesh(
        "[ca.trust]\n[[timeline]]\nat = \"1s\"\nkill = { process = \"trust/sidecar\" }\n\
         [[timeline]]\nat = \"2s\"\nkill = { process = \"orders-0/ca\" }\n\
         [load.signing]\nfrom = \"web\"\nurl = \"http://trust:15012/\"\nrate = \"1/s\"\n",
    );
    insta::assert_snapshot!(message(&text));
}
