//! `tachyon log tail`: the newest records, and what comes after them.

use super::{
    arguments::{Filter, Tail},
    clock::Clock,
    describe::Described,
    exit_code, failed,
    shards::{self, Shard},
};
use crate::{failure::Failure, output};
use std::{collections::VecDeque, process::ExitCode, thread, time::Duration};
use tachyon_log::{Found, Owned, ReadOnly, Reader};

/// How long to wait where nothing new has come: soon enough for a person, and a look costs a read of one block per shard.
const WAIT: Duration = Duration::from_millis(100);

/// One shard's end.
struct End {
    shard: Shard,
    reader: Reader<ReadOnly>,
    clock: Clock,
    /// The newest records that are wanted, at most as many as are shown, with their times.
    newest: VecDeque<(Owned, Option<u64>)>,
    damaged: bool,
}

pub(crate) fn run(options: &Tail) -> Result<ExitCode, Failure> {
    let mut ends = Vec::new();
    for shard in shards::shards(&options.place)? {
        ends.push(End::find(shard, options)?);
    }
    // Ticks of all shards are of one clock, so they order records of different shards.
    let mut order: Vec<(u64, usize)> = Vec::new();
    for (index, end) in ends.iter().enumerate() {
        order.extend(end.newest.iter().map(|(record, _)| (record.tick, index)));
    }
    order.sort_unstable();
    let left_out = order.len().saturating_sub(options.count);
    for (position, (_, index)) in order.into_iter().enumerate() {
        let Some((record, unix_ns)) = ends[index].newest.pop_front() else { continue };
        if position >= left_out {
            ends[index].print(&record, unix_ns, options);
        }
    }
    let damaged = ends.iter().any(|end| end.damaged);
    if options.follow {
        loop {
            let mut more = false;
            for end in &mut ends {
                more |= end.go_on(options)?;
            }
            if !more {
                thread::sleep(WAIT);
            }
        }
    }
    Ok(exit_code(damaged))
}

impl End {
    /// Reads backwards, segment by segment, until enough is there. The reader that read the last one goes on from there.
    fn find(shard: Shard, options: &Tail) -> Result<Self, Failure> {
        let segments = shard.reader(0)?.segments().to_vec();
        let (reader, clock) = (shard.reader(segments.last().copied().unwrap_or(0))?, Clock::default());
        let mut this = Self { shard, reader, clock, newest: VecDeque::new(), damaged: false };
        for (index, first) in segments.iter().enumerate().rev() {
            let is_last = index + 1 == segments.len();
            let mut found = match segments.get(index + 1) {
                None => this.collect(None, options)?,
                Some(end) => this.collect(Some(this.shard.reader(*first)?.until(*end)), options)?,
            };
            if is_last && this.clock.unix_ns(0).is_none() {
                this.clock = Clock::before(&this.shard, *first)?;
            }
            // Those before the first clock record of their segment have the time of a segment before.
            if let Some((record, None)) = found.front() {
                let before = Clock::before(&this.shard, record.sequence)?;
                let untimed = found.iter_mut().take_while(|(_, unix_ns)| unix_ns.is_none());
                untimed.for_each(|(record, unix_ns)| *unix_ns = before.unix_ns(record.tick));
            }
            found.append(&mut this.newest);
            this.newest = found;
            if this.newest.len() >= options.count {
                break;
            }
        }
        Ok(this)
    }

    /// The newest wanted records that this reader still has, as many as there is room for; without one, our own.
    fn collect(
        &mut self,
        reader: Option<Reader<ReadOnly>>,
        options: &Tail,
    ) -> Result<VecDeque<(Owned, Option<u64>)>, Failure> {
        let room = options.count - self.newest.len();
        let (mut found, mut clock, mut other) = (VecDeque::new(), Clock::default(), reader);
        let reader = other.as_mut().unwrap_or(&mut self.reader);
        while let Some(record) = next(reader, &self.shard, &mut self.damaged)? {
            clock.learn(&record);
            if room == 0 || !options.filter.wants(&record) {
                continue;
            }
            if found.len() == room {
                found.pop_front();
            }
            let unix_ns = clock.unix_ns(record.tick);
            found.push_back((record, unix_ns));
        }
        if other.is_none() {
            self.clock = clock;
        }
        Ok(found)
    }

    /// Prints what came since the last call; says whether something did.
    fn go_on(&mut self, options: &Tail) -> Result<bool, Failure> {
        if !self.reader.again().map_err(failed(&self.shard.path))? {
            return Ok(false);
        }
        while let Some(record) = next(&mut self.reader, &self.shard, &mut self.damaged)? {
            self.clock.learn(&record);
            if options.filter.wants(&record) {
                self.print(&record, self.clock.unix_ns(record.tick), options);
            }
        }
        Ok(true)
    }

    fn print(&self, record: &Owned, unix_ns: Option<u64>, options: &Tail) {
        let filter: &Filter = &options.filter;
        let described = Described { shard: self.shard.number, record, unix_ns, filter };
        if options.form.json {
            output::json(&described.json());
        } else {
            output::data(described.lines());
        }
    }
}

/// The next record; damage before it is told.
fn next(reader: &mut Reader<ReadOnly>, shard: &Shard, damaged: &mut bool) -> Result<Option<Owned>, Failure> {
    while let Some(found) = reader.read().map_err(failed(&shard.path))? {
        match found {
            Found::Record(record) => return Ok(Some(record)),
            Found::Damage(damage) if damage.fault.is_grave() => {
                *damaged = true;
                output::message(&format!("damage: {}/{damage}", shard.path.display()));
            }
            // What a writer has not ended yet, or a crash cut short.
            Found::Damage(_) => {}
        }
    }
    Ok(None)
}
