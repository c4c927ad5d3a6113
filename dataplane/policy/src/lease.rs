//! Leases: the part of each sender's quota that one worker may spend.

use crate::{
    govern::Inputs,
    tables::{SenderState, Tables, now, part, span},
};
use tachyon_wire::{
    command::{Lease, SHARE_ALL},
    image::BUCKET_SPAN_MAX,
};

/// Sets the share of a sender's quota that this worker may spend, from the tick in `inputs` on. A sender past the table is
/// ignored, a share above the whole is the whole.
///
/// The bucket keeps its level in *messages*, cut to the new burst, so moving shares makes no message out of nothing. With
/// shares that never add up to more than [`SHARE_ALL`] at any time (decrease first, increase once that is in force), all
/// workers together admit in any time `t`, however often shares move, at most
/// `burst + t / period + one message per worker` under one version.
/// Where no ruleset is usable the bucket starts empty under the next one.
pub fn set_lease(inputs: &Inputs<'_>, tables: &mut Tables<'_>, lease: Lease) {
    let default_share = tables.default_share;
    let sender_id = lease.sender_id.get();
    let Some(state) = tables.senders.get_mut(sender_id as usize) else { return };
    let share = lease.share.get().min(SHARE_ALL);
    let now = now(inputs.tick_ns);
    match inputs.ruleset {
        Ok(ruleset) => {
            let version = ruleset.version_word();
            if state.version != version {
                state.adopt(&ruleset, version, sender_id, default_share, now);
            }
            let (period, burst) = ruleset.sender(sender_id).map_or((0, 0), |rule| part(rule, share));
            relevel(state, period, burst, now);
        }
        Err(_) => *state = SenderState { tat: now + BUCKET_SPAN_MAX, version: 0, ..*state },
    }
    state.share = share + 1;
}

/// Gives a bucket another period and burst, keeping its messages as far as the new burst holds them.
fn relevel(state: &mut SenderState, period: u64, burst: u32, now: u64) {
    let debt = state.tat.saturating_sub(now);
    let credit = u128::from(span(state.period, state.burst()).saturating_sub(debt));
    let full = span(period, burst);
    if state.period != 0 {
        // Rounded down: a part of a message is lost rather than made.
        let kept = credit * u128::from(period) / u128::from(state.period);
        state.tat = now + full - u64::try_from(kept).unwrap_or(full).min(full);
    }
    (state.period, state.more) = (period, burst.wrapping_sub(1));
}
