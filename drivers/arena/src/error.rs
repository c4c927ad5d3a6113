//! Why there is no memory.

use std::fmt;

/// Why the arena could not be made or has no more buffers: what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaError(pub String);

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ArenaError {}
