//! Medians, and rows with what they are held to.

use serde_json::{Value, json};

/// The middle of some figures; of two in the middle the lower one. Not a number if there are none.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// Millions a CPU-second, and the ratio of both.
pub(crate) struct Rates {
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    pub(crate) ratio: f64,
}

/// A row of two rates; without a target it is only told.
pub(crate) fn row(case: &str, rates: &Rates, peer: &str, target: Option<f64>) -> Value {
    json!({
        "case": case,
        "ours_mpps": rounded(rates.ours),
        "peer": peer,
        "peer_mpps": rounded(rates.theirs),
        "ratio": rounded(rates.ratio),
        "target": target,
        "reached": target.map(|target| rates.ratio >= target),
    })
}

/// A row of a time in ns that has to stay below a limit, beside the time of a program that does nothing.
pub(crate) fn cost(case: &str, way: &str, ns: f64, empty_ns: f64, limit: Option<f64>) -> Value {
    json!({
        "case": case,
        "way": way,
        "ours_ns": (ns * 10.0).round() / 10.0,
        "peer": "an empty program",
        "peer_ns": (empty_ns * 10.0).round() / 10.0,
        "target": limit,
        "reached": limit.map(|limit| ns <= limit),
    })
}

fn rounded(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}
