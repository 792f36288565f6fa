//! Files of certificates and keys in PEM (RFC 7468), read so that a mistake is pointed at by file
//! and line.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// A file of PEM, as it was read.
#[derive(Debug, Clone, Copy)]
pub struct PemFile<'a> {
    /// Where it was, for messages.
    pub path: &'a Path,
    /// What is in it.
    pub text: &'a str,
}

/// What is wrong with a file of PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemError {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1, of the section that is wrong.
    pub line: usize,
    /// The first of its words.
    pub words: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)?;
        if self.words.is_empty() { Ok(()) } else { write!(f, " (`{}`)", self.words) }
    }
}

impl std::error::Error for PemError {}

impl PemFile<'_> {
    /// An error at a line of this file, counted from 1.
    pub fn error(&self, line: usize, message: String) -> PemError {
        // What is no PEM may be somebody's secret, put into the wrong place.
        let words = self.text.lines().nth(line - 1).unwrap_or_default().trim();
        let words = if words.starts_with("-----") { words.chars().take(60).collect() } else { String::new() };
        PemError { path: self.path.to_owned(), line, words, message }
    }
}

/// Its certificates, each with its line.
///
/// # Errors
/// If a section is broken, or of another kind.
pub fn certificates(file: &PemFile<'_>) -> Result<Vec<(usize, CertificateDer<'static>)>, PemError> {
    sections(file, "CERTIFICATE")
}

/// Its lists of revoked certificates, each with its line.
///
/// # Errors
/// If a section is broken, or of another kind.
pub fn revocation_lists(
    file: &PemFile<'_>,
) -> Result<Vec<(usize, CertificateRevocationListDer<'static>)>, PemError> {
    sections(file, "X509 CRL")
}

/// Its one private key. What else it has is passed over, since some tools write the certificate
/// into the same file.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn private_key(file: &PemFile<'_>) -> Result<(usize, PrivateKeyDer<'static>), PemError> {
    let line = begins(file).find(|(_, label)| label.ends_with("PRIVATE KEY")).map(|(line, _)| line);
    let Some(line) = line else { return Err(file.error(1, "there is no private key".into())) };
    match PrivateKeyDer::from_pem_slice(from_line(file.text, line).as_bytes()) {
        Ok(key) => Ok((line, key)),
        Err(e) => {
            // The words of a key are nobody's business.
            let error = file.error(line, format!("this private key cannot be read: {e}"));
            Err(PemError { words: String::new(), ..error })
        }
    }
}

fn sections<T: PemObject>(file: &PemFile<'_>, wanted: &str) -> Result<Vec<(usize, T)>, PemError> {
    let mut found = Vec::new();
    for (line, label) in begins(file) {
        if label != wanted {
            // A file may hold the key beside the certificate.
            if label.ends_with("PRIVATE KEY") && wanted == "CERTIFICATE" {
                continue;
            }
            return Err(file.error(line, format!("this is not a `{wanted}`")));
        }
        match T::from_pem_slice(from_line(file.text, line).as_bytes()) {
            Ok(object) => found.push((line, object)),
            Err(e) => return Err(file.error(line, format!("this `{wanted}` cannot be read: {e}"))),
        }
    }
    Ok(found)
}

/// The lines, counted from 1, at which sections begin, and their labels.
fn begins<'a>(file: &PemFile<'a>) -> impl Iterator<Item = (usize, &'a str)> {
    file.text.lines().enumerate().filter_map(|(at, line)| {
        let label = line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
        Some((at + 1, label))
    })
}

/// The text from a line on, counted from 1.
fn from_line(text: &str, line: usize) -> &str {
    match line {
        1 => text,
        _ => text.match_indices('\n').nth(line - 2).map_or("", |(at, _)| &text[at + 1..]),
    }
}
