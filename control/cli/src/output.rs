//! Data goes to standard output, messages to standard error.

use std::{
    io::{self, Write as _},
    process,
};

/// Writes data as it is. Whoever reads may close early (`tachyon drops | head`), which is no error; that standard output
/// cannot be written otherwise is told on standard error, and nobody is left to show data to.
pub(crate) fn data(text: impl AsRef<[u8]>) {
    let mut out = io::stdout().lock();
    let Err(error) = out.write_all(text.as_ref()).and_then(|()| out.flush()) else { return };
    if error.kind() == io::ErrorKind::BrokenPipe {
        process::exit(0);
    }
    message(&format!("error: cannot write: {error}\n --> standard output"));
    process::exit(1);
}

/// Writes one JSON document as one line.
pub(crate) fn json(value: &serde_json::Value) {
    data(format!("{value}\n"));
}

/// Writes a message. Where standard error is closed, nobody wants it.
pub(crate) fn message(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
