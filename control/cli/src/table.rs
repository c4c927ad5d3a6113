//! How text output looks: columns, numbers for people, colours where they are wanted.

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal as _},
};

/// Width that wrapped lines keep to: a terminal's classic 80 columns.
const LINE_CHARS: usize = 80;

/// Whether standard output takes colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint(bool);

impl Paint {
    /// As the environment and standard output want it.
    pub(crate) fn detect() -> Self {
        Self::wanted(env::var_os("NO_COLOR").as_deref(), env::var_os("TERM").as_deref(), io::stdout().is_terminal())
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self(false)
    }

    /// `NO_COLOR` counts when it is not empty, as <https://no-color.org> says.
    fn wanted(no_color: Option<&OsStr>, term: Option<&OsStr>, terminal: bool) -> Self {
        Self(terminal && no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb"))
    }

    pub(crate) fn heading(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Rows under headings, each column as wide as its widest cell.
pub(crate) struct Table {
    headings: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[(&'static str, Side)]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// All of it, each line ended.
    pub(crate) fn show(&self, paint: Paint) -> String {
        let widths: Vec<usize> = (0..self.headings.len()).map(|column| self.width(column)).collect();
        let headings: Vec<String> = self.headings.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let mut text = paint.heading(&self.line(&headings, &widths));
        text.push('\n');
        for row in &self.rows {
            text.push_str(&self.line(row, &widths));
            text.push('\n');
        }
        text
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(self.headings[column].0.len())
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let sides = self.headings.iter().map(|(_, side)| *side);
        let padded = cells.iter().zip(widths).zip(sides).map(|((cell, &width), side)| match side {
            Side::Left => format!("{cell:<width$}"),
            Side::Right => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

/// A count with its thousands apart: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Nanoseconds in the unit that leaves few digits: `850 ns`, `1.2 µs`, `3.4 ms`, `5.6 s`.
pub(crate) fn nanoseconds(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{}.{} µs", ns / 1_000, ns % 1_000 / 100),
        1_000_000..1_000_000_000 => format!("{}.{} ms", ns / 1_000_000, ns % 1_000_000 / 100_000),
        _ => format!("{}.{} s", ns / 1_000_000_000, ns % 1_000_000_000 / 100_000_000),
    }
}

/// Seconds as a duration: `42 s`, `5 min`, `3 h 7 min`, `2 d 5 h`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// `number` and the word, with its plural where it is not one.
pub(crate) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// The words of `text` in lines that all begin with `indent` spaces, each ended.
pub(crate) fn wrap(text: &str, indent: usize) -> String {
    let margin = " ".repeat(indent);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && indent + line + 1 + word.chars().count() > LINE_CHARS {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("{margin}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(number), text);
        }
        for (ns, text) in [(850, "850 ns"), (1_250, "1.2 µs"), (3_400_000, "3.4 ms"), (5_600_000_000, "5.6 s")] {
            assert_eq!(nanoseconds(ns), text);
        }
        for (seconds, text) in [(59, "59 s"), (300, "5 min"), (11_220, "3 h 7 min"), (190_800, "2 d 5 h")] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn columns_stand_under_their_headings() {
        let mut table = Table::new(&[("COUNT", Side::Right), ("REASON", Side::Left)]);
        table.row(vec!["1,234,567".to_owned(), "µ".to_owned()]);
        table.row(vec!["2".to_owned(), "b".to_owned()]);
        assert_eq!(table.show(Paint(false)), "    COUNT  REASON\n1,234,567  µ\n        2  b\n");
    }

    #[test]
    fn wrapped_lines_keep_to_the_width_and_lose_no_word() {
        let text = "one two three four ".repeat(20);
        let wrapped = wrap(&text, 10);
        assert!(wrapped.lines().all(|line| line.chars().count() <= LINE_CHARS && line.starts_with("          ")));
        assert!(wrapped.split_whitespace().eq(text.split_whitespace()));
    }

    #[test]
    fn colours_are_for_terminals_and_no_color_switches_them_off() {
        let os = OsStr::new;
        assert_eq!(Paint::wanted(None, Some(os("xterm")), true), Paint(true));
        assert_eq!(Paint::wanted(Some(os("")), Some(os("xterm")), true), Paint(true));
        assert_eq!(Paint::wanted(Some(os("1")), Some(os("xterm")), true), Paint(false));
        assert_eq!(Paint::wanted(None, Some(os("dumb")), true), Paint(false));
        assert_eq!(Paint::wanted(None, Some(os("xterm")), false), Paint(false));
    }
}
