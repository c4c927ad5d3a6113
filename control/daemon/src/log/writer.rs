//! The writer of all logs on one disk: turns come from the workers' rings, go to the logs of their shards, and what became of
//! them goes back. It is stepped, and told the time; the thread around it is elsewhere.

use super::{
    Now, Restored, Settings,
    chores::Chores,
    folders::{Folders, shard_folder},
    keys::{KeyFile, SigningKey},
    rulesets::Rulesets,
    scrub::Scrub,
    shard::{Room, Shard, Wait, gap},
    source::Source,
    status::{LogStatus, ShardStatus, WorkerStatus},
    worker::{Need, Pending, Worker},
};
use std::{collections::BTreeMap, io, sync::Arc};
use tachyon_log::{
    record::{Arrival, Kind},
    turn::{burst, split},
};
use tachyon_wire::Reason;
use tracing::{error, warn};

/// Most turns of a worker that are taken in one step, so that the disks are looked after in between.
const TURNS_PER_STEP: usize = 256;

/// One shard's log and what is done for it.
struct Entry<S> {
    shard: Shard<S>,
    chores: Chores,
}

/// The writer.
pub(crate) struct Writer<F: Folders, T> {
    settings: Settings,
    folders: F,
    signing: SigningKey,
    keys: Option<KeyFile>,
    keys_problem: String,
    rulesets: Rulesets,
    boot_id: [u8; 16],
    workers: Vec<Worker<T>>,
    shards: BTreeMap<u16, Entry<F::Storage>>,
    scrub: Scrub<F::Reader>,
}

impl<F: Folders, T: Source> Writer<F, T> {
    /// A writer without workers.
    pub(crate) fn new(
        settings: Settings,
        folders: F,
        signing: SigningKey,
        keys: Option<KeyFile>,
        rulesets: Rulesets,
    ) -> Self {
        let scrub = Scrub::new(settings.scrub_bytes_per_s);
        Self {
            settings,
            folders,
            signing,
            keys,
            keys_problem: String::new(),
            rulesets,
            boot_id: [0; 16],
            workers: Vec::new(),
            shards: BTreeMap::new(),
            scrub,
        }
    }

    /// One step towards having what an earlier start of `tachyond` than this one has left in its rings: nobody will send it again who
    /// has an answer already. True once all of it is as stable as it asks for.
    pub(crate) fn drain(&mut self, now: Now, boot_id: [u8; 16]) -> bool {
        if boot_id == self.boot_id {
            return true;
        }
        self.step(now);
        // Once more, because a log that failed in the step has its turns read again.
        for index in 0..self.workers.len() {
            while self.take_turns(now, index) {}
        }
        self.workers.iter().all(|worker| worker.is_read() && worker.is_settled())
    }

    /// Takes up the taps of a start of `tachyond`, in place of those before, for which see [`Writer::drain`]. What that did not get is lost.
    pub(crate) fn attach(&mut self, now: Now, boot_id: [u8; 16], sources: Vec<T>) {
        if boot_id != self.boot_id {
            for index in 0..self.workers.len() {
                if !self.workers[index].is_read() {
                    self.give_up(
                        now,
                        index,
                        "its tachyond is gone, and the log did not take the rest in time".to_owned(),
                    );
                }
            }
        }
        self.boot_id = boot_id;
        self.workers.clear();
        self.workers.extend(sources.into_iter().map(Worker::new));
        for index in 0..self.workers.len() {
            self.workers[index].newest = self.newest(now, index).map(|turn| (turn, 0));
        }
        self.tell_states();
    }

    /// The newest turn of a worker that the logs of its shards have; `None` while one of them cannot be read.
    fn newest(&mut self, now: Now, index: usize) -> Option<u64> {
        let source = &self.workers[index].source;
        let (worker, boot_id) = (source.worker(), self.boot_id);
        let shards: Vec<u16> = source.shards().iter().copied().filter(|shard| self.folders.exists(*shard)).collect();
        let mut newest = 0;
        for shard in shards {
            let shard = self.open(now, shard);
            if !shard.is_open() {
                return None;
            }
            newest = newest.max(shard.place(worker, &boot_id).turn);
        }
        Some(newest)
    }

    /// What the attached start of `tachyond` has to know of these sessions; `None` while patience may help.
    pub(crate) fn restored(&mut self, now: Now, sessions: &[u32], patient: bool) -> Option<Restored> {
        let shards = self.workers.iter().flat_map(|worker| worker.source.shards().to_vec());
        let shards: Vec<u16> =
            shards.filter(|shard| self.shards.contains_key(shard) || self.folders.exists(*shard)).collect();
        let mut restored = Restored::default();
        let mut unsure = false;
        for number in shards {
            self.open(now, number);
            let Some(Entry { shard, .. }) = self.shards.get_mut(&number) else { continue };
            let (windows, files) = match shard.windows() {
                Ok(known) => known,
                Err(why) => {
                    unsure = true;
                    restored.problems.push(format!("shard {number}: {why}"));
                    continue;
                }
            };
            for session_id in sessions {
                restored.windows.entry(*session_id).or_default().extend(windows.of(*session_id, number));
            }
            match windows.again(files) {
                Ok((again, 0)) => restored.again.extend(again),
                Ok((again, more)) => {
                    restored.again.extend(again);
                    let lost = "messages with payload in their frame may not have left and are not forwarded again";
                    restored.problems.push(format!("shard {number}: {more} {lost}"));
                }
                Err(error) => restored.problems.push(format!("shard {number}: {error}")),
            }
        }
        restored.windows.retain(|_, parts| !parts.is_empty());
        (!unsure || !patient).then_some(restored)
    }

    /// Takes an image, before any turn is judged under it.
    pub(crate) fn add_ruleset(&mut self, version: u64, image: Arc<[u8]>) {
        self.rulesets.add(version, image);
    }

    /// Does what there is to do; false if that was nothing.
    pub(crate) fn step(&mut self, now: Now) -> bool {
        let mut busy = false;
        for index in 0..self.workers.len() {
            busy |= self.take_turns(now, index);
        }
        // Before a log can hold the name of a key that is nowhere.
        if let Some(Err(problem)) = self.keys.as_mut().map(KeyFile::flush) {
            if self.keys_problem.is_empty() {
                error!("{problem}");
            }
            self.keys_problem = problem;
        } else {
            self.keys_problem.clear();
        }
        busy |= self.poll_shards(now);
        self.tell_states();
        self.look_after(now);
        busy
    }

    fn take_turns(&mut self, now: Now, index: usize) -> bool {
        let mut any = false;
        for _ in 0..TURNS_PER_STEP {
            let worker = &mut self.workers[index];
            if worker.broken.is_some() {
                return any;
            }
            if worker.newest.is_none() {
                let Some(newest) = self.newest(now, index) else { return any };
                self.workers[index].newest = Some((newest, 0));
            }
            let worker = &mut self.workers[index];
            if worker.pending.is_none() {
                match read(worker) {
                    Ok(Some(pending)) => {
                        let keys = self.keys.iter_mut();
                        keys.for_each(|keys| pending.split.keys.iter().for_each(|key| keys.add(key)));
                        worker.pending = Some(pending);
                        any = true;
                    }
                    Ok(None) => return any,
                    Err(why) => {
                        self.give_up(now, index, why);
                        return true;
                    }
                }
            }
            match self.append(now, index) {
                Ok(Ok(())) => any = true,
                Ok(Err(Wait)) => return any,
                Err(why) => {
                    self.give_up(now, index, why);
                    return true;
                }
            }
        }
        any
    }

    /// Appends what is left of a worker's pending turn. What a log has of it already is passed over.
    fn append(&mut self, now: Now, index: usize) -> Result<Result<(), Wait>, String> {
        let Some(mut pending) = self.workers[index].pending.take() else { return Ok(Ok(())) };
        let outcome = self.append_parts(now, index, &mut pending);
        let worker = &mut self.workers[index];
        match outcome {
            Ok(Ok(())) => worker.appended(pending),
            Ok(Err(Wait)) => worker.pending = Some(pending),
            Err(_) => {}
        }
        outcome
    }

    fn append_parts(&mut self, now: Now, index: usize, pending: &mut Pending) -> Result<Result<(), Wait>, String> {
        let turn = pending.split.turn;
        if let Some(lost) = pending.gap {
            let lead = turn.lead_shard.get();
            let shard = self.open(now, lead);
            // One that the log has already was counted when it was written.
            if shard.gap_tick() != Some(lost.last_tick.get()) {
                if shard.gap(now, lost).is_err() {
                    return Ok(Err(Wait));
                }
                self.workers[index].lost += lost.count.get();
            }
            pending.gap = None;
        }
        while pending.part().is_some() {
            match self.append_part(now, index, pending)? {
                Ok(need) => pending.needs.push(need),
                Err(Wait) => return Ok(Err(Wait)),
            }
            pending.done += 1;
        }
        Ok(Ok(()))
    }

    fn append_part(&mut self, now: Now, index: usize, pending: &Pending) -> Result<Result<Need, Wait>, String> {
        let Some(part) = pending.part() else { return Ok(Err(Wait)) };
        let (turn, number, tick) = (&pending.split.turn, pending.split.turn.turn.get(), pending.split.turn.tick.get());
        let boot_id = self.boot_id;
        self.open(now, part.shard);
        let (Some(entry), worker) = (self.shards.get_mut(&part.shard), &mut self.workers[index]) else {
            return Ok(Err(Wait));
        };
        let shard = &mut entry.shard;
        if !shard.is_open() {
            return Ok(Err(Wait));
        }
        let place = shard.place(turn.worker.get(), &boot_id);
        let here = if place.turn == number { (place.frames, place.bodies) } else { (0, 0) };
        let has_all = place.turn > number || here.1 >= part.bodies.len();
        if !has_all {
            if shard.prepare(now, &boot_id, turn.ruleset_version.get(), &self.rulesets, &self.settings).is_err() {
                return Ok(Err(Wait));
            }
            for whole in part.frames.get(here.0..).unwrap_or_default() {
                worker.source.frame(&whole.item, whole.index, &mut worker.frame)?;
                let arrival = Arrival { source: whole.item.source, worker: turn.worker, burst: burst(number).into() };
                if shard.frame(now, tick, number, arrival, &worker.frame).is_err() {
                    return Ok(Err(Wait));
                }
            }
            for body in part.bodies.get(here.1..).unwrap_or_default() {
                if shard.decisions(now, tick, turn.worker.get(), number, body).is_err() {
                    return Ok(Err(Wait));
                }
            }
        }
        if part.durable {
            shard.ask_for_sync();
        }
        Ok(Ok(Need { shard: part.shard, sequence: shard.progress().0, durable: part.durable }))
    }

    /// A shard's log, opened if that can be.
    fn open(&mut self, now: Now, number: u16) -> &mut Shard<F::Storage> {
        let Self { shards, signing, folders, settings, .. } = self;
        let entry = shards.entry(number).or_insert_with(|| Entry {
            shard: Shard::new(number),
            chores: Chores::new(signing.signer(&shard_folder(number))),
        });
        entry.shard.open(now, settings, || room(folders, number));
        &mut entry.shard
    }

    /// A ring that cannot be read: nothing behind is to be had, and nobody knows how much that is.
    fn give_up(&mut self, now: Now, index: usize, why: String) {
        let worker = &mut self.workers[index];
        error!("worker {}: its turns are not logged any more: {why}", worker.source.worker());
        worker.pending = None;
        worker.broken = Some(why);
        let (tick, shard) = (worker.newest.map_or(0, |(_, tick)| tick), worker.source.shards().first().copied());
        if let Some(shard) = shard {
            let lost = gap(0, tick, now.tick, Reason::PersistUnavailable, None);
            let shard = self.open(now, shard);
            if shard.gap(now, lost).is_err() {
                shard.owe(lost);
            }
        }
    }

    fn poll_shards(&mut self, now: Now) -> bool {
        let mut failed = Vec::new();
        let mut busy = false;
        for (number, entry) in &mut self.shards {
            let before = entry.shard.progress();
            if !entry.shard.poll(now, &self.settings) {
                failed.push(*number);
            }
            busy |= before != entry.shard.progress();
        }
        for worker in &mut self.workers {
            if failed.iter().any(|shard| worker.touches(*shard)) {
                worker.rewind();
            }
        }
        let Self { workers, shards, .. } = self;
        for worker in workers {
            let mut settled = Vec::new();
            let progress = |shard: u16| {
                shards.get(&shard).map_or((0, 0), |entry| {
                    let (_, written, durable) = entry.shard.progress();
                    (written, durable)
                })
            };
            busy |= worker.settle(progress, |need| settled.push(*need));
            for need in settled {
                if let Some(entry) = shards.get_mut(&need.shard) {
                    entry.shard.tell(need.sequence);
                }
            }
        }
        busy
    }

    /// What keeps a worker's turns from being logged.
    fn refuses(shards: &BTreeMap<u16, Entry<F::Storage>>, worker: &Worker<T>) -> Option<(Reason, String)> {
        if let Some(why) = &worker.broken {
            return Some((Reason::PersistUnavailable, why.clone()));
        }
        let trouble = worker.source.shards().iter().find_map(|shard| shards.get(shard)?.shard.trouble());
        trouble.map(|trouble| (trouble.reason, trouble.why))
    }

    fn tell_states(&mut self) {
        for worker in &mut self.workers {
            let refuses = Self::refuses(&self.shards, worker).map(|(reason, _)| reason);
            if let (Some(reason), true) = (refuses, worker.told() != Some(refuses)) {
                warn!("worker {} is told {}", worker.source.worker(), reason.code());
            }
            worker.set_state(refuses);
        }
    }

    fn look_after(&mut self, now: Now) {
        let Self { shards, folders, settings, boot_id, scrub, .. } = self;
        let numbers: Vec<u16> = shards.keys().copied().collect();
        for number in &numbers {
            if let Some(Entry { shard, chores }) = shards.get_mut(number) {
                shard.open(now, settings, || room(folders, *number));
                chores.run(*number, shard, now, boot_id, settings, folders);
            }
        }
        let found = scrub.step(now, numbers.into_iter(), |number| {
            let entry = shards.get(&number)?;
            let (_, _, durable) = entry.shard.progress();
            Some((folders.reader(number)?, durable, entry.chores.signer().verifier()))
        });
        if let Some((found, entry)) = found.and_then(|found| Some((shards.get_mut(&found.shard)?, found.damage))) {
            found.shard.set_damage(entry);
        }
    }

    /// How everything is.
    pub(crate) fn status(&self, now: Now) -> LogStatus {
        let shard = |(number, entry): (&u16, &Entry<F::Storage>)| {
            let (_, written, durable) = entry.shard.progress();
            ShardStatus {
                shard: *number,
                trouble: entry.shard.trouble(),
                written,
                durable,
                loss_window_ns: entry.shard.loss_window_ns(now),
                bytes: entry.chores.bytes,
                checkpoint: entry.chores.checkpoint,
            }
        };
        let worker = |worker: &Worker<T>| {
            let (ring_bytes, ring_used_bytes) = worker.source.fill();
            WorkerStatus {
                worker: worker.source.worker(),
                turns: worker.newest.map_or(0, |(turn, _)| turn),
                turns_lost: worker.lost,
                ring_bytes,
                ring_used_bytes,
                refuses: Self::refuses(&self.shards, worker),
            }
        };
        LogStatus {
            problem: self.keys_problem.clone(),
            shards: self.shards.iter().map(shard).collect(),
            workers: self.workers.iter().map(worker).collect(),
        }
    }

    /// A shard's log that is open.
    #[cfg(test)]
    pub(crate) fn shard(&mut self, number: u16) -> &mut Shard<F::Storage> {
        &mut self.shards.get_mut(&number).expect("a shard").shard
    }

    /// One step towards an orderly end; true once all that was taken is durable.
    pub(crate) fn finish(&mut self, now: Now) -> bool {
        self.poll_shards(now);
        // All of them, each time: none may wait for another.
        let unfinished = self.shards.values_mut().map(|entry| entry.shard.finish(now)).filter(|ended| !ended).count();
        let ended = unfinished == 0;
        self.poll_shards(now);
        if ended {
            for (number, Entry { shard, chores }) in &mut self.shards {
                chores.keep_last_snapshot(*number, shard, &mut self.folders);
            }
            self.workers.iter().for_each(|worker| worker.source.leave());
        }
        ended
    }
}

/// All that a log is opened with.
fn room<F: Folders>(folders: &mut F, number: u16) -> io::Result<Room<F::Storage>> {
    let storage = folders.storage(number)?;
    // A log can be read without them.
    let snapshots = folders.snapshots(number).unwrap_or_else(|error| {
        warn!("log of shard {number}: cannot read its snapshots: {error}");
        Vec::new()
    });
    Ok(Room { storage, log_id: folders.log_id(), snapshots })
}

/// The next turn of a worker, taken apart, with what is missing before it.
fn read<T: Source>(worker: &mut Worker<T>) -> Result<Option<Pending>, String> {
    let Some(end) = worker.source.next(&mut worker.record)? else { return Ok(None) };
    let split = split(&worker.record, Shard::<tachyon_log::Disk>::body_bytes_max())?;
    let (turn, (newest, newest_tick)) = (&split.turn, worker.newest.unwrap_or_default());
    let missing = turn.turn.get().saturating_sub(newest.saturating_add(1));
    let reason = Reason::from_number(turn.refuses).unwrap_or(Reason::PersistUnavailable);
    let gap = (missing > 0).then(|| gap(missing, newest_tick, turn.tick.get(), reason, Some(Kind::Decisions)));
    Ok(Some(Pending { split, end, gap, done: 0, needs: Vec::new() }))
}
