//! One shard's log as it is written: what goes into it besides turns, when a group is committed, and what becomes of it when
//! its disk fails.

use super::{
    Now, Settings,
    known::{Image, Known, Place},
    rulesets::Rulesets,
    windows::Windows,
};
use std::collections::HashSet;
use tachyon_log::{
    Appender, Config, Error, Files, Record, State, Storage,
    cursor::body_bytes_max,
    record::{Arrival, Clock, Gap, Kind, Piece},
};
use tachyon_wire::Reason;

/// How long a failed log is left alone before it is opened anew.
const REOPEN_NS: u64 = 1_000_000_000;
/// The same for a damaged one: it is read again in the hope that somebody restored it, which costs reading two segments.
const REREAD_NS: u64 = 10_000_000_000;
/// How long the disk may take for what it was given before publishers are told: as long as a worker waits for a beat.
const STALL_NS: u64 = 2_000_000_000;
/// How long a log is idle before an empty commit says that the last one is durable.
const MARK_AFTER_NS: u64 = 1_000_000_000;
/// How long a full disk is left alone before it is tried again.
const RETRY_FULL_NS: u64 = 1_000_000_000;
/// An image of at most this part of a segment is in every segment that uses it, so that a segment can be replayed without
/// those before it.
const IMAGE_SHARE: u64 = 32;

/// Nothing was taken now; the same again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait;

/// Why a shard takes no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// What publishers are told.
    pub(crate) reason: Reason,
    /// What the operator is told.
    pub(crate) why: String,
}

/// The group that is being filled, and what waits for a sync. Ticks in nanoseconds.
#[derive(Debug, Default)]
struct Group {
    /// When its first record came; `None` = it is empty.
    since: Option<u64>,
    /// Whether a message in it waits for stable storage.
    durable: bool,
    /// Sequence behind the last commit that was closed.
    closed: u64,
    /// Sequence up to which a sync was asked for, and when the first record before it came that is not durable.
    syncing: u64,
    oldest: Option<u64>,
    /// When the first record behind `syncing` came.
    unsynced: Option<u64>,
    /// When the disk did something last, or had nothing to do.
    moved: u64,
}

/// Where a log is to be opened.
pub(crate) struct Room<S> {
    pub(crate) storage: S,
    /// For a new log: a number that no other has.
    pub(crate) log_id: [u8; 16],
    /// What was said of its sessions, the newest first, each with its name.
    pub(crate) snapshots: Vec<(String, Vec<u8>)>,
}

/// A shard's log.
pub(crate) struct Shard<S> {
    number: u16,
    appender: Option<Appender<S>>,
    known: Known,
    /// What it says of sessions; or why that is not known.
    windows: Result<Windows, String>,
    /// The segment that has a clock record of this start of `tachyond` already.
    clocked: Option<u64>,
    /// The image that is being written: its version and how much of it is there.
    writing: Option<(u64, u64)>,
    /// Versions whose image we do not have, where the log says so.
    missing: HashSet<u64>,
    /// What was lost and is still to be written down.
    gap: Option<Gap>,
    /// Records before this sequence were said to be as stable as they ask for.
    told: u64,
    last_tick: u64,
    group: Group,
    trouble: Option<Trouble>,
    /// What the scrub found.
    damage: Option<String>,
    retry_at: u64,
    opened: u64,
}

impl<S: Storage> Shard<S> {
    /// A log that is not open yet.
    pub(crate) fn new(number: u16) -> Self {
        Self {
            number,
            appender: None,
            known: Known::default(),
            windows: Err("its log is not open".to_owned()),
            clocked: None,
            writing: None,
            missing: HashSet::new(),
            gap: None,
            told: 0,
            last_tick: 0,
            group: Group::default(),
            trouble: None,
            damage: None,
            retry_at: 0,
            opened: 0,
        }
    }

    /// Opens it if it is closed and was left alone for long enough. Waits for the disk.
    pub(crate) fn open(&mut self, now: Now, settings: &Settings, room: impl FnOnce() -> std::io::Result<Room<S>>) {
        if self.appender.is_some() || now.tick < self.retry_at {
            return;
        }
        let config = |log_id| Config {
            shard: self.number,
            log_id,
            segment_bytes: settings.segment_bytes,
            mark_after_ns: MARK_AFTER_NS,
            retry_after_ns: RETRY_FULL_NS,
        };
        let room = room().map_err(|source| Error::Storage { what: "open the log's folder".to_owned(), source });
        let opened = room.and_then(|Room { storage, log_id, snapshots }| {
            let mut appender = Appender::open(storage, config(log_id), now.tick)?;
            Ok((Known::read(appender.storage())?, appender, snapshots))
        });
        match opened {
            Ok((known, mut appender, snapshots)) => {
                let records = appender.next_sequence();
                self.windows = read_windows(self.number, appender.storage(), records, &snapshots);
                self.take_up(now, known, appender);
            }
            Err(error) => self.fail(now, &error),
        }
    }

    fn take_up(&mut self, now: Now, known: Known, appender: Appender<S>) {
        let next = appender.next_sequence();
        if next < self.told {
            // Said to be written, and not asked to be stable: the disk lost it, and the ring has it no more.
            let count = self.told - next;
            tracing::warn!("log of shard {}: {count} records that were only logged are lost", self.number);
            self.gap = Some(gap(count, self.last_tick, now.tick, Reason::PersistUnavailable, None));
        }
        self.change_trouble(None);
        self.told = next;
        self.known = known;
        self.clocked = None;
        self.writing = None;
        self.group = Group { closed: next, syncing: next, moved: now.tick, ..Group::default() };
        self.appender = Some(appender);
        self.opened += 1;
    }

    /// Whether it is open, and so what it has is known.
    pub(crate) const fn is_open(&self) -> bool {
        self.appender.is_some()
    }

    /// Closes it after an error; what was not durable is read again from there on.
    fn fail(&mut self, now: Now, error: &Error) {
        self.change_trouble(Some(trouble_of(error)));
        let pause = if matches!(error, Error::Damaged(_)) { REREAD_NS } else { REOPEN_NS };
        self.retry_at = now.tick.saturating_add(pause);
        self.appender = None;
        // What it has is known again once it is read.
        self.known = Known::default();
        self.windows = Err("its log is not open".to_owned());
    }

    fn change_trouble(&mut self, trouble: Option<Trouble>) {
        if self.trouble != trouble {
            match &trouble {
                Some(trouble) => tracing::error!("log of shard {}: {}", self.number, trouble.why),
                None => tracing::info!("log of shard {}: goes on", self.number),
            }
            self.trouble = trouble;
        }
    }

    /// Why it takes nothing, if so.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let damaged = |why: &String| Trouble { reason: Reason::PersistCorrupt, why: why.clone() };
        self.damage.as_ref().map(damaged).or_else(|| self.trouble.clone())
    }

    /// What the scrub found: a reason to take nothing, or that all is well again.
    pub(crate) fn set_damage(&mut self, damage: Option<String>) {
        if let Some(found) = damage.as_ref().filter(|found| self.damage.as_ref() != Some(found)) {
            tracing::error!("log of shard {}: {found}", self.number);
        }
        self.damage = damage;
    }

    /// How far a worker's turns of this start of `tachyond` are here.
    pub(crate) fn place(&self, worker: u16, boot_id: &[u8; 16]) -> Place {
        if self.known.boot_id == Some(*boot_id) { self.known.place(worker) } else { Place::default() }
    }

    /// How often it was opened: what was not durable before may be gone.
    pub(crate) const fn opened(&self) -> u64 {
        self.opened
    }

    /// Tick of the turn behind the newest gap.
    pub(crate) const fn gap_tick(&self) -> Option<u64> {
        self.known.gap_tick
    }

    /// Sequence of the next record, and those up to which all is written and durable; zeros while it is closed.
    pub(crate) fn progress(&self) -> (u64, u64, u64) {
        self.appender.as_ref().map_or((0, 0, 0), |appender| {
            let progress = appender.progress();
            (appender.next_sequence(), progress.written, progress.durable)
        })
    }

    /// Notes that records before this sequence were said to be as stable as they ask for.
    pub(crate) fn tell(&mut self, sequence: u64) {
        self.told = self.told.max(sequence);
    }

    /// What the log says of sessions, if all of it is on stable storage.
    ///
    /// # Errors
    /// Why that is not known; what is not durable yet is on its way.
    pub(crate) fn windows(&mut self) -> Result<(&Windows, &mut S), String> {
        if let Some(trouble) = self.trouble() {
            return Err(trouble.why);
        }
        let (next, _, durable) = self.progress();
        if durable < next {
            self.ask_for_sync();
            return Err("the disk takes too long".to_owned());
        }
        let windows = self.windows.as_ref().map_err(Clone::clone)?;
        let appender = self.appender.as_mut().ok_or("its log is not open")?;
        Ok((windows, appender.storage()))
    }

    /// A snapshot of what it says of sessions, and the records that it covers; nothing if those are no more than `covered`.
    pub(crate) fn snapshot(&self, covered: u64) -> Option<(u64, Vec<u8>)> {
        let windows = self.windows.as_ref().ok().filter(|windows| windows.next() > covered)?;
        Some((windows.next(), windows.to_snapshot()))
    }

    pub(crate) fn appender(&mut self) -> Option<&mut Appender<S>> {
        self.appender.as_mut()
    }

    /// Most bytes of a record's body.
    pub(crate) const fn body_bytes_max() -> usize {
        body_bytes_max(super::folders::SLOT_BYTES)
    }

    /// Appends a record.
    ///
    /// # Errors
    /// It has to wait.
    pub(crate) fn append(&mut self, now: Now, tick: u64, record: &Record<'_>) -> Result<(), Wait> {
        let Some(appender) = self.appender.as_mut().filter(|_| self.damage.is_none()) else { return Err(Wait) };
        match appender.append(tick, record) {
            Ok(sequence) => {
                if let Ok(windows) = &mut self.windows {
                    windows.take(sequence, record);
                }
                self.group.since.get_or_insert(now.tick);
                self.group.unsynced.get_or_insert(now.tick);
                self.last_tick = tick;
                Ok(())
            }
            Err(Error::DiskFull) => {
                self.trouble.get_or_insert_with(|| trouble_of(&Error::DiskFull));
                Err(Wait)
            }
            Err(Error::Busy | Error::Failed) => Err(Wait),
            Err(error) => {
                self.fail(now, &error);
                Err(Wait)
            }
        }
    }

    /// Writes what has to be there before a turn: what was lost, the clocks, and the ruleset that the turn was judged under.
    ///
    /// # Errors
    /// It has to wait.
    pub(crate) fn prepare(
        &mut self,
        now: Now,
        boot_id: &[u8; 16],
        version: u64,
        rulesets: &Rulesets,
        settings: &Settings,
    ) -> Result<(), Wait> {
        let segment = self.appender.as_ref().ok_or(Wait)?.active_segment();
        if let Some(gap) = self.gap {
            self.append(now, now.tick, &Record::Gap(gap))?;
            self.gap = None;
        }
        if self.clocked != Some(segment) || self.known.boot_id != Some(*boot_id) {
            self.clock(now, boot_id)?;
            self.clocked = Some(segment);
        }
        if version == 0 { Ok(()) } else { self.ruleset(now, version, rulesets, settings) }
    }

    /// Writes what the clocks say.
    ///
    /// # Errors
    /// It has to wait.
    pub(crate) fn clock(&mut self, now: Now, boot_id: &[u8; 16]) -> Result<(), Wait> {
        let boot = u8::from(self.known.boot_id != Some(*boot_id));
        let clock = Clock { boot_id: *boot_id, unix_ns: now.unix_ns.into(), boot, reserved: [0; 7] };
        self.append(now, now.tick, &Record::Clock(clock))?;
        self.known.clock(&clock);
        Ok(())
    }

    fn ruleset(&mut self, now: Now, version: u64, rulesets: &Rulesets, settings: &Settings) -> Result<(), Wait> {
        let segment = self.appender.as_ref().ok_or(Wait)?.active_segment();
        let Some(ruleset) = rulesets.get(version) else {
            let known = self.known.images.contains_key(&version) || self.missing.contains(&version);
            if !known {
                tracing::warn!(
                    "log of shard {}: the image of ruleset {version} is not there to be written",
                    self.number
                );
                let lost = gap(1, now.tick, now.tick, Reason::PersistUnavailable, Some(Kind::Ruleset));
                self.append(now, now.tick, &Record::Gap(lost))?;
                self.missing.insert(version);
            }
            return Ok(());
        };
        let small = ruleset.bytes.len() as u64 <= settings.segment_bytes / IMAGE_SHARE;
        let has = |image: &&Image| image.hash == ruleset.hash && (!small || image.segment == segment);
        if self.known.images.get(&version).as_ref().is_some_and(has) {
            return Ok(());
        }
        let total_bytes = ruleset.bytes.len() as u64;
        let pieces = ruleset.bytes.chunks(Self::body_bytes_max() - size_of::<Piece>());
        let done = self.writing.filter(|(writing, _)| *writing == version).map_or(0, |(_, bytes)| bytes);
        let mut offset = 0;
        for bytes in pieces {
            if offset >= done {
                let piece = Piece { version: version.into(), total_bytes: total_bytes.into(), offset: offset.into() };
                self.append(now, now.tick, &Record::Ruleset(piece, bytes))?;
                self.writing = Some((version, offset + bytes.len() as u64));
            }
            offset += bytes.len() as u64;
        }
        self.writing = None;
        // The segment that it began in: one that ends in the next is written again there, which is rare and does no harm.
        self.known.images.insert(version, Image { hash: ruleset.hash, segment });
        Ok(())
    }

    /// Forgets images whose records retention took away, so that they are written again.
    pub(crate) fn forget_images(&mut self, before: u64) {
        self.known.images.retain(|_, image| image.segment >= before);
    }

    /// Appends a frame of a turn.
    ///
    /// # Errors
    /// It has to wait.
    pub(crate) fn frame(&mut self, now: Now, tick: u64, turn: u64, arrival: Arrival, bytes: &[u8]) -> Result<(), Wait> {
        self.append(now, tick, &Record::Frame(arrival, bytes))?;
        let place = self.known.places.entry(arrival.worker.get()).or_default();
        place.reach(turn);
        place.frames += 1;
        Ok(())
    }

    /// Appends a record of decisions of a turn.
    ///
    /// # Errors
    /// It has to wait.
    pub(crate) fn decisions(&mut self, now: Now, tick: u64, worker: u16, turn: u64, body: &[u8]) -> Result<(), Wait> {
        self.append(now, tick, &Record::Decisions(body))?;
        let place = self.known.places.entry(worker).or_default();
        place.reach(turn);
        place.bodies += 1;
        Ok(())
    }

    /// Appends a gap in front of the turn with this tick, once.
    ///
    /// # Errors
    /// It has to wait.
    pub(crate) fn gap(&mut self, now: Now, gap: Gap) -> Result<(), Wait> {
        self.append(now, now.tick, &Record::Gap(gap))?;
        self.known.gap_tick = Some(gap.last_tick.get());
        Ok(())
    }

    /// Appends a gap before the next turn, because it cannot be written now.
    pub(crate) const fn owe(&mut self, gap: Gap) {
        self.gap = Some(gap);
    }

    /// Has the group that is filled written as soon as the disk is free, and synced.
    pub(crate) const fn ask_for_sync(&mut self) {
        self.group.durable = true;
    }

    /// Closes a group if it is time, and looks what the disk did. False if the log failed: whoever has records in it that
    /// are not stable has to bring them again.
    pub(crate) fn poll(&mut self, now: Now, settings: &Settings) -> bool {
        let Some(appender) = &mut self.appender else { return true };
        self.group.close(now.tick, settings, appender);
        let before = appender.progress();
        match appender.poll(now.tick) {
            Ok(progress) => {
                let next = appender.next_sequence();
                self.group.look(now.tick, &before, &progress, next);
                let stalled = now.tick.saturating_sub(self.group.moved) >= STALL_NS;
                let trouble = match progress.state {
                    State::Full => Some(trouble_of(&Error::DiskFull)),
                    _ if stalled => Some(Trouble {
                        reason: Error::Busy.reason(),
                        why: "the disk has done nothing for two seconds; check it, and what else writes to it"
                            .to_owned(),
                    }),
                    _ => None,
                };
                self.change_trouble(trouble);
                true
            }
            Err(error) => {
                self.fail(now, &error);
                false
            }
        }
    }

    /// How long ago the first record came that is not durable, in nanoseconds; 0 if all are.
    pub(crate) fn loss_window_ns(&self, now: Now) -> u64 {
        self.group.oldest.or(self.group.unsynced).map_or(0, |since| now.tick.saturating_sub(since))
    }

    /// One step towards an orderly end; true once everything is durable, or nothing more can be done.
    pub(crate) fn finish(&mut self, now: Now) -> bool {
        self.appender.as_mut().is_none_or(|appender| appender.finish(now.tick).unwrap_or(true))
    }
}

impl Group {
    /// A group with a durable message waits for the disk alone, any other for the interval; a sync comes with the first
    /// or when the loss window would get too long.
    fn close<S: Storage>(&mut self, now: u64, settings: &Settings, appender: &mut Appender<S>) {
        let old = |since: Option<u64>, limit: u64| since.is_some_and(|since| now.saturating_sub(since) >= limit);
        let free = appender.progress().written >= self.closed;
        let syncs = self.durable || old(self.unsynced, settings.loss_window_ns);
        let due = old(self.since, settings.commit_interval_ns) || (self.durable && free);
        if !due && !syncs {
            return;
        }
        if self.durable && !free && !old(self.since, settings.commit_interval_ns) {
            return;
        }
        appender.commit(now, syncs);
        self.closed = appender.next_sequence();
        self.since = None;
        self.durable = false;
        if syncs {
            self.syncing = self.closed;
            self.oldest = self.oldest.or(self.unsynced.take());
            self.unsynced = None;
        }
    }

    /// Notes what the disk did.
    fn look(&mut self, now: u64, before: &tachyon_log::Progress, after: &tachyon_log::Progress, next: u64) {
        let idle = after.written >= self.closed && after.durable >= self.syncing;
        if idle || before.written != after.written || before.durable != after.durable {
            self.moved = now;
        }
        if after.durable >= self.syncing {
            self.oldest = None;
        }
        if after.durable >= next {
            self.unsynced = None;
        }
    }
}

/// What a log says of sessions: from the newest snapshot that can be used, and the records behind it. Where those are damaged nobody
/// knows what stood there, and so nothing is said.
fn read_windows(
    number: u16,
    files: &mut impl Files,
    records: u64,
    snapshots: &[(String, Vec<u8>)],
) -> Result<Windows, String> {
    for (name, bytes) in snapshots {
        let read = Windows::from_snapshot(bytes, records).and_then(|mut windows| {
            windows.read_on(files).map_err(|error| error.to_string())?;
            Ok(windows)
        });
        match read {
            Ok(windows) => return Ok(windows),
            Err(why) => tracing::warn!("log of shard {number}: {name} is not used, but what is older: {why}"),
        }
    }
    let mut windows = Windows::default();
    let read = windows.read_on(files).map_err(|error| error.to_string());
    read.inspect_err(|why| tracing::warn!("log of shard {number}: its sessions are not known: {why}"))?;
    Ok(windows)
}

fn trouble_of(error: &Error) -> Trouble {
    Trouble { reason: error.reason(), why: error.to_string() }
}

/// A record of what is lost; `kind` is `None` where several kinds are.
pub(crate) fn gap(count: u64, first_tick: u64, last_tick: u64, reason: Reason, kind: Option<Kind>) -> Gap {
    Gap {
        count: count.into(),
        first_tick: first_tick.into(),
        last_tick: last_tick.into(),
        reason: reason.number(),
        kind: kind.map_or(0, |kind| kind as u8),
        reserved: [0; 6],
    }
}
