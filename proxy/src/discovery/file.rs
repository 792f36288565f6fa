//! Endpoints from a file of `[[endpoint]]` tables, followed as the configuration is: the directory
//! is watched, and what the file says decides. A wrong file is rejected as a whole and the last
//! good one stays in force.

use std::path::PathBuf;
use std::slice;
use std::sync::Arc;

use tokio::sync::Notify;

use super::{EndpointUpdate, UpdateSender};
use crate::config::watch::{FileWatch, Watch, changed};
use crate::config::{parse_endpoints, read};

/// Tells what the file at `path` says, now and whenever it changes, for as long as it is polled.
pub(super) async fn follow(path: PathBuf, updates: UpdateSender) {
    let look = Arc::new(Notify::new());
    let mut watch = FileWatch::new(look.clone());
    let name = path.display().to_string();
    let mut last = None;
    loop {
        // A link may lead elsewhere now.
        if let Err(error) = watch.cover(slice::from_ref(&path)) {
            tracing::warn!(%error, "cannot watch {name}; its changes are noticed later");
        }
        let text = read(&path).map_err(|error| error.to_string());
        if last.as_ref() != Some(&text) {
            let parsed = text.as_ref().map(|text| parse_endpoints(&name, text));
            updates.tell(match parsed {
                Ok(Ok(endpoints)) => EndpointUpdate::Endpoints(endpoints),
                Ok(Err(errors)) => {
                    let mistakes: Vec<_> = errors.lines().collect();
                    EndpointUpdate::Rejected(mistakes.join("; "))
                }
                Err(why) => EndpointUpdate::Lost(why.clone()),
            });
            last = Some(text);
        }
        changed(&watch, &look).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::discovery::fake::followed;

    #[tokio::test]
    async fn a_file_is_followed_and_a_wrong_one_points_at_its_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("orders.toml");
        let source = |updates| follow(path.clone(), updates);
        followed(source, async |mut heard| {
            let mut next = async || {
                let update = timeout(Duration::from_secs(30), heard.next()).await;
                update.expect("every change is noticed")
            };
            assert!(matches!(next().await, EndpointUpdate::Lost(why) if why.contains("No such file")));
            fs::write(&path, "[[endpoint]]\naddress = '10.0.0.1:80'\nweight = 2\n").unwrap();
            let EndpointUpdate::Endpoints(found) = next().await else { panic!("they can be read") };
            assert_eq!((found.len(), found[0].weight), (1, 2));
            fs::write(&path, "[[endpoint]]\naddress = '10.0.0.1'\n").unwrap();
            let EndpointUpdate::Rejected(why) = next().await else { panic!("they cannot be read") };
            assert!(why.ends_with("orders.toml:2:11: this is not an address and a port"), "{why}");
            fs::write(&path, "endpoint = []").unwrap();
            assert_eq!(next().await, EndpointUpdate::Endpoints(vec![]));
        })
        .await;
    }
}
