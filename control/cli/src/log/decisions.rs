//! What the engine decided about a burst. Its bytes are the engine's own; until they have a decoder, their length and first bytes
//! stand for them.

use super::hex;
use serde_json::{Map, Value};

/// Bytes that are shown of each.
const HEAD_BYTES: usize = 32;

/// Fields of the record's JSON.
pub(crate) fn json(body: &[u8], into: &mut Map<String, Value>) {
    into.insert("bytes".to_owned(), body.len().into());
    into.insert("head".to_owned(), hex(head(body)).into());
}

/// One line for a person.
pub(crate) fn line(body: &[u8]) -> String {
    let more = if body.len() > HEAD_BYTES { "…" } else { "" };
    format!("{} bytes: {}{more}", body.len(), hex(head(body)))
}

fn head(body: &[u8]) -> &[u8] {
    body.get(..HEAD_BYTES).unwrap_or(body)
}
