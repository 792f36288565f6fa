//! `[audit]`: what its words mean.

use super::Check;
use crate::config::diagnose::one_of;
use crate::config::{Audit, WhenFull, defaults, model, units};

impl Check<'_> {
    pub(super) fn audit(&mut self, given: &model::Audit) -> Audit {
        let when_full = given.when_full.as_ref().map_or(WhenFull::Drop, |word| {
            let known = WhenFull::ALL.iter().find(|(known, _)| known == word.get_ref());
            known.map_or_else(
                || {
                    self.diagnostics
                        .add("`when_full` is neither of the two", word.span(), "not a choice")
                        .help(format!("it is {}", one_of(&WhenFull::ALL.map(|(word, _)| word), '"')));
                    WhenFull::Drop
                },
                |(_, when_full)| *when_full,
            )
        });
        let queue =
            self.ranged("queue", given.queue.as_ref(), defaults::AUDIT_QUEUE, defaults::AUDIT_QUEUE_RANGE);
        let rotate =
            given.rotate.as_ref().map_or(defaults::AUDIT_ROTATE, |size| match units::size(size.get_ref()) {
                Ok(bytes) if bytes >= defaults::AUDIT_ROTATE_LEAST => bytes,
                Ok(_) => {
                    self.diagnostics
                        .add("`rotate` would begin a file for every few lines", size.span(), "too small")
                        .help("it is at least \"64KiB\"");
                    defaults::AUDIT_ROTATE
                }
                Err(why) => {
                    self.diagnostics
                        .add("`rotate` is not a size", size.span(), why)
                        .help("such as \"64MiB\"");
                    defaults::AUDIT_ROTATE
                }
            });
        let keep = self.ranged("keep", given.keep.as_ref(), defaults::AUDIT_KEEP, defaults::AUDIT_KEEP_RANGE);
        Audit {
            directory: self.place_of("directory", &given.directory),
            when_full,
            queue,
            rotate,
            keep,
            chain: given.chain,
            sync: given.sync,
        }
    }
}
