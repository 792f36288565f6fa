//! stub
use super::*;
/// stub
pub async fn follow(
    _p: &std::path::Path,
    _c: std::sync::Arc<Snapshot>,
    _f: impl FnMut(Result<Snapshot, ConfigErrors>),
) {
}
