//! A table of recorded messages: a Parquet file, written column by column. The crate's Arrow interface would bring a second format
//! and its crates, for the same file.

use super::{arguments::Filter, decisions, describe};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type},
    errors::Result,
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};
use std::{io::Write, sync::Arc};
use tachyon_wire::Frame;

/// The columns, in the order in which they are written.
const SCHEMA: &str = "
message tachyon_messages {
  required int32 shard (INTEGER(16, false));
  required int64 sequence (INTEGER(64, false));
  required int32 index (INTEGER(16, false));
  required int64 tick (INTEGER(64, false));
  optional int64 unix_ns (TIMESTAMP(NANOS, true));
  required int32 session (INTEGER(32, false));
  required int32 epoch (INTEGER(32, false));
  required int32 frame_id (INTEGER(32, false));
  required int32 topic_id (INTEGER(32, false));
  required int32 sender_id (INTEGER(32, false));
  required int32 class (INTEGER(8, false));
  required int64 flags (INTEGER(64, false));
  required binary mode (STRING);
  required fixed_len_byte_array(48) data;
  optional binary payload;
  optional binary verdict (STRING);
}";

/// Rows that are gathered before they are written: some ten megabytes of ordinary messages.
const GROUP_ROWS: usize = 65_536;

/// Where a frame stands in the log.
pub(crate) struct Place {
    pub(crate) shard: u16,
    pub(crate) sequence: u64,
    pub(crate) tick: u64,
    pub(crate) unix_ns: Option<u64>,
    /// The word on each of its messages; nothing where the log has no decisions.
    pub(crate) words: Option<Vec<u8>>,
}

/// A file that is being written.
pub(crate) struct Rows<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Columns,
}

/// Values that wait to be written. Those of optional columns stand beside a level for each row: 1 where there is a value.
#[derive(Default)]
struct Columns {
    shard: Vec<i32>,
    sequence: Vec<i64>,
    index: Vec<i32>,
    tick: Vec<i64>,
    unix_ns: (Vec<i64>, Vec<i16>),
    session: Vec<i32>,
    epoch: Vec<i32>,
    frame_id: Vec<i32>,
    topic_id: Vec<i32>,
    sender_id: Vec<i32>,
    class: Vec<i32>,
    flags: Vec<i64>,
    mode: Vec<ByteArray>,
    data: Vec<FixedLenByteArray>,
    payload: (Vec<ByteArray>, Vec<i16>),
    verdict: (Vec<ByteArray>, Vec<i16>),
}

impl<W: Write + Send> Rows<W> {
    pub(crate) fn begin(out: W) -> Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = SerializedFileWriter::new(out, schema, Arc::new(properties))?;
        Ok(Self { writer, columns: Columns::default() })
    }

    /// Adds the messages of a frame that are wanted. Returns how many.
    pub(crate) fn add(&mut self, place: &Place, frame: &Frame<'_>, wanted: &Filter) -> Result<u64> {
        let mut count = 0;
        for index in 0..frame.messages.len() {
            if wanted.wants_message(&frame.messages[index]) {
                self.columns.push(place, frame, index);
                count += 1;
            }
        }
        if self.columns.shard.len() >= GROUP_ROWS {
            self.flush()?;
        }
        Ok(count)
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.flush()?;
        self.writer.into_inner()?.flush()?;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.columns.shard.is_empty() {
            return Ok(());
        }
        let columns = core::mem::take(&mut self.columns);
        let mut group = self.writer.next_row_group()?;
        columns.write(&mut group)?;
        group.close().map(|_| ())
    }
}

impl Columns {
    fn push(&mut self, place: &Place, frame: &Frame<'_>, index: usize) {
        let (message, header) = (&frame.messages[index], frame.header);
        self.shard.push(place.shard.into());
        self.sequence.push(place.sequence.cast_signed());
        self.index.push(i32::try_from(index).unwrap_or(i32::MAX));
        self.tick.push(place.tick.cast_signed());
        push(&mut self.unix_ns, place.unix_ns.map(u64::cast_signed));
        self.session.push(header.session_id.get().cast_signed());
        self.epoch.push(header.epoch.get().cast_signed());
        self.frame_id.push(header.frame_id.get().cast_signed());
        self.topic_id.push(message.topic_id.get().cast_signed());
        self.sender_id.push(message.sender_id.get().cast_signed());
        self.class.push(message.class().into());
        self.flags.push(message.flags.get().cast_signed());
        self.mode.push(describe::mode(message).into());
        self.data.push(ByteArray::from(message.data.to_vec()).into());
        let (payload, _) = describe::payload_of(frame, index);
        push(&mut self.payload, payload.map(|payload| payload.to_vec().into()));
        let word = place.words.as_ref().and_then(|words| words.get(index));
        push(&mut self.verdict, word.map(|word| decisions::verdict(*word).as_str().into()));
    }

    fn write<W: Write + Send>(&self, group: &mut SerializedRowGroupWriter<'_, W>) -> Result<()> {
        column::<Int32Type, W>(group, &self.shard, None)?;
        column::<Int64Type, W>(group, &self.sequence, None)?;
        column::<Int32Type, W>(group, &self.index, None)?;
        column::<Int64Type, W>(group, &self.tick, None)?;
        column::<Int64Type, W>(group, &self.unix_ns.0, Some(&self.unix_ns.1))?;
        for values in [&self.session, &self.epoch, &self.frame_id, &self.topic_id, &self.sender_id, &self.class] {
            column::<Int32Type, W>(group, values, None)?;
        }
        column::<Int64Type, W>(group, &self.flags, None)?;
        column::<ByteArrayType, W>(group, &self.mode, None)?;
        column::<FixedLenByteArrayType, W>(group, &self.data, None)?;
        column::<ByteArrayType, W>(group, &self.payload.0, Some(&self.payload.1))?;
        column::<ByteArrayType, W>(group, &self.verdict.0, Some(&self.verdict.1))
    }
}

fn push<T>((values, levels): &mut (Vec<T>, Vec<i16>), value: Option<T>) {
    levels.push(value.is_some().into());
    values.extend(value);
}

fn column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<()> {
    let Some(mut column) = group.next_column()? else {
        return Err(parquet::errors::ParquetError::General("the schema has fewer columns".to_owned()));
    };
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}
