//! From text to a typed value, with every error at its place.

use crate::{Diagnostic, Severity};
use serde::de::DeserializeOwned;
use std::{
    borrow::Cow,
    fmt::Display,
    ops::{Range, RangeInclusive},
};
use toml::Spanned;

/// A file's name and text.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// As the user gave it; for messages.
    pub name: &'a str,
    /// All of it.
    pub text: &'a str,
    /// How to get the commented default file, such as `tachyon-control --print-default-rules`.
    pub manual: &'a str,
}

/// Reads a file into its schema. Checks of ranges come after it, through a [`Report`].
///
/// # Errors
/// The first thing that is not TOML, not a known key, or not of the right type.
pub fn read<T: DeserializeOwned>(source: &Source<'_>) -> Result<T, Diagnostic> {
    toml::from_str(source.text).map_err(|error| {
        let message = in_serdes_words(error.message());
        let help = help_for(&message, source.manual);
        let said = sentence(&message);
        Diagnostic::new(Severity::Error, source.name, source.text, error.span()).saying(said, help)
    })
}

/// Collects what is wrong with the values of a file that has the right shape.
#[derive(Debug)]
pub struct Report<'a> {
    source: Source<'a>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl<'a> Report<'a> {
    /// Nothing wrong yet.
    #[must_use]
    pub const fn new(source: Source<'a>) -> Self {
        Self { source, errors: Vec::new(), warnings: Vec::new() }
    }

    /// Something that refuses the file.
    pub fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.errors.push(self.at(Severity::Error, span).saying(message, help));
    }

    /// Something that is probably not meant.
    pub fn warning(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.warnings.push(self.at(Severity::Warning, span).saying(message, help));
    }

    /// Holds the value of `key` against its range.
    pub fn within<T: PartialOrd + Display + Copy>(&mut self, key: &str, value: &Spanned<T>, range: RangeInclusive<T>) {
        if !range.contains(value.get_ref()) {
            let message = format!("`{key}` is {}, which is out of range", value.get_ref());
            let help = format!("give a value from {} to {}", range.start(), range.end());
            self.error(value.span(), message, help);
        }
    }

    /// The value and the warnings, or the errors.
    ///
    /// # Errors
    /// All errors, in the order of the file.
    pub fn finish<T>(mut self, value: T) -> Result<(T, Vec<Diagnostic>), Vec<Diagnostic>> {
        let place = |diagnostic: &Diagnostic| (diagnostic.line, diagnostic.column);
        self.errors.sort_by_key(place);
        self.warnings.sort_by_key(place);
        if self.errors.is_empty() { Ok((value, self.warnings)) } else { Err(self.errors) }
    }

    fn at(&self, severity: Severity, span: Range<usize>) -> Diagnostic {
        Diagnostic::new(severity, self.source.name, self.source.text, Some(span))
    }
}

/// Within an enum's table it is the parser that finds unknown keys, and says it in words of its own.
fn in_serdes_words(message: &str) -> Cow<'_, str> {
    let parts =
        message.strip_prefix("unexpected keys in table: ").and_then(|rest| rest.split_once(", available keys: "));
    let Some((unknown, known)) = parts else { return message.into() };
    let unknown = unknown.split(',').next().unwrap_or(unknown);
    let known: String = known.split(", ").filter(|key| !key.is_empty()).map(|key| format!("`{key}`, ")).collect();
    format!("unknown field `{unknown}`, expected one of {known}").into()
}

/// The parser's words as one sentence without a full stop, since file and line stand beside it.
fn sentence(message: &str) -> String {
    let first = message.lines().next().unwrap_or("not readable");
    let cut = first.split(", expected").next().unwrap_or(first);
    let keep_expectation = !(first.starts_with("unknown field") || first.starts_with("unknown variant"));
    let kept = if keep_expectation { first } else { cut };
    kept.replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .replace("unknown variant", "unknown value")
}

/// What to do about an error of the parser. Serde names what it knows in backticks: the wrong word first, then the right
/// ones.
fn help_for(message: &str, manual: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    match quoted.split_first() {
        Some((wrong, known)) if unknown && !known.is_empty() => {
            let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            match closest(wrong, known) {
                Some(name) => format!("did you mean `{name}`? Known here: {list}"),
                None => format!("known here: {list}; `{manual}` explains each"),
            }
        }
        Some((key, _)) if message.starts_with("missing field") => {
            format!("add `{key} = …`; `{manual}` explains it")
        }
        _ if message.starts_with("wanted exactly 1 element") => {
            format!("keep exactly one key of this table; `{manual}` lists those there are")
        }
        Some((key, _)) if message.starts_with("duplicate") => format!("keep one of them: `{key}` stands here twice"),
        _ => format!("`{manual}` prints a commented file that explains each key"),
    }
}

/// The known name nearest to a misspelt one, if it is near: at most a third of its letters differ.
fn closest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = |name: &&'a str| (distance(wrong, name), *name);
    let (distance, name) = known.iter().map(near).min()?;
    (distance <= name.len().max(wrong.len()).div_ceil(3)).then_some(name)
}

/// Edits (insert, delete, replace) between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
