//! SIGHUP asks for a look at the configuration. A signal reaches the whole process, so this test
//! has one to itself.

use std::sync::Arc;
use std::time::Duration;

use proxy::config::reload::{ReloadOutcome, follow};

#[tokio::test]
async fn sighup_is_answered_even_if_nothing_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sidecar.toml");
    std::fs::write(&path, "service = 'web'\npassthrough = false").unwrap();
    let start = Arc::new(proxy::config::parse("start", "service = 'web'").unwrap());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let follow = follow(path, start, move |outcome| {
        let _ = tell.send(outcome);
    });
    let story = async {
        // The file differs from the start, so the first look says so; by then the signal is
        // listened to.
        assert!(matches!(told.recv().await, Some(ReloadOutcome::Applied { .. })));
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
        assert!(matches!(told.recv().await, Some(ReloadOutcome::Unchanged)));
    };
    tokio::select! {
        () = follow => unreachable!("it follows for as long as it is polled"),
        done = tokio::time::timeout(Duration::from_secs(30), story) => done.expect("the signal is answered"),
    }
}
