//! What the parts of validation share.

use std::time::Duration;

use serde_spanned::Spanned;

use crate::plan::SidecarKind;
use crate::syntax::diagnose::Mistake;
use crate::syntax::names::Names;

/// Everything that the parts of validation need to know of the rest of the file.
pub(super) struct Context<'a> {
    pub text: &'a str,
    pub names: Names,
    /// Names of the authorities, by their position, and of the certificates.
    pub authorities: Vec<String>,
    pub certificates: Vec<String>,
    pub duration: Duration,
    pub has_sidecars: bool,
}

/// What a word for the sidecar's place means.
pub(super) fn sidecar_kind(word: &Spanned<String>, mistakes: &mut Vec<Mistake>) -> Option<SidecarKind> {
    let kind = SidecarKind::ALL.into_iter().find(|kind| kind.name() == word.get_ref());
    if kind.is_none() {
        mistakes.push(Mistake::unknown("sidecar", word, SidecarKind::ALL.map(SidecarKind::name)));
    }
    kind
}
