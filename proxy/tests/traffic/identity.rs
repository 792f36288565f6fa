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
use proxy::world::{KernelFiles, KernelNet, RngTree, SystemWall, World, crypto};
use tempfile::TempDir;

use crate::common::authority::{Authority, Issued, now};
use crate::common::*;

const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
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
        (&mixed, &ours.root, "tls.crt: the private key is not the certificate's"),
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
            "tls.crt: the certificate cannot be read: the certificate has 0 URIs",
        ),
        (
            &issue(&ours, &[WEB, "spiffe://mesh.test/b"]),
            &ours.root,
            "tls.crt: the certificate cannot be read: the certificate has 2 URIs",
        ),
        (
            &issue(&ours, &["https://mesh.test"]),
            &ours.root,
            "tls.crt: the certificate cannot be read: the certificate's URI `https://mesh.test` is not a SPIFFE id",
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
