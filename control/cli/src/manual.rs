//! `tachyon completions` and `tachyon man`: what a package installs beside the program.

use crate::{
    arguments::Arguments,
    failure::{Exit, Failure},
    output,
};
use clap::CommandFactory as _;
use std::{io, path::Path};

pub(crate) fn completions(shell: clap_complete::Shell) {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tachyon", &mut text);
    output::data(text);
}

/// The page of the program itself to standard output, or one page per command into a folder.
pub(crate) fn man(folder: Option<&Path>) -> Result<(), Failure> {
    let place = folder.map_or_else(|| "standard output".to_owned(), |folder| folder.display().to_string());
    let written = match folder {
        Some(folder) => clap_mangen::generate_to(Arguments::command(), folder),
        None => page().map(output::data),
    };
    written.map_err(|error| Failure {
        exit: Exit::Usage,
        what: format!("cannot write the man pages: {error}"),
        place,
        help: "name a folder that exists and that this user may write to".to_owned(),
    })
}

fn page() -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut text)?;
    Ok(text)
}
