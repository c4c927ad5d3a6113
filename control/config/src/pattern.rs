//! Topic names and the patterns that match them.
//!
//! A pattern is a name, or a beginning followed by one `*` at its end, which stands for any rest, also for none. The most
//! specific match wins: the exact name before every beginning, a longer beginning before a shorter one. Two different
//! patterns that match one name always differ in that order, so there is never a tie.

use std::{collections::HashMap, fmt, str::FromStr};

/// Most bytes of a name or pattern: what fits a length byte, as file systems and DNS have it.
pub const PATTERN_BYTES_MAX: usize = 255;

/// A name, or a beginning with `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// Matches this name alone.
    Exact(String),
    /// Matches every name that begins so.
    Prefix(String),
}

impl Pattern {
    /// Whether it matches a name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.starts_with(prefix),
        }
    }

    /// Whether some name could match both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(a), Self::Prefix(b)) => a.starts_with(b.as_str()) || b.starts_with(a.as_str()),
            (Self::Exact(name), pattern) | (pattern, Self::Exact(name)) => pattern.matches(name),
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    /// The error is what is wrong with it.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Prefix(String::new())),
            Some(prefix) => check_topic_name(prefix).map(|()| Self::Prefix(prefix.to_owned())),
            None => check_topic_name(text).map(|()| Self::Exact(text.to_owned())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// Whether a text can be the name of a topic: 1 to 255 of the characters `A-Z a-z 0-9 . _ - / :`.
///
/// # Errors
/// What is wrong with it.
pub fn check_topic_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name has at least one character".to_owned());
    }
    if name.len() > PATTERN_BYTES_MAX {
        return Err(format!("a name has at most {PATTERN_BYTES_MAX} characters, this one has {}", name.len()));
    }
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-/:".contains(letter);
    match name.chars().find(|letter| !allowed(*letter)) {
        Some('*') => Err("`*` may only stand at the end of a pattern, once, and never in a name".to_owned()),
        Some(letter) => Err(format!("{letter:?} may not stand in a name; A-Z a-z 0-9 . _ - / : may")),
        None => Ok(()),
    }
}

/// Many patterns, each with a value, that finds those matching a name in a few look-ups however many there are.
#[derive(Clone, Debug)]
pub struct PatternIndex<T> {
    exact: HashMap<String, Vec<T>>,
    prefix: HashMap<String, Vec<T>>,
    lengths: Vec<usize>, // of the prefixes, falling, each once
}

impl<T> PatternIndex<T> {
    /// Every value whose pattern matches, the most specific first; values of equal patterns in the order they came.
    pub fn matching<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a T> {
        let prefixes = self.lengths.iter().filter_map(move |length| self.prefix.get(name.get(..*length)?));
        self.exact.get(name).into_iter().chain(prefixes).flatten()
    }
}

impl<'p, T> FromIterator<(&'p Pattern, T)> for PatternIndex<T> {
    fn from_iter<I: IntoIterator<Item = (&'p Pattern, T)>>(patterns: I) -> Self {
        let mut index = Self { exact: HashMap::new(), prefix: HashMap::new(), lengths: Vec::new() };
        for (pattern, value) in patterns {
            match pattern {
                Pattern::Exact(name) => index.exact.entry(name.clone()).or_default().push(value),
                Pattern::Prefix(prefix) => index.prefix.entry(prefix.clone()).or_default().push(value),
            }
        }
        index.lengths = index.prefix.keys().map(String::len).collect();
        index.lengths.sort_unstable_by(|a, b| b.cmp(a));
        index.lengths.dedup();
        index
    }
}
