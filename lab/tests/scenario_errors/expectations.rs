//! Windows and conditions of expectations.

use super::{mesh, message};

#[test]
fn windows_that_cannot_be_judged() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/windows_that_cannot_be_judged.toml"))));
}

#[test]
fn conditions_that_mean_nothing() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/conditions_that_mean_nothing.toml"))));
}

#[test]
fn captures_that_prove_nothing() {
    let text = mesh(
        "[[expect]]\nduring = \"1s..2s\"\nno_plaintext_between = [\"web\", \"orders\"]\n\
         [[expect]]\nno_plaintext_between = \"web\"\n\
         [[expect]]\nno_plaintext_between = [\"orders-*\", \"wen\"]\n\
         [[expect]]\nname = \"nothing\"\n",
    );
    insta::assert_snapshot!(message(&text));
    let text = mesh(
        "[ca.one]\n[ca.two]\n[service.admin]\ntls = { ca = \"one\" }\n\
         [[expect]]\nno_plaintext_between = [\"web\", \"orders\", \"web\"]\nthat = [\"checkout.errors == 0\"]\n\
         [[expect]]\nno_plaintext_between = [\"orders\", \"orders\"]\n\
         [[expect]]\nno_plaintext_between = [\"web\", \"admin\"]\n\
         [[expect]]\nno_plaintext_between = [\"one\", \"two\"]\n\
         [[expect]]\nno_plaintext_between = [\"orders\", \"orders-0\"]\n",
    )
    .replace("[service.web]\n", "[service.web]\ntls = { ca = \"one\" }\n")
    .replace("replicas = 3\n", "replicas = 3\ntls = { ca = \"one\" }\n");
    insta::assert_snapshot!("captures_between_sides_that_do_not_talk", message(&text));
}

#[test]
fn expectations_that_no_run_would_judge() {
    let text = mesh(
        "[[timeline]]\nat = \"1s\"\nkill = { process = \"orders-0\", restart = \"1s\" }\n\
         [[timeline]]\nat = \"3s\"\nfor = \"1s\"\nconfigure = { service = \"orders\", policy = { retry.attempts = 0 } }\n\
         [[expect]]\nsidecar = \"ours\"\nthat = [\"checkout.errors == 0\"]\n\
         [[expect]]\nno_plaintext_between = [\"web\", \"orders\"]\nthat = [\"checkout.errors == 0\"]\n\
         [[expect]]\nfault = \"configure-2\"\nthat = [\"reloaded == 4\"]\n\
         [[expect]]\nfault = \"kill-1\"\nthat = [\"killed == 1\"]\n",
    );
    let header = "duration = \"10s\"\n";
    let bare = text.replace(header, &format!("{header}sidecar = \"none\"\n"));
    insta::assert_snapshot!(message(&bare));
    let both = mesh(
        "[[expect]]\nsidecar = \"none\"\nthat = [\"web/sidecar.proxy_retries_total == 0\", \"checkout.errors == 0\"]\n",
    );
    let both = both.replace(header, &format!("{header}sidecar = [\"ours\", \"none\"]\n"));
    insta::assert_snapshot!("a_condition_about_sidecars_for_runs_without_them", message(&both));
}
