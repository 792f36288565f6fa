//! `proxy audit verify`: whether an audit log is the one that was written.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;

use crate::app::FAILED;
use crate::audit::verify::Verified;
use crate::{errln, outln};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check that no line of a chained log was changed, put in or taken out, and print the hash of
    /// the last line. Keep that elsewhere: lines that were cut off at the end are not noticed
    /// otherwise.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The files, the oldest first: audit.log.2 audit.log.1 audit.log
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Fail unless this is the hash of a line; it was printed before.
    #[arg(long, value_name = "HASH")]
    after: Option<String>,
}

impl AuditCommand {
    pub(super) fn perform(self) -> ExitCode {
        let AuditCommand::Verify(args) = self;
        match verify(&args) {
            Ok(verified) => {
                let Verified { lines, torn, gaps: (gaps, lost), last, .. } = verified;
                outln!("{lines} lines are chained");
                if torn > 0 {
                    outln!("{torn} lines were cut off, by a crash or a full disk");
                }
                if gaps > 0 {
                    outln!("{lost} lines are missing, as {gaps} of the lines say");
                }
                outln!("last {}", last.map(|last| HEXLOWER.encode(&last)).unwrap_or_default());
                ExitCode::SUCCESS
            }
            Err(why) => {
                errln!("error: {why}");
                ExitCode::from(FAILED)
            }
        }
    }
}

fn verify(args: &VerifyArgs) -> Result<Verified, String> {
    let kept = args.after.clone().map(|hash| (hash, false));
    let mut verified = Verified { kept, ..Verified::default() };
    for path in &args.files {
        let text = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        verified.add(&text).map_err(|broken| format!("{}: {broken}", path.display()))?;
    }
    if verified.lines == 0 {
        return Err("there is no line".into());
    }
    match &verified.kept {
        Some((hash, false)) => Err(format!("no line has the hash {hash}: lines are missing")),
        _ => Ok(verified),
    }
}
