//! Certificates from files: what is taken, what is refused and how that is said.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy::config::{Identity, IdentitySource};
use proxy::identity::{self, files};
use proxy::telemetry::Metrics;
use proxy::tls::TlsStore;
use proxy::tls::pem::{self, PemFile};
use proxy::tls::trust::{PeerSide, TrustBundle, unix_time};
use proxy::world::{KernelFiles, KernelNet, RngTree, SystemWall, World, crypto};
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use tempfile::TempDir;

use crate::common::authority::{Authority, Issued, now};
use crate::common::*;

const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
const ADMIN: &str = "spiffe://mesh.test/ns/shop/sa/admin";
const HOUR: Duration = Duration::from_secs(3600);

fn issue(authority: &Authority, uris: &[&str]) -> Issued {
    authority.issue(uris, now() - HOUR, now() + HOUR)
}

/// Writes the files as cert-manager does: none is ever there by half.
fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        fs::write(folder.join("new"), text).unwrap();
        fs::rename(folder.join("new"), folder.join(name)).unwrap();
    }
}

fn folder(issued: &Issued, roots: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("tls.crt", &issued.certificate), ("tls.key", &issued.key), ("ca.crt", roots)]);
    folder
}

/// Why the files of a folder are not taken, without the folder's name.
fn refused(folder: &Path) -> String {
    let error =
        files::load(&KernelFiles, folder, &WEB.parse().unwrap(), &crypto::system(), now()).unwrap_err();
    error.to_string().replace(&format!("{}/", folder.display()), "")
}

#[test]
fn a_wrong_file_is_pointed_at_by_its_name_its_line_and_its_words() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let good = issue(&ours, &[WEB]);
    let (other, mut mixed) = (issue(&ours, &[WEB]), issue(&ours, &[WEB]));
    mixed.key = other.key;
    let expired = ours.issue(&[WEB], now() - 2 * HOUR, now() - HOUR);
    let early = ours.issue(&[WEB], now() + HOUR, now() + 2 * HOUR);
    let mut broken = issue(&ours, &[WEB]);
    broken.certificate = format!("# a comment\n\n{}", broken.certificate.replacen("MII", "M!!", 1));
    let key_in_place = Issued { certificate: good.key.clone(), key: good.key.clone() };
    let cases: [(&Issued, &str, &str); 11] = [
        (&mixed, &ours.root, "tls.key: the private key is not the certificate's"),
        (
            &expired,
            &ours.root,
            "tls.crt: its own bundle does not accept the certificate: certificate expired",
        ),
        (
            &early,
            &ours.root,
            "tls.crt: its own bundle does not accept the certificate: certificate not valid yet",
        ),
        (&good, &theirs.root, "tls.crt: its own bundle does not accept the certificate: "),
        (
            &issue(&ours, &["spiffe://mesh.test/ns/shop/sa/orders"]),
            &ours.root,
            "tls.crt: the certificate is spiffe://mesh.test/ns/shop/sa/orders's, and this workload is",
        ),
        (
            &issue(&ours, &[]),
            &ours.root,
            "tls.crt: the first certificate is no workload's: the certificate has 0 URIs",
        ),
        (
            &issue(&ours, &[WEB, "spiffe://mesh.test/b"]),
            &ours.root,
            "tls.crt: the first certificate is no workload's: the certificate has 2 URIs",
        ),
        (
            &issue(&ours, &["https://mesh.test"]),
            &ours.root,
            "tls.crt: the first certificate is no workload's: the certificate's URI `https://mesh.test` is not a SPIFFE id",
        ),
        (&broken, &ours.root, "tls.crt:3: this `CERTIFICATE` cannot be read"),
        (&good, "nothing here\n", "ca.crt:1: there is no root certificate"),
        (&key_in_place, &ours.root, "tls.crt: there is no certificate"),
    ];
    for (issued, roots, expected) in cases {
        let folder = folder(issued, roots);
        let said = refused(folder.path());
        assert!(said.starts_with(expected), "{said}\nand not\n{expected}");
        assert!(!said.contains(good.key.lines().nth(1).unwrap()), "a key is in the message");
    }
    let missing = folder(&good, &ours.root);
    fs::remove_file(missing.path().join("tls.key")).unwrap();
    assert!(refused(missing.path()).contains("cannot read tls.key"), "{}", refused(missing.path()));
    let crl = folder(&good, &ours.root);
    for nothing in ["", "<html>404</html>"] {
        // Of this, everybody whose certificate is revoked would be let in again.
        write(crl.path(), &[("crl.pem", nothing)]);
        assert!(refused(crl.path()).starts_with("crl.pem:1: there is no list"), "{}", refused(crl.path()));
    }
    write(crl.path(), &[("crl.pem", &ours.root)]);
    assert!(
        refused(crl.path()).starts_with("crl.pem:1: this is not a `X509 CRL`"),
        "{}",
        refused(crl.path())
    );
}

#[test]
fn only_an_authority_is_a_root() {
    let ours = Authority::new();
    let good = issue(&ours, &[WEB]);
    let leaf = issue(&ours, &[ADMIN]).certificate;
    let simple = Authority::with("root", |params| params.is_ca = IsCa::NoCa).root;
    let signs_no_certificates =
        Authority::with("root", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]).root;
    let second = ours.root.lines().count() + 1;
    for (bad, whose) in
        [(leaf.clone(), ADMIN), (simple, "no authority"), (signs_no_certificates, "no authority")]
    {
        let folder = folder(&good, &format!("{}{bad}", ours.root));
        let expected = format!("ca.crt:{second}: this certificate is not that of a root: it is {whose}'s. ");
        let said = refused(folder.path());
        assert!(said.starts_with(&expected) && said.contains("CA:TRUE"), "{said}");
    }
    let der = |text: &str| {
        let file = PemFile { path: Path::new("a.pem"), text };
        pem::certificates(&file).unwrap().remove(0).1
    };
    let algorithms = crypto::system().signature_verification_algorithms;
    let of_an_agent = TrustBundle::of_der([der(&ours.root), der(&leaf)], [], algorithms).unwrap_err();
    assert!(
        of_an_agent.starts_with("certificate 2: this certificate is not that of a root"),
        "{of_an_agent}"
    );
}

#[test]
fn a_root_that_has_expired_is_left_out_and_a_bundle_of_such_is_refused() {
    let (ours, no_usage) =
        (Authority::new(), Authority::with("no usage", |params| params.key_usages.clear()));
    let old = Authority::with("old root", |params| {
        (params.not_before, params.not_after) = ((now() - 2 * HOUR).into(), (now() - HOUR).into());
    });
    let folder = folder(&issue(&ours, &[WEB]), &format!("{}{}{}", no_usage.root, old.root, ours.root));
    let load = || files::load(&KernelFiles, folder.path(), &WEB.parse().unwrap(), &crypto::system(), now());
    let doubts = load().unwrap().trust.doubts(now());
    assert!(doubts[0].starts_with("root 2 has expired at 20") && doubts.len() == 1, "{doubts:?}");
    write(folder.path(), &[("ca.crt", &old.root)]);
    assert!(refused(folder.path()).starts_with("ca.crt:1: it is a bundle without a root"));
}

#[test]
fn what_is_wrong_with_a_certificate_or_a_key_is_said_in_words() {
    let ours = Authority::new();
    let good = issue(&ours, &[WEB]);
    let limited = |purpose| {
        ours.issue_with(&[WEB], now() - HOUR, now() + HOUR, |params| {
            params.extended_key_usages = vec![purpose]
        })
    };
    let says = |name: &str, text: &[u8], expected: &str| {
        let folder = folder(&good, &ours.root);
        fs::write(folder.path().join(name), text).unwrap();
        let said = refused(folder.path());
        assert!(said.contains(expected), "{said}\nand not\n{expected}");
    };
    let only_clients = limited(ExtendedKeyUsagePurpose::ClientAuth).certificate;
    says("tls.crt", only_clients.as_bytes(), "an intermediate's, lacks serverAuth");
    let only_servers = limited(ExtendedKeyUsagePurpose::ServerAuth).certificate;
    says("tls.crt", only_servers.as_bytes(), "an intermediate's, lacks clientAuth");
    let root_first = format!("{}{}", ours.root, good.certificate);
    says(
        "tls.crt",
        root_first.as_bytes(),
        "tls.crt: the first certificate is an authority's: the workload's own",
    );
    let section =
        |label: &str, text: &str| format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
    let old = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,6A027BF26DE1706DAA0E9F9A14ED39D6\n\nAAAA";
    for encrypted in [section("ENCRYPTED PRIVATE KEY", "AAAA"), section("EC PRIVATE KEY", old)] {
        says("tls.key", encrypted.as_bytes(), "tls.key:1: this private key is encrypted");
    }
    says(
        "tls.key",
        section("PRIVATE KEY", "AAAA").as_bytes(),
        "tls.key: the private key cannot be used: it must",
    );
    says("tls.key", section("DSA PRIVATE KEY", "AAAA").as_bytes(), "it is of a kind that is not supported");
    says(
        "tls.key",
        section("PRIVATE KEY", "A!").as_bytes(),
        "this private key cannot be read: it is not base64",
    );
    for name in ["tls.crt", "tls.key", "ca.crt", "crl.pem"] {
        let der = [0x30, 0x82, 1, 0];
        says(
            name,
            &der,
            &format!("{name}: it is not PEM, text with `-----BEGIN`, but something else, such as DER"),
        );
        let end = ": this section has no end: `-----END A-----` is missing (`-----BEGIN A-----`)";
        says(name, b"\n-----BEGIN A-----\nAAAA\n", &format!("{name}:2{end}"));
        says(name, b"-----BEGIN A-----\n-----BEGIN B-----\n-----END B-----\n", &format!("{name}:1{end}"));
        says(name, b"-----BEGIN A----\n", &format!("{name}:1: this line should end with `-----`"));
        says(name, b"\n-----END A-----\n", &format!("{name}:2: nothing begins before this end"));
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_certificate() {
    let ours = Authority::new();
    let mut marked = issue(&ours, &[WEB]);
    marked.certificate.insert(0, '\u{feff}');
    let folder = folder(&marked, &format!("\u{feff}{}", ours.root));
    files::load(&KernelFiles, folder.path(), &WEB.parse().unwrap(), &crypto::system(), now()).unwrap();
}

/// `openssl ca -gencrl` without `crlnumber`.
const LIST_OF_VERSION_1: &str = "-----BEGIN X509 CRL-----
MIGTMDswCgYIKoZIzj0EAwIwDzENMAsGA1UEAwwEcm9vdBcNMjYxMTMwMjE1MzI5
WhcNMjYxMjAxMjE1MzI5WjAKBggqhkjOPQQDAgNIADBFAiEA5LUMqHAa6fVx0IcO
EW9Z1+cmQ5G/Ii4y6GcRVQB1bRACIBaznoEBaJbvFH2YHxpBrqNkHZGkWIgeTRkQ
XaeQdcbS
-----END X509 CRL-----
";

/// One of version 2 that Python's `cryptography` has made.
const LIST_WITHOUT_EXTENSIONS: &str = "-----BEGIN X509 CRL-----
MIGWMD4CAQEwCgYIKoZIzj0EAwIwDzENMAsGA1UEAwwEcm9vdBcNMjYwMTAxMDAw
MDAwWhcNMzUxMjMwMDAwMDAwWjAKBggqhkjOPQQDAgNIADBFAiEAvB9fzYc/PeLO
wO8ziuFQnA77KtbHin4omxjtsV3QjbsCIEZRzZzARHWaHBaRVPdZXSZi3lI5u7Z4
BypJhrr5i1Dk
-----END X509 CRL-----
";

#[test]
fn a_list_of_the_revoked_without_a_number_is_told_what_it_lacks() {
    let ours = Authority::new();
    let folder = folder(&issue(&ours, &[WEB]), &ours.root);
    for list in [LIST_OF_VERSION_1, LIST_WITHOUT_EXTENSIONS] {
        write(folder.path(), &[("crl.pem", list)]);
        let said = refused(folder.path());
        let lacks = said.contains("it must be of version 2 and have extensions, at least its number");
        assert!(lacks && said.contains("`crlnumber = FILE`"), "{said}");
    }
}

#[test]
fn a_revoked_certificate_is_not_believed_any_more() {
    let authority = Authority::new();
    let (serial, issued) = authority.issue_numbered(WEB);
    let folder = folder(&issued, &authority.root);
    let load = || files::load(&KernelFiles, folder.path(), &WEB.parse().unwrap(), &crypto::system(), now());
    load().unwrap();
    write(folder.path(), &[("crl.pem", &authority.revoke(&[]))]);
    load().unwrap();
    write(folder.path(), &[("crl.pem", &authority.revoke(&[serial]))]);
    assert!(load().unwrap_err().to_string().contains("revoked"));
}

/// What is said of the certificate `issued` by a workload with these roots and these lists.
fn judged(issued: &Issued, roots: &str, lists: &str) -> Result<(), String> {
    judge(&bundle(roots, lists)?, issued)
}

fn test_pem(text: &str) -> PemFile<'_> {
    PemFile { path: Path::new("test.pem"), text }
}

fn bundle(roots: &str, lists: &str) -> Result<TrustBundle, String> {
    let algorithms = crypto::system().signature_verification_algorithms;
    let trust = TrustBundle::of_pem(&test_pem(roots), Some(&test_pem(lists)), algorithms);
    trust.map_err(|error| error.to_string())
}

/// What a bundle says of a chain.
fn judge(trust: &TrustBundle, issued: &Issued) -> Result<(), String> {
    let chain = pem::certificates(&test_pem(&issued.certificate)).unwrap();
    let chain: Vec<_> = chain.into_iter().map(|(_, certificate)| certificate).collect();
    let judged = trust.verify(&chain[0], &chain[1..], PeerSide::Client, "mesh.test", unix_time(now()));
    judged.map(drop).map_err(|error| error.to_string())
}

#[test]
fn all_lists_of_the_revoked_count_in_whatever_order_they_are() {
    let authority = Authority::new();
    let (serial, issued) = authority.issue_numbered(WEB);
    let (old, new) = (authority.list(9, &[]), authority.list(10, &[serial]));
    for lists in [format!("{old}{new}"), format!("{new}{old}")] {
        let said = judged(&issued, &authority.root, &lists).unwrap_err();
        assert!(said.contains("Revoked"), "{said}");
    }
    assert_eq!(judged(&issued, &authority.root, &old), Ok(()));
}

#[test]
fn a_list_of_the_revoked_is_that_of_the_root_whose_key_has_signed_it() {
    // As when an authority is renewed: the same name, and another key.
    let (first, second) = (Authority::new(), Authority::new());
    let (serial, by_first) = first.issue_numbered(WEB);
    // It has the same serial number.
    let (_, by_second) = second.issue_numbered(WEB);
    for roots in [format!("{}{}", first.root, second.root), format!("{}{}", second.root, first.root)] {
        let list = first.revoke(&[]);
        assert_eq!(judged(&by_first, &roots, &list), Ok(()));
        assert_eq!(judged(&by_second, &roots, &list), Ok(()), "that root has no list");
        let both = format!("{}{}", second.revoke(&[]), first.revoke(std::slice::from_ref(&serial)));
        let said = judged(&by_first, &roots, &both).unwrap_err();
        assert!(said.contains("Revoked"), "{said}");
        assert_eq!(judged(&by_second, &roots, &both), Ok(()));
    }
}

#[test]
fn a_list_by_no_root_that_is_gone_keeps_no_bundle_out_and_is_kept_itself() {
    let (root, retired) = (Authority::new(), Authority::named("retired"));
    let between = Authority::signed_by(&root, "between");
    let (serial, issued) = between.issue_numbered(WEB);
    let by_between = Issued { certificate: issued.certificate + &between.root, key: issued.key };
    let (other, by_root) = root.issue_numbered(WEB);
    let both = format!("{}{}", root.root, retired.root);
    let lists = |lists: &[String]| lists.concat();
    let revokes = between.list(1, std::slice::from_ref(&serial));

    // As when a root is retired: first the root, and then its list.
    let first = bundle(&both, &lists(&[root.list(1, &[]), retired.list(1, &[]), revokes.clone()])).unwrap();
    let mut second = bundle(&root.root, &lists(&[root.list(1, &[]), retired.list(1, &[]), revokes])).unwrap();
    second.follow(&first).unwrap();
    let mut third = bundle(&root.root, &root.list(2, &[other])).unwrap();
    assert_eq!(judge(&third, &by_between), Ok(()), "until it is known what was in force before");
    third.follow(&second).unwrap();
    for (what, issued) in [("a new revocation", &by_root), ("one of before", &by_between)] {
        assert!(judge(&third, issued).is_err_and(|said| said.contains("Revoked")), "{what}");
    }
    let doubts = third.doubts(now());
    assert!(
        doubts.iter().any(|doubt| doubt.contains("by `CN=between` is gone or an older one")),
        "{doubts:?}"
    );

    // What is kept stays kept, until there is a newer one.
    let mut fourth = bundle(&root.root, &root.list(3, &[])).unwrap();
    fourth.follow(&third).unwrap();
    assert!(judge(&fourth, &by_between).is_err());
    let mut fifth = bundle(&root.root, &lists(&[root.list(3, &[]), between.list(2, &[])])).unwrap();
    fifth.follow(&fourth).unwrap();
    assert_eq!(judge(&fifth, &by_between), Ok(()));
    let mut older = bundle(&root.root, &root.list(1, &[])).unwrap();
    assert!(older.follow(&fifth).is_err_and(|why| why.contains("is an older one")));
}

#[test]
fn a_list_of_the_revoked_counts_for_what_an_authority_of_its_chain_has_signed() {
    let (root, other) = (Authority::new(), Authority::named("between"));
    let between = Authority::signed_by(&root, "between");
    let (serial, issued) = between.issue_numbered(WEB);
    let chain = Issued { certificate: issued.certificate + &between.root, key: issued.key };
    let folder = folder(&chain, &root.root);
    for (list, is_revoked) in
        [(between.revoke(std::slice::from_ref(&serial)), true), (other.revoke(&[serial]), false)]
    {
        write(folder.path(), &[("crl.pem", &list)]);
        let loaded =
            files::load(&KernelFiles, folder.path(), &WEB.parse().unwrap(), &crypto::system(), now());
        assert_eq!(loaded.is_err_and(|error| error.to_string().contains("revoked")), is_revoked);
    }
}

#[test]
fn a_list_of_the_revoked_by_nobody_is_wrong_unless_the_root_of_its_name_has_another() {
    let (authority, other) = (Authority::new(), Authority::new());
    let issued = issue(&authority, &[WEB]);
    let (good, bad) = (authority.revoke(&[]), other.revoke(&[]));
    let said = judged(&issued, &authority.root, &bad).unwrap_err();
    assert!(
        said.starts_with("test.pem:1: this list of revoked certificates has the name of a root"),
        "{said}"
    );
    assert_eq!(judged(&issued, &authority.root, &format!("{bad}{good}")), Ok(()));
}

#[test]
fn a_list_of_the_revoked_that_is_gone_or_an_older_one_changes_nothing() {
    run(async {
        let (authority, next) = (Authority::new(), Authority::named("next"));
        let folder = folder(&issue(&authority, &[WEB]), &authority.root);
        let revoked = |number: u64| ("crl.pem", authority.list(number, &[]));
        write(folder.path(), &[("crl.pem", &revoked(0x100).1)]);
        let (store, metrics) = (Arc::new(TlsStore::default()), Arc::new(Metrics::default()));
        let source = IdentitySource::Files(folder.path().to_owned());
        let world = World::new(KernelNet::default(), SystemWall, RngTree::new(1));
        let own = Identity { id: WEB.parse().unwrap(), source };
        spawn(identity::run(world, own, store.clone(), metrics.clone()));
        until("the first is in force", || store.current().is_some()).await;
        let refused = |count: u32| {
            let line = format!("proxy_certificates_total{{result=\"refused\"}} {count}\n");
            metrics.text().contains(&line)
        };
        let before = store.current().unwrap();
        fs::remove_file(folder.path().join("crl.pem")).unwrap();
        until("that it is gone is refused", || refused(1)).await;
        write(folder.path(), &[("crl.pem", &revoked(0xff).1)]);
        until("an older one is refused", || refused(2)).await;
        assert!(Arc::ptr_eq(&before, &store.current().unwrap()), "what was in force stays");

        write(folder.path(), &[("crl.pem", &revoked(0x101).1)]);
        until("a newer one is in force", || !Arc::ptr_eq(&before, &store.current().unwrap())).await;
        let before = store.current().unwrap();
        let issued = issue(&next, &[WEB]);
        fs::remove_file(folder.path().join("crl.pem")).unwrap();
        write(
            folder.path(),
            &[("ca.crt", &next.root), ("tls.key", &issued.key), ("tls.crt", &issued.certificate)],
        );
        until("its root is gone too", || !Arc::ptr_eq(&before, &store.current().unwrap())).await;
    });
}

#[test]
fn a_list_of_the_revoked_that_is_old_or_somebody_elses_is_doubted() {
    let (authority, other) = (Authority::new(), Authority::named("another root"));
    let folder = folder(&issue(&authority, &[WEB]), &authority.root);
    let doubts = |list: &str, at: SystemTime| {
        write(folder.path(), &[("crl.pem", list)]);
        let id = WEB.parse().unwrap();
        let loaded = files::load(&KernelFiles, folder.path(), &id, &crypto::system(), now());
        loaded.unwrap().trust.doubts(at).join("; ")
    };
    let years = Duration::from_secs(100 * 365 * 86_400);
    assert_eq!(doubts(&authority.revoke(&[]), now()), "");
    assert_eq!(doubts(&other.revoke(&[]), now()), "list 1 of revoked certificates is by none of the roots");
    let old = doubts(&authority.revoke(&[]), now() + years);
    assert!(old.starts_with("list 1 of revoked certificates is old: the next was due at 20"), "{old}");
}

#[test]
fn new_files_come_into_force_and_wrong_ones_change_nothing() {
    run(async {
        let authority = Authority::new();
        let first = issue(&authority, &[WEB]);
        let folder = folder(&first, &authority.root);
        let (store, metrics) = (Arc::new(TlsStore::default()), Arc::new(Metrics::default()));
        assert_eq!(store.unready().as_deref(), Some("there is no certificate yet"));
        let source = IdentitySource::Files(folder.path().to_owned());
        let world = World::new(KernelNet::default(), SystemWall, RngTree::new(1));
        let own = Identity { id: WEB.parse().unwrap(), source };
        spawn(identity::run(world, own, store.clone(), metrics.clone()));
        until("the first is in force", || store.current().is_some()).await;
        assert_eq!(store.unready(), None);
        let before = store.current().unwrap();
        let counted = |result: &str| {
            let line = format!("proxy_certificates_total{{result=\"{result}\"}} ");
            let text = metrics.text();
            text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse::<u32>().unwrap())
        };

        write(folder.path(), &[("tls.crt", "-----BEGIN CERTIFICATE-----\nnonsense\n")]);
        until("the wrong one is refused", || counted("refused") > 0).await;
        assert!(Arc::ptr_eq(&before, &store.current().unwrap()), "what was in force stays");
        assert_eq!(store.unready(), None);

        let second = issue(&authority, &[WEB]);
        write(folder.path(), &[("tls.key", &second.key), ("tls.crt", &second.certificate)]);
        until("the second is in force", || !Arc::ptr_eq(&before, &store.current().unwrap())).await;
        assert!(metrics.text().contains("proxy_certificate_not_after_timestamp_seconds 1"));
    });
}

/// A sidecar's certificate, as it follows a folder.
struct Following {
    store: Arc<TlsStore>,
    authority: Authority,
}

impl Following {
    fn begin(folder: &Path) -> Self {
        let store = Arc::new(TlsStore::default());
        let world = World::new(KernelNet::default(), SystemWall, RngTree::new(1));
        let source = IdentitySource::Files(folder.to_owned());
        let own = Identity { id: WEB.parse().unwrap(), source };
        spawn(identity::run(world, own, store.clone(), Arc::default()));
        Following { store, authority: Authority::new() }
    }

    /// Writes a new certificate into `folder`.
    fn renew(&self, folder: &Path) {
        let issued = issue(&self.authority, &[WEB]);
        fs::create_dir_all(folder).unwrap();
        for (name, text) in
            [("tls.crt", &issued.certificate), ("tls.key", &issued.key), ("ca.crt", &self.authority.root)]
        {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    /// Waits until what `change` has done is noticed.
    async fn notices(&self, what: &str, change: impl FnOnce(&Self)) {
        let before = self.store.current();
        change(self);
        let is_new = || match (&before, self.store.current()) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, &now),
            (None, now) => now.is_some(),
            _ => false,
        };
        until(what, is_new).await;
    }
}

#[test]
fn a_folder_is_followed_that_comes_later_goes_away_and_is_another_one() {
    run(async {
        let around = tempfile::tempdir().unwrap();
        let at = |name: &str| around.path().join(name);
        let folder = at("not/yet/there");
        let following = Following::begin(&folder);
        until("it is told", || following.store.unready().is_some_and(|why| why.contains("cannot read")))
            .await;
        following.notices("files that come later", |f| f.renew(&folder)).await;
        fs::remove_dir_all(at("not")).unwrap();
        following.notices("a folder that was made again", |f| f.renew(&folder)).await;
        following.notices("and files in it", |f| f.renew(&folder)).await;
        let swap = |f: &Following| {
            f.renew(&at("new"));
            fs::rename(&folder, at("old")).unwrap();
            fs::rename(at("new"), &folder).unwrap();
        };
        following.notices("another folder of the name", swap).await;
        following.notices("and files in that one", |f| f.renew(&folder)).await;
    });
}

#[test]
fn a_folder_that_is_a_link_is_followed_to_where_it_leads() {
    run(async {
        let around = tempfile::tempdir().unwrap();
        let at = |name: &str| around.path().join(name);
        symlink("v1", at("folder")).unwrap();
        let following = Following::begin(&at("folder"));
        following.notices("files that come later", |f| f.renew(&at("v1"))).await;
        let point_elsewhere = |f: &Following| {
            f.renew(&at("v2"));
            symlink("v2", at("link")).unwrap();
            fs::rename(at("link"), at("folder")).unwrap();
        };
        following.notices("a link that leads elsewhere", point_elsewhere).await;
        following.notices("and files there", |f| f.renew(&at("v2"))).await;
    });
}

#[test]
fn a_certificate_whose_time_has_not_come_yet_is_taken_when_it_has() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let following = Following::begin(folder.path());
        let early = |f: &Following| {
            let issued = f.authority.issue(&[WEB], now() + Duration::from_secs(2), now() + HOUR);
            let files =
                [("tls.key", &*issued.key), ("ca.crt", &f.authority.root), ("tls.crt", &issued.certificate)];
            write(folder.path(), &files);
        };
        following.notices("it is valid by now", early).await;
    });
}
