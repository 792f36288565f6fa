//! Files of certificates and keys in PEM (RFC 7468), read so that a mistake is pointed at by file
//! and line.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::config::LoadError;
use crate::world::Files;

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
    let found = scan(file)?.into_iter().find(|section| section.label.ends_with("PRIVATE KEY"));
    let Some(section) = found else { return Err(file.error(1, "there is no private key".into())) };
    // The words of a key are nobody's business.
    let error = |message| PemError { words: String::new(), ..file.error(section.line, message) };
    // PKCS#8, and what is older.
    if section.label.starts_with("ENCRYPTED") || section.text.contains("\nProc-Type: 4,ENCRYPTED") {
        let why = "this private key is encrypted, and nobody is asked for a password: decrypt it \
                   (`openssl pkey -in FILE -out FILE`)";
        return Err(error(why.into()));
    }
    match PrivateKeyDer::from_pem_slice(section.text.as_bytes()) {
        Ok(key) => Ok((section.line, key)),
        Err(e) => Err(error(format!("this private key cannot be read: {}", words(&e)))),
    }
}

/// All of a file of PEM.
///
/// # Errors
/// If it cannot be read, or is no text.
pub fn read(files: &dyn Files, path: &Path) -> Result<String, LoadError> {
    files.read(path).map_err(|error| match error {
        LoadError::Unreadable { path, error, .. } if error.kind() == ErrorKind::InvalidData => {
            let why =
                format!("it is not PEM, text with `-----BEGIN`, but something else, such as DER: {error}");
            LoadError::Unreadable { path, error: io::Error::new(ErrorKind::InvalidData, why), help: None }
        }
        other => other,
    })
}

fn sections<T: PemObject>(file: &PemFile<'_>, wanted: &str) -> Result<Vec<(usize, T)>, PemError> {
    let mut found = Vec::new();
    for Section { line, label, text } in scan(file)? {
        if label != wanted {
            // A file may hold the key beside the certificate.
            if label.ends_with("PRIVATE KEY") && wanted == "CERTIFICATE" {
                continue;
            }
            return Err(file.error(line, format!("this is not a `{wanted}`")));
        }
        match T::from_pem_slice(text.as_bytes()) {
            Ok(object) => found.push((line, object)),
            Err(e) => return Err(file.error(line, format!("this `{wanted}` cannot be read: {}", words(&e)))),
        }
    }
    Ok(found)
}

/// A part of a file.
struct Section<'a> {
    /// Where it begins, counted from 1.
    line: usize,
    /// What it says that it is.
    label: &'a str,
    /// All of its lines.
    text: &'a str,
}

/// The sections of a file. Whatever is between them is a comment.
///
/// # Errors
/// If one is not whole: passed over, it would be missed by nobody.
fn scan<'a>(file: &PemFile<'a>) -> Result<Vec<Section<'a>>, PemError> {
    let (mut found, mut open, mut at) = (Vec::new(), None, 0);
    let unfinished = |(line, label, _): (usize, &str, usize)| {
        file.error(line, format!("this section has no end: `-----END {label}-----` is missing"))
    };
    for (line, text) in (1..).zip(file.text.split_inclusive('\n')) {
        let begin = at;
        at += text.len();
        // Some editors of Windows begin a file with a byte order mark.
        let words = text.trim_start_matches('\u{feff}').trim();
        if let Some(rest) = words.strip_prefix("-----BEGIN ") {
            if let Some(open) = open {
                return Err(unfinished(open));
            }
            let label = rest.strip_suffix("-----");
            let label = label.ok_or_else(|| file.error(line, "this line should end with `-----`".into()))?;
            open = Some((line, label, begin + text.find('-').unwrap_or_default()));
        } else if let Some(rest) = text.trim_end().strip_prefix("-----END ") {
            match open.take() {
                Some((line, label, begin)) if rest.strip_suffix("-----") == Some(label) => {
                    found.push(Section { line, label, text: &file.text[begin..at] });
                }
                Some(open) => return Err(unfinished(open)),
                None => return Err(file.error(line, "nothing begins before this end".into())),
            }
        }
    }
    match open {
        Some(open) => Err(unfinished(open)),
        None => Ok(found),
    }
}

/// What is wrong inside of a section.
fn words(error: &pem::Error) -> String {
    match error {
        pem::Error::Base64Decode(_) => "it is not base64".into(),
        pem::Error::NoItemsFound => "it is of a kind that is not supported".into(),
        other => other.to_string(),
    }
}
