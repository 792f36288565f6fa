//! Endpoints from a file of `[[endpoint]]` tables, followed as the configuration is: the directory
//! is watched, and what the file says decides. A wrong file is rejected as a whole and the last
//! good one stays in force.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;

use super::{EndpointUpdate, UpdateSender};
use crate::config::reload::{FileWatch, quiet};
use crate::config::{LoadError, parse_endpoints, read};

/// Tells what the file at `path` says, now and whenever it changes, for as long as it is polled.
pub(super) async fn follow(path: PathBuf, updates: UpdateSender) {
    let look = Arc::new(Notify::new());
    let mut watch = FileWatch::new(look.clone());
    let name = path.display().to_string();
    let mut text = None;
    loop {
        // A link may lead elsewhere now.
        if let Err(error) = watch.cover(&path) {
            tracing::warn!(%error, "cannot watch {name}; changes of it will not be noticed");
        }
        match read(&path) {
            Ok(new) if text.as_ref() == Some(&new) => {}
            Ok(new) => {
                updates.tell(match parse_endpoints(&name, &new) {
                    Ok(endpoints) => EndpointUpdate::Endpoints(endpoints),
                    Err(errors) => EndpointUpdate::Rejected(format!(
                        "{:?}",
                        miette::Report::new(LoadError::from(errors))
                    )),
                });
                text = Some(new);
            }
            Err(error) => {
                text = None;
                updates.tell(EndpointUpdate::Lost(error.to_string()));
            }
        }
        look.notified().await;
        quiet(&look).await;
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
            assert!(why.contains("orders.toml:2:11") && why.contains("add the port"), "{why}");
            fs::write(&path, "endpoint = []").unwrap();
            assert_eq!(next().await, EndpointUpdate::Endpoints(vec![]));
        })
        .await;
    }
}
