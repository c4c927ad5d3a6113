//! What jobs say, and what the load generator's report says, for whoever judges a job with the real node.

use crate::guest::Phase;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The first thing said under `key`.
pub(crate) fn one<'a>(phase: &'a Phase, key: &str) -> Result<&'a str> {
    let found = phase.said.iter().find(|(said, _)| said == key);
    found.map(|(_, value)| value.as_str()).with_context(|| format!("the job never said {key}"))
}

/// What was said under `key` of what is called `name`: one JSON object.
pub(crate) fn object(phase: &Phase, key: &str, name: &str) -> Result<Value> {
    let mut said = phase.said.iter().filter(|(said, _)| said == key).filter_map(|(_, value)| value.split_once(' '));
    let (_, text) = said.find(|(said, _)| *said == name).with_context(|| format!("the job never said {key} {name}"))?;
    serde_json::from_str(text).with_context(|| format!("{key} {name} is {text:?}"))
}

/// What of a load's report is told on.
pub(crate) struct Load(pub(crate) Value);

impl Load {
    pub(crate) fn of(phase: &Phase, name: &str) -> Result<Self> {
        Ok(Self(object(phase, "load", name)?))
    }

    pub(crate) fn count(&self, path: &str) -> u64 {
        self.0.pointer(path).and_then(Value::as_u64).unwrap_or(u64::MAX)
    }

    pub(crate) fn reasons(&self, ledger: &str) -> Value {
        self.0.pointer(&format!("/ledgers/{ledger}/reasons")).cloned().unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        let report = &self.0;
        json!({
            "offered_frames": report["offered_frames"], "seen": report["ledgers"]["frames"]["seen"],
            "due": report["ledgers"]["copies"]["due"], "given": report["ledgers"]["copies"]["given"],
            "received": report["received_copies"], "unaccounted": report["unaccounted"],
            "lost_before": report["lost_before_us"]["frames"], "lost_before_by": report["lost_before_us"]["source"],
            "send_errors": report["lost_before_us"]["send_errors"], "unknown": report["lost_before_us"]["unknown"],
            "lost_after": report["lost_after_us"]["copies"], "lost_after_by": report["lost_after_us"]["source"],
            "frame_reasons": self.reasons("frames"), "message_reasons": self.reasons("messages"),
            "copy_reasons": self.reasons("copies"), "findings": report["findings"],
        })
    }

    /// Whether the node saw what was offered: all that left, and of what may have left or not any part.
    pub(crate) fn is_seen(&self) -> bool {
        let [offered, seen] = ["/offered_frames", "/ledgers/frames/seen"].map(|path| self.count(path));
        let [errors, unknown] = ["send_errors", "unknown"].map(|name| self.count(&format!("/lost_before_us/{name}")));
        let left = offered.saturating_sub(errors);
        (left..=left.saturating_add(unknown)).contains(&seen)
    }

    /// Whether nothing was refused for any of a ledger's reasons.
    pub(crate) fn is_clean(&self, ledger: &str) -> bool {
        self.reasons(ledger).as_object().is_none_or(|reasons| reasons.values().all(|count| *count == 0))
    }
}

/// A load that arrived as it was sent: nothing refused, and nothing lost but what a full socket or card is known to have
/// dropped, which may happen where all processors of the guest stand still for a while.
pub(crate) fn exact(phase: &Phase, name: &str) -> Result<Value> {
    let load = Load::of(phase, name)?;
    let json = load.json();
    let lost = |side: &str, count: &str, sources: &[&str]| {
        let named = json[format!("lost_{side}_by")].as_str().is_some_and(|source| sources.contains(&source));
        let lost = load.count(&format!("/lost_{side}_us/{count}"));
        if named { lost } else { 0 }
    };
    let before = lost("before", "frames", &["socket_overflow", "receive_starved"]);
    let after = lost("after", "copies", &["subscriber_overflow"]);
    let same = load.count("/offered_frames") == load.count("/ledgers/frames/seen").saturating_add(before)
        && load.count("/ledgers/copies/due") == load.count("/received_copies").saturating_add(after)
        && load.count("/received_copies") > 0
        && load.count("/unaccounted") == 0;
    let clean = ["frames", "messages", "copies"].into_iter().all(|ledger| load.is_clean(ledger));
    ensure!(same && clean, "load {name} is not exact: {json}");
    Ok(json)
}
