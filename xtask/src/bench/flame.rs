//! A flame graph: where samples were taken, each function as wide as its share, callees on top of callers.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

/// Width of the picture.
const WIDTH: f64 = 1_200.0;
/// Height of a function.
const ROW: f64 = 17.0;
/// Width of a letter, about.
const LETTER: f64 = 6.6;
/// A function narrower than this is left out, and its callees with it.
const NARROWEST: f64 = 0.3;

/// A function where it was called from one place: its samples, and what it called.
#[derive(Debug, Default)]
struct Frame {
    samples: u64,
    /// Samples taken in it and not in what it called.
    own: u64,
    callees: BTreeMap<String, Frame>,
}

/// Samples, merged by their stacks.
#[derive(Debug, Default)]
pub(crate) struct Stacks(Frame);

impl Stacks {
    /// From what `perf script -F ip,sym` prints: stacks innermost first, an empty line between them. Of each, what lies
    /// inside the outermost function whose name contains `root`; stacks without it are left out.
    pub(crate) fn read(script: &str, root: &str) -> Self {
        let mut stacks = Self::default();
        for stack in script.split("\n\n") {
            let names: Vec<String> = stack.lines().filter_map(name).collect();
            if let Some(outermost) = names.iter().rposition(|name| name.contains(root)) {
                stacks.add(names[..=outermost].iter().rev());
            }
        }
        stacks
    }

    fn add<'n>(&mut self, names: impl Iterator<Item = &'n String>) {
        let mut at = &mut self.0;
        at.samples += 1;
        for name in names {
            at = at.callees.entry(name.clone()).or_default();
            at.samples += 1;
        }
        at.own += 1;
    }

    /// How many there are.
    pub(crate) fn samples(&self) -> u64 {
        self.0.samples
    }

    /// The functions that most samples were taken in, with their share of all.
    pub(crate) fn leaves(&self) -> Vec<(String, f64)> {
        fn collect(frame: &Frame, into: &mut BTreeMap<String, u64>) {
            for (name, callee) in &frame.callees {
                *into.entry(name.clone()).or_default() += callee.own;
                collect(callee, into);
            }
        }
        let mut own = BTreeMap::new();
        collect(&self.0, &mut own);
        let mut shares: Vec<(String, f64)> =
            own.into_iter().map(|(name, count)| (name, count as f64 / self.samples().max(1) as f64)).collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        shares.truncate(12);
        shares
    }

    /// The picture.
    pub(crate) fn svg(&self, title: &str) -> String {
        let height = ROW * (depth(&self.0) as f64 + 2.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"monospace\" \
             font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"4\" y=\"12\">{} ({} samples)</text>\n",
            escaped(title),
            self.samples()
        );
        let mut left = 0.0;
        for (name, frame) in &self.0.callees {
            let drawn = self.draw(&mut svg, name, frame, left, height - ROW);
            debug_assert!(drawn.is_ok(), "a string takes whatever is written");
            left += self.width(frame);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn width(&self, frame: &Frame) -> f64 {
        frame.samples as f64 / self.samples().max(1) as f64 * WIDTH
    }

    fn draw(&self, svg: &mut String, name: &str, frame: &Frame, left: f64, top: f64) -> fmt::Result {
        let width = self.width(frame);
        if width < NARROWEST {
            return Ok(());
        }
        let share = width / WIDTH * 100.0;
        let name_whole = escaped(name);
        writeln!(
            svg,
            "<g><title>{name_whole}: {share:.2} %, {} samples</title><rect x=\"{left:.1}\" y=\"{top:.0}\" width=\"{width:.1}\" \
             height=\"{:.0}\" fill=\"{}\" stroke=\"#fff\" stroke-width=\"0.5\"/>",
            frame.samples,
            ROW - 1.0,
            color(name)
        )?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a width in letters")]
        let letters = (width / LETTER) as usize;
        if letters > 3 {
            let short: String = name.chars().take(letters).collect();
            writeln!(svg, "<text x=\"{:.1}\" y=\"{:.0}\">{}</text>", left + 2.0, top + 12.0, escaped(&short))?;
        }
        svg.push_str("</g>\n");
        let mut at = left;
        for (name, callee) in &frame.callees {
            self.draw(svg, name, callee, at, top - ROW)?;
            at += self.width(callee);
        }
        Ok(())
    }
}

/// The function of a line that `perf script` prints: an address, the name, and for inlined ones a remark.
fn name(line: &str) -> Option<String> {
    let (_, name) = line.trim().split_once(' ')?;
    let name = name.trim_end_matches(" (inlined)");
    // The compiler's hash of a name says nothing to a reader, and types in brackets say too much; but a name that opens
    // with one has nothing else.
    let cut = name.rfind("::h").filter(|at| name.len() - at == 19).unwrap_or(name.len());
    let bracket = name[..cut].find('<').filter(|at| *at > 0 && !name[*at..cut].contains(">::")).unwrap_or(cut);
    Some(name[..bracket].to_owned())
}

fn depth(frame: &Frame) -> usize {
    frame.callees.values().map(|callee| 1 + depth(callee)).max().unwrap_or(0)
}

/// A warm color, always the same for one name.
fn color(name: &str) -> String {
    let hash = name.bytes().fold(5_381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    format!("rgb({},{},{})", 205 + hash % 50, 90 + (hash >> 8) % 120, (hash >> 16) % 60)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_merged_below_what_was_measured() {
        let script = "  1 inner::h0123456789abcdef\n  2 drain\n  3 main\n\n  4 other (inlined)\n  2 drain\n  3 main\n\n  5 load\n  3 main\n";
        let stacks = Stacks::read(script, "drain");
        assert_eq!(stacks.samples(), 2);
        assert_eq!(stacks.leaves()[..2], [("inner".to_owned(), 0.5), ("other".to_owned(), 0.5)]);
        let svg = stacks.svg("a < b");
        assert!(svg.contains("a &lt; b") && svg.contains(">drain") && !svg.contains("main"), "{svg}");
    }
}
