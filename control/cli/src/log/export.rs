//! `tachyon log export`: frames for Wireshark, messages for a table.

use super::{
    arguments::{Export, Filter, Format},
    clock::Clock,
    exit_code, failed, filter,
    pcapng::{self, Packet},
    rows::{Place, Rows},
    shards::{self, Shard},
    usage,
};
use crate::{failure::Failure, output, table::plural};
use serde_json::json;
use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    process::ExitCode,
};
use tachyon_log::{
    Found, Owned, ReadOnly, Reader, Record,
    decided::{Settled, Waiting},
    record::Kind,
};
use tachyon_wire::Frame;

/// A record of a frame, and its time.
type Timed = (Owned, Option<u64>);

/// One shard's frames, with the next one at hand.
struct Source {
    shard: Shard,
    reader: Reader<ReadOnly>,
    clock: Clock,
    /// The last record that is asked for, and the last that was read.
    to: u64,
    read: Option<u64>,
    /// Whether frames wait for their decisions; else they come as they are read.
    decided: bool,
    waiting: Waiting<Timed>,
    next: Option<Settled<Timed>>,
}

/// What was written, and what was not.
#[derive(Default)]
struct Counts {
    frames: u64,
    messages: u64,
    /// Frames that the format cannot hold.
    left_out: u64,
    damaged: bool,
}

/// A file of either format.
enum Target {
    Capture(BufWriter<File>),
    Table(Box<Rows<BufWriter<File>>>),
}

pub(crate) fn run(options: &Export) -> Result<ExitCode, Failure> {
    if options.from > options.to {
        let what = format!("--from {} is behind --to {}", options.from, options.to);
        return Err(usage(what, &options.place.directory, "name the smaller sequence with --from"));
    }
    let mut counts = Counts::default();
    let mut sources = Vec::new();
    for shard in shards::shards(&options.place)? {
        let (reader, clock) = (shard.reader(options.from)?, Clock::before(&shard, options.from)?);
        let (to, decided) = (options.to, options.format == Format::Parquet);
        let waiting = Waiting::default();
        let mut source = Source { shard, reader, clock, to, read: None, decided, waiting, next: None };
        source.step(&mut counts)?;
        sources.push(source);
    }
    let mut target = Target::begin(options, &sources).map_err(unwritten(&options.out))?;
    // In the order of ticks, which are of one clock in all shards, so that a capture reads as it came.
    while let Some((index, _)) = sources
        .iter()
        .enumerate()
        .filter_map(|(index, source)| Some((index, source.next.as_ref()?.kept.0.tick)))
        .min_by_key(|(_, tick)| *tick)
    {
        let source = &mut sources[index];
        if let Some(frame) = source.next.take() {
            target.add(index, source.shard.number, frame, options, &mut counts).map_err(unwritten(&options.out))?;
        }
        source.step(&mut counts)?;
    }
    target.end().map_err(unwritten(&options.out))?;
    told(options, &counts);
    Ok(exit_code(counts.damaged))
}

fn unwritten(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    |error| {
        usage(format!("cannot write the file: {error}"), path, "name one that this user may write, with room for it")
    }
}

fn told(options: &Export, counts: &Counts) {
    let file = options.out.display().to_string();
    if options.form.json {
        let format = match options.format {
            Format::Pcapng => "pcapng",
            Format::Parquet => "parquet",
        };
        output::json(&json!({
            "format": format,
            "file": file,
            "frames": counts.frames,
            "messages": counts.messages,
            "left_out": counts.left_out,
            "damaged": counts.damaged,
        }));
        return;
    }
    let (frames, messages) = (plural(counts.frames, "frame", "frames"), plural(counts.messages, "message", "messages"));
    output::data(format!("{file}: {frames}, {messages}\n"));
    if counts.left_out > 0 {
        let why = match options.format {
            Format::Pcapng => "longer than a UDP datagram",
            Format::Parquet => "no frames by their layout",
        };
        output::message(&format!("note: left out {}, {why}", plural(counts.left_out, "record", "records")));
    }
}

impl Source {
    /// Reads up to the next frame of which nothing more will be known; damage before it is told. Decisions may stand behind
    /// the last record that is asked for.
    fn step(&mut self, counts: &mut Counts) -> Result<(), Failure> {
        loop {
            self.next = self.waiting.settled();
            let ended = self.read.is_some_and(|read| read >= self.to) && self.waiting.is_empty();
            if self.next.is_some() || ended {
                return Ok(());
            }
            match self.reader.read().map_err(failed(&self.shard.path))? {
                Some(Found::Record(record)) => self.take(record),
                Some(Found::Damage(damage)) if damage.fault.is_grave() => {
                    counts.damaged = true;
                    output::message(&format!("damage: {}/{damage}", self.shard.path.display()));
                    // The decisions that frames wait for may be what is damaged.
                    self.waiting.give_up();
                }
                Some(Found::Damage(_)) => {}
                None if self.waiting.is_empty() => return Ok(()),
                None => self.waiting.give_up(),
            }
        }
    }

    fn take(&mut self, record: Owned) {
        self.clock.learn(&record);
        self.read = Some(record.sequence);
        if record.sequence > self.to && record.kind == Kind::Frame as u8 {
            return;
        }
        let unix_ns = self.clock.unix_ns(record.tick);
        self.waiting.take(&record.raw(), |_, _| (record.clone(), unix_ns));
        if !self.decided {
            self.waiting.give_up();
        }
    }
}

/// Messages of a frame that are wanted.
fn wanted(filter: &Filter, frame: &Frame<'_>) -> u64 {
    frame.messages.iter().filter(|message| filter.wants_message(message)).count() as u64
}

impl Target {
    fn begin(options: &Export, sources: &[Source]) -> io::Result<Self> {
        let mut out = BufWriter::new(File::create(&options.out)?);
        match options.format {
            Format::Pcapng => {
                let shards: Vec<u16> = sources.iter().map(|source| source.shard.number).collect();
                pcapng::begin(&mut out, &shards)?;
                Ok(Self::Capture(out))
            }
            Format::Parquet => Ok(Self::Table(Box::new(Rows::begin(out).map_err(io::Error::other)?))),
        }
    }

    /// Adds a frame of the shard with this place among all, if it is wanted.
    fn add(
        &mut self,
        index: usize,
        shard: u16,
        frame: Settled<Timed>,
        options: &Export,
        counts: &mut Counts,
    ) -> io::Result<()> {
        let Settled { kept: (record, unix_ns), words } = frame;
        let raw = record.raw();
        let Some(Record::Frame(arrival, bytes)) = Record::read(&raw) else { return Ok(()) };
        let parsed = filter::parse(bytes);
        // A record that is no frame by its layout belongs to no session, and is left out by any filter.
        let passes =
            parsed.as_ref().map_or_else(|_| options.filter.is_open(), |frame| options.filter.wants_frame(frame));
        if !passes {
            return Ok(());
        }
        match (self, parsed) {
            (Self::Capture(_), _) if bytes.len() > pcapng::FRAME_BYTES_MAX => counts.left_out += 1,
            (Self::Table(_), Err(_)) => counts.left_out += 1,
            (Self::Capture(out), parsed) => {
                let packet = Packet {
                    interface: u32::try_from(index).unwrap_or(u32::MAX),
                    unix_ns: unix_ns.unwrap_or(record.tick),
                    source: arrival.source,
                    port: options.base_port.wrapping_add(shard),
                    frame: bytes,
                    comment: format!("shard {shard} sequence {}", record.sequence),
                };
                pcapng::write(out, &packet)?;
                counts.frames += 1;
                counts.messages += parsed.map_or(0, |frame| wanted(&options.filter, &frame));
            }
            (Self::Table(rows), Ok(frame)) => {
                let place = Place { shard, sequence: record.sequence, tick: record.tick, unix_ns, words };
                counts.messages += rows.add(&place, &frame, &options.filter).map_err(io::Error::other)?;
                counts.frames += 1;
            }
        }
        Ok(())
    }

    fn end(self) -> io::Result<()> {
        match self {
            Self::Capture(mut out) => out.flush(),
            Self::Table(rows) => rows.end().map_err(io::Error::other),
        }
    }
}
