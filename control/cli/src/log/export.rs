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
use tachyon_log::{Found, Owned, ReadOnly, Reader, Record};
use tachyon_wire::Frame;

/// One shard's records, with the next one at hand.
struct Source {
    shard: Shard,
    reader: Reader<ReadOnly>,
    clock: Clock,
    next: Option<Owned>,
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
        let reader = shard.reader(options.from)?.until(options.to.saturating_add(1));
        let clock = Clock::before(&shard, options.from)?;
        let mut source = Source { shard, reader, clock, next: None };
        source.step(&mut counts)?;
        sources.push(source);
    }
    let mut target = Target::begin(options, &sources).map_err(unwritten(&options.out))?;
    // In the order of ticks, which are of one clock in all shards, so that a capture reads as it came.
    while let Some((index, _)) = sources
        .iter()
        .enumerate()
        .filter_map(|(index, source)| Some((index, source.next.as_ref()?.tick)))
        .min_by_key(|(_, tick)| *tick)
    {
        let source = &mut sources[index];
        if let Some(record) = source.next.take() {
            source.clock.learn(&record);
            target.add(index, source, &record, options, &mut counts).map_err(unwritten(&options.out))?;
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
    /// Reads the next record; damage before it is told.
    fn step(&mut self, counts: &mut Counts) -> Result<(), Failure> {
        self.next = loop {
            match self.reader.read().map_err(failed(&self.shard.path))? {
                None => break None,
                Some(Found::Record(record)) => break Some(record),
                Some(Found::Damage(damage)) if damage.fault.is_grave() => {
                    counts.damaged = true;
                    output::message(&format!("damage: {}/{damage}", self.shard.path.display()));
                }
                Some(Found::Damage(_)) => {}
            }
        };
        Ok(())
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

    /// Adds a record if it is a frame that is wanted.
    fn add(
        &mut self,
        index: usize,
        source: &Source,
        record: &Owned,
        options: &Export,
        counts: &mut Counts,
    ) -> io::Result<()> {
        let raw = record.raw();
        let Some(Record::Frame(arrival, bytes)) = Record::read(&raw) else { return Ok(()) };
        let parsed = filter::parse(bytes);
        // A record that is no frame by its layout belongs to no session, and is left out by any filter.
        let passes =
            parsed.as_ref().map_or_else(|_| options.filter.is_open(), |frame| options.filter.wants_frame(frame));
        if !passes {
            return Ok(());
        }
        let (shard, unix_ns) = (source.shard.number, source.clock.unix_ns(record.tick));
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
                let place = Place { shard, sequence: record.sequence, tick: record.tick, unix_ns };
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
