//! `proxy audit verify`: whether an audit log is the one that was written.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::app::FAILED;
use crate::audit::verify::Verified;
use crate::{errln, outln};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check that each line of a chained log follows the one before, and print the hash of the
    /// last. Keep that elsewhere, and give it to the next check (--after): it is not noticed
    /// otherwise if lines were cut off at the end, or the log was written anew from some line on.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The files, the oldest first: audit.log.2 audit.log.1 audit.log
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Fail unless this is the hash of a line, or of the line that the first one follows; it was
    /// printed before.
    #[arg(long, value_name = "HASH", value_parser = hash)]
    after: Option<String>,
}

impl AuditCommand {
    pub(super) fn perform(self) -> ExitCode {
        let AuditCommand::Verify(args) = self;
        match verify(&args) {
            Ok(verified) => {
                outln!("{}", tell(&verified));
                ExitCode::SUCCESS
            }
            Err(why) => {
                errln!("error: {why}");
                ExitCode::from(FAILED)
            }
        }
    }
}

/// A hash as it was printed, whatever the case of its letters.
fn hash(text: &str) -> Result<String, String> {
    match HEXLOWER_PERMISSIVE.decode(text.as_bytes()) {
        Ok(bytes) if bytes.len() == 32 => Ok(HEXLOWER.encode(&bytes)),
        _ => Err("a hash has 64 hexadecimal digits".into()),
    }
}

fn tell(verified: &Verified) -> String {
    let Verified { lines, torn, gaps: (gaps, lost), follows, last, .. } = verified;
    let mut told = vec![format!("{lines} lines are chained")];
    if !follows.is_empty() {
        told.push(format!("they begin after a line that is not here, with the hash {follows}"));
    }
    if *torn > 0 {
        told.push(format!("{torn} lines were cut off, by a crash or a full disk"));
    }
    if *gaps > 0 {
        told.push(format!("{lost} lines are missing, as {gaps} of the lines say"));
    }
    told.push(format!("last {}", last.map(|last| HEXLOWER.encode(&last)).unwrap_or_default()));
    told.join("\n")
}

fn verify(args: &VerifyArgs) -> Result<Verified, String> {
    let mut verified = Verified::after(args.after.clone());
    for path in &args.files {
        let name = path.display().to_string();
        let text = std::fs::read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
        verified.add(&name, &text).map_err(|broken| broken.to_string())?;
    }
    let verified = verified.finish().map_err(|broken| broken.to_string())?;
    if verified.lines == 0 {
        return Err("there is no line".into());
    }
    match &verified.kept {
        Some((hash, false)) => Err(format!("no line has the hash {hash}: lines are missing")),
        _ => Ok(verified),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    const FIRST: &str = "{\"event\":\"request\",\"prev\":\"";

    #[test]
    fn a_hash_is_one_whatever_the_case_of_its_letters() {
        let digits = "0123456789abcdef".repeat(4);
        assert_eq!(hash(&digits), Ok(digits.clone()));
        assert_eq!(hash(&digits.to_uppercase()), Ok(digits.clone()));
        for wrong in ["", "zzz", &digits[1..], &digits.replace('a', "g")] {
            let words = ["proxy", "audit", "verify", "--after", wrong, "audit.log"];
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn what_is_found_says_where_it_begins_and_what_is_wrong_where() {
        let folder = tempfile::tempdir().unwrap();
        let (file, before) = (folder.path().join("audit.log"), "0123456789abcdef".repeat(4));
        let found = |text: String, after: Option<&String>| {
            std::fs::write(&file, text).unwrap();
            verify(&VerifyArgs { files: vec![file.clone()], after: after.cloned() })
        };
        let line = format!("{FIRST}{before}\"}}\n");
        let told = tell(&found(line.clone(), Some(&before)).unwrap());
        let begins = format!(
            "1 lines are chained\nthey begin after a line that is not here, with the hash {before}\nlast "
        );
        assert!(told.starts_with(&begins), "{told}");
        let told = tell(&found(format!("{FIRST}\"}}\n{{\"ti"), None).unwrap());
        assert!(
            told.starts_with("1 lines are chained\n1 lines were cut off, by a crash or a full disk\nlast "),
            "{told}"
        );
        let other = before.replace('a', "b");
        assert!(found(line.clone(), Some(&other)).unwrap_err().ends_with(": lines are missing"));
        let broken = found(line + "junk\n", None).unwrap_err();
        let at = Path::new(&file).display();
        assert_eq!(broken, format!("{at}: line 2 is no line of the log: it was changed or put in"));
    }
}
