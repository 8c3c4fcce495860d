//! A secret, by value or by the file that holds it. Never printed.

use std::path::PathBuf;

use secrecy::SecretString;

/// A value, or a file that is read again each time the secret is needed, so that a rotated one is taken up.
#[derive(Clone, Debug)]
pub enum Secret {
    /// The value itself.
    Value(SecretString),
    /// A file that holds it; a line break at its end is not part of it.
    File(PathBuf),
}

impl Secret {
    /// The secret as it is now.
    ///
    /// # Errors
    /// A sentence that names the file, when it cannot be read.
    pub async fn read(&self) -> Result<SecretString, String> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned())),
                Err(error) => Err(format!("cannot read {}: {error}", path.display())),
            },
        }
    }
}
