//! `[access_log]`: what its words mean.

use std::path::PathBuf;

use serde_spanned::Spanned;

use super::Check;
use crate::config::log_format::TextFormat;
use crate::config::{AccessLog, Audit, LogFilter, LogFormat, LogTarget, defaults, model};

impl Check<'_> {
    pub(super) fn access_log(&mut self, given: &model::AccessLog, audit: Option<&Audit>) -> AccessLog {
        let slower_than = given
            .slower_than
            .as_ref()
            .map(|limit| self.duration("slower_than", Some(limit), defaults::ACCESS_LOG_SLOW).value);
        let share = given
            .share
            .as_ref()
            .map(|share| self.share("`share` is not a share of all requests", Some(share), 1.0));
        AccessLog {
            target: self.log_target(&given.path, audit),
            format: given.format.as_ref().map_or(LogFormat::Json, |format| self.log_format(format)),
            filter: LogFilter { errors: given.errors, slower_than, share },
            queue: self.ranged(
                "queue",
                given.queue.as_ref(),
                defaults::ACCESS_LOG_QUEUE,
                defaults::ACCESS_LOG_QUEUE_RANGE,
            ),
        }
    }

    fn log_target(&mut self, path: &Spanned<String>, audit: Option<&Audit>) -> LogTarget {
        if path.get_ref() == "stdout" {
            return LogTarget::Stdout;
        }
        let file: PathBuf = self.place_of("path", path);
        if file.file_name().is_none() && !path.get_ref().is_empty() {
            self.diagnostics
                .add("`path` is no file", path.span(), "this is a directory")
                .help("such as \"/var/log/sidelab/access.log\", or \"stdout\"");
        }
        if audit.is_some_and(|audit| audit.has_file(&file)) {
            self.diagnostics
                .add("`path` is a file of the audit log", path.span(), "`[audit]` writes it")
                .help("give the access log another name, or another directory");
        }
        LogTarget::File(file)
    }

    fn log_format(&mut self, format: &Spanned<String>) -> LogFormat {
        let text = format.get_ref();
        if text == "json" {
            return LogFormat::Json;
        }
        match TextFormat::parse(text) {
            Ok(parsed) if parsed.has_values() => LogFormat::Text(parsed),
            Ok(_) => {
                self.diagnostics
                    .add("`format` says nothing", format.span(), "every line would be the same")
                    .help("it is \"json\", or a text such as \"%START_TIME% %REQ(:PATH)% %RESPONSE_CODE%\"");
                LogFormat::Json
            }
            Err(error) => {
                let label = format!("at `{}`", &text[error.at]);
                let note = self.diagnostics.add(format!("`format`: {}", error.what), format.span(), label);
                if let Some(help) = error.help {
                    note.help(help);
                }
                LogFormat::Json
            }
        }
    }
}
