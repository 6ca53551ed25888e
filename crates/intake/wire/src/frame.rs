//! One JSON text per direction; the end of the stream ends it.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest text either side accepts, bytes. A GC that names 4,096 attachments takes about half a megabyte.
pub const MAX_BYTES: u64 = 4 << 20;

/// Writes `message` as JSON. The caller then shuts its side of the stream.
pub fn write<T: Serialize>(mut stream: impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&serde_json::to_vec(message)?)
}

/// Reads one message up to the end of the stream.
///
/// # Errors
/// `UnexpectedEof` when the other side went away without a word, `InvalidData` when it said something else.
pub fn read<T: DeserializeOwned>(stream: impl Read) -> io::Result<T> {
    let mut text = Vec::new();
    stream.take(MAX_BYTES).read_to_end(&mut text)?;
    if text.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
