//! A secret that configuration carries: its value, or the file that holds it.
//!
//! A file is read again whenever the secret is needed (at each new connection or token), so that a rotated secret
//! needs no restart. Neither form shows its value: not in `Debug`, not in an error.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

/// Largest secret file that is read; a mistaken path must not fill the memory.
const MAX_FILE: u64 = 64 * 1024;

/// A secret, by value or by file.
#[derive(Clone, Debug)]
pub enum Secret {
    /// The value itself.
    Value(SecretString),
    /// The file that holds it; surrounding white space is no part of the secret.
    File(PathBuf),
}

impl Secret {
    /// A secret by value.
    #[must_use]
    pub fn value(text: impl Into<String>) -> Self {
        Self::Value(SecretString::from(text.into()))
    }

    /// The secret as it is now.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it, never its content: it cannot be read, is empty, too
    /// large (above 64 KiB) or no UTF-8.
    pub async fn read(&self) -> Result<SecretString, String> {
        match self {
            Self::Value(value) if value.expose_secret().is_empty() => Err("the secret is empty".into()),
            Self::Value(value) => Ok(value.clone()),
            Self::File(path) => {
                let text = String::from_utf8(read_file(path).await?)
                    .map_err(|_| format!("{} is no UTF-8 text", path.display()))?;
                match text.trim() {
                    "" => Err(format!("{} is empty", path.display())),
                    secret => Ok(SecretString::from(secret)),
                }
            }
        }
    }
}

/// Reads a small file that holds a secret.
///
/// # Errors
/// A sentence that names the file.
pub async fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let length = tokio::fs::metadata(path).await.map_err(told)?.len();
    if length > MAX_FILE {
        return Err(format!("{} is too large for a secret: {length} bytes", path.display()));
    }
    tokio::fs::read(path).await.map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_again_and_trimmed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        let secret = Secret::File(path.clone());
        assert!(secret.read().await.expect_err("missing").contains("secret cannot be read"));
        for (content, expected) in [("one\n", Some("one")), ("two", Some("two")), (" \n", None)] {
            std::fs::write(&path, content).expect("written");
            assert_eq!(secret.read().await.ok().as_ref().map(ExposeSecret::expose_secret), expected);
        }
    }

    #[test]
    fn debug_shows_no_value() {
        assert!(!format!("{:?}", Secret::value("hunter2")).contains("hunter2"));
    }
}
