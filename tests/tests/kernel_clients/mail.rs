//! curl and Python's smtplib against an SMTP server: the server speaks first, so whoever waits for
//! the client's first bytes waits in vain.

use std::path::Path;

use crate::mesh::{Mesh, PYTHON, Passed, turn};

/// What smtplib needs to be told.
const SMTPLIB: &str = "import smtplib, sys
with smtplib.SMTP(sys.argv[1], int(sys.argv[2]), timeout=60) as smtp:
    smtp.sendmail('a@web', ['b@mail'], 'Subject: greetings\\r\\n\\r\\nby smtplib\\r\\n')
";

/// The mails that a maildir holds.
fn mails(maildir: &Path) -> Vec<String> {
    let new = std::fs::read_dir(maildir.join("new")).into_iter().flatten().flatten();
    new.map(|mail| std::fs::read_to_string(mail.path()).expect("a mail")).collect()
}

/// Sends two mails, one by curl and one by smtplib; what passed for each.
fn send(mesh: &Mesh, service: &str, port: &str) -> [Passed; 2] {
    let before = mails(&mesh.dir().join(service).join("box")).len();
    let ((), by_curl) = mesh.watch(service, || {
        let line = "printf 'Subject: greetings\\r\\n\\r\\nby curl\\r\\n' | \
                    curl -sS --mail-from a@web --mail-rcpt b@mail -T - \"smtp://$1:$2/web\"";
        mesh.shell(line, &[service, port]);
    });
    let ((), by_smtplib) = mesh.watch(service, || {
        mesh.client(&[PYTHON, "-c", SMTPLIB, service, port]);
    });
    let mails = mails(&mesh.dir().join(service).join("box"));
    assert_eq!(mails.len(), before + 2);
    for words in ["by curl", "by smtplib"] {
        assert!(mails.iter().any(|mail| mail.contains(words)), "{mails:?}");
    }
    [by_curl, by_smtplib]
}

#[test]
fn mail_to_port_25_is_sent_without_waiting_for_the_client_to_speak_first() {
    let Some(mesh) = turn() else { return };
    for passed in send(&mesh, "mail", "25") {
        passed.as_bytes(1);
        assert_eq!(passed.detected("timeout"), 0.0, "a server that speaks first was waited for");
    }
}

#[test]
fn a_server_that_speaks_first_on_a_port_that_nobody_declared_is_not_waited_for_twice() {
    let Some(mesh) = turn() else { return };
    let [first, second] = send(&mesh, "mail-odd-port", "2501");
    first.as_bytes(1);
    second.as_bytes(1);
    assert_eq!(second.detected("timeout"), 0.0, "the second client waited as well");
}
