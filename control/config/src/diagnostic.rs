//! One thing that is wrong in a file, and how it is shown.

use std::fmt;
use std::ops::Range;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but this is probably not meant.
    Warning,
}

/// One thing that is wrong in a file. `Display` shows all of it, over several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the file, as the user gave it.
    pub file: String,
    /// Line, from 1; 0 where it belongs to no line.
    pub line: u32,
    /// Column in characters, from 1; 0 where it belongs to no line.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
    text: String,
    carets: usize,
}

impl Diagnostic {
    /// Something wrong with the bytes at `span` of `text`; `None` where it belongs to no place in it.
    #[must_use]
    pub fn new(severity: Severity, file: &str, text: &str, span: Option<Range<usize>>) -> Self {
        let place = span.map(|span| Place::of(text, &span)).unwrap_or_default();
        Self {
            severity,
            file: file.to_owned(),
            line: place.line,
            column: place.column,
            message: String::new(),
            help: String::new(),
            text: place.text,
            carets: place.carets,
        }
    }

    /// Says what is wrong and what to do.
    #[must_use]
    pub fn saying(mut self, message: impl Into<String>, help: impl Into<String>) -> Self {
        self.message = message.into();
        self.help = help.into();
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}: {}", self.message)?;
        if self.line == 0 {
            writeln!(f, " --> {}", self.file)?;
        } else {
            let number = self.line.to_string();
            let margin = " ".repeat(number.len());
            let indent = " ".repeat(self.column.saturating_sub(1) as usize);
            writeln!(f, "{margin}--> {}:{}:{}", self.file, self.line, self.column)?;
            writeln!(f, "{margin} |")?;
            writeln!(f, "{number} | {}", self.text)?;
            writeln!(f, "{margin} | {indent}{}", "^".repeat(self.carets))?;
        }
        write!(f, "  = help: {}", self.help)
    }
}

#[derive(Default)]
struct Place {
    line: u32,
    column: u32,
    text: String,
    carets: usize,
}

impl Place {
    fn of(text: &str, span: &Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let end = text.ceil_char_boundary(span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[..start].matches('\n').count() + 1;
        // A tab would move the caret by an unknown width, so it is shown as one space.
        let shown = text[line_start..line_end].trim_end_matches('\r').replace('\t', " ");
        Self {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(text[line_start..start].chars().count() + 1).unwrap_or(u32::MAX),
            carets: text[start..end.min(line_end)].chars().count().max(1),
            text: shown,
        }
    }
}
