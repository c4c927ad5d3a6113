//! Writes down a turn while it happens, for the truth log. What judging it again takes goes into the record; frames that the
//! log keeps as they are stay in their buffers.

use tachyon_driver_api::Received;
use tachyon_policy::{Summary, Verdict};
use tachyon_wire::{
    Frame, LINE, Reason,
    command::Command,
    tap::{
        self, ALIGN, CommandHeader, ENTRY_BYTES, ENTRY_DURABLE, ENTRY_LOGGED, ENTRY_REASONS, FRAME_REFUSED,
        FRAME_STUBS, FRAME_WHOLE, FrameEntry, HEAD_BYTES, HELD, ITEM_BYTES, Item, STUB_BYTES, Setup, TURN_BYTES,
        WITHHELD,
    },
};
use zerocopy::{IntoBytes, byteorder::little_endian::U16};

/// Most bytes of a command in a record: the largest one and its header, generously.
pub(crate) const COMMAND_BYTES_MAX: usize = 256;
const _: () = assert!(size_of::<tachyon_wire::command::OpenSession>() + ALIGN + 8 <= COMMAND_BYTES_MAX);
const _: () = assert!(size_of::<tachyon_wire::command::AddSubscriber>() + ALIGN + 8 <= COMMAND_BYTES_MAX);
const _: () = assert!(size_of::<tachyon_wire::command::Restore>() + ALIGN + 8 <= COMMAND_BYTES_MAX);
const _: () = assert!(size_of::<tachyon_wire::command::Again>() + ALIGN + 8 <= COMMAND_BYTES_MAX);

/// Most bytes that a received buffer can add to a record.
pub(crate) fn bytes_max(item: &Received) -> usize {
    let (length, stride) = (item.len, item.stride.max(1));
    // Most buffers hold one frame, and a division costs as much as all the rest here.
    let frames = if length <= stride { 1 } else { length.div_ceil(stride) as usize };
    let length = length as usize;
    let lines = length / LINE;
    // Behind each frame its reasons are padded.
    ITEM_BYTES + frames * (ENTRY_BYTES + HEAD_BYTES + ALIGN) + lines * (STUB_BYTES + 1)
}

/// How far a record is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    /// Bytes that are filled.
    pub(crate) at: usize,
    pub(crate) commands: u16,
    pub(crate) items: u16,
    /// It holds messages that wait, and how many.
    pub(crate) durable: bool,
    pub(crate) held: u64,
    /// Messages were forwarded on a route for the log that does not have them.
    pub(crate) marked: bool,
    /// The places of received buffers that have to stay.
    pub(crate) stays: u64,
}

impl Filled {
    pub(crate) const EMPTY: Self =
        Self { at: TURN_BYTES, commands: 0, items: 0, durable: false, held: 0, marked: false, stays: 0 };
}

/// A record that is being filled. Its memory is as large as the turn can need, so nothing is ever left out; what would not fit
/// is not written, and the record then ends before it.
#[derive(Debug)]
pub(crate) struct Record<'r> {
    bytes: &'r mut [u8],
    pub(crate) filled: Filled,
    /// Where the last item starts, and its place in the burst.
    item: Option<(usize, usize)>,
    frames: u16,
}

impl<'r> Record<'r> {
    pub(crate) fn new(bytes: &'r mut [u8], setup: Option<&Setup>, commands: &[Command]) -> Self {
        let mut record = Self { bytes, filled: Filled::EMPTY, item: None, frames: 0 };
        if let Some(setup) = setup {
            record.part(tap::COMMAND_SETUP, setup.as_bytes());
        }
        commands.iter().for_each(|command| record.command(command));
        record
    }

    /// Appends bytes, and zeros up to the next multiple of [`ALIGN`].
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let at = self.filled.at;
        let end = at + bytes.len();
        let aligned = end.next_multiple_of(ALIGN);
        if let Some(room) = self.bytes.get_mut(at..aligned) {
            let (copied, padding) = room.split_at_mut(bytes.len());
            copied.copy_from_slice(bytes);
            if !padding.is_empty() {
                padding.fill(0);
            }
            self.filled.at = aligned;
        } else {
            debug_assert!(false, "the record's memory is as large as the turn needs");
        }
    }

    #[cold]
    fn command(&mut self, command: &Command) {
        let id: [u8; 4];
        let (number, body): (u8, &[u8]) = match command {
            Command::OpenSession(open) => (tap::COMMAND_OPEN_SESSION, open.as_bytes()),
            Command::CloseSession(session) => {
                id = session.to_le_bytes();
                (tap::COMMAND_CLOSE_SESSION, &id)
            }
            Command::AddSubscriber(add) => (tap::COMMAND_ADD_SUBSCRIBER, add.as_bytes()),
            Command::RemoveSubscriber(slot) => {
                id = slot.to_le_bytes();
                (tap::COMMAND_REMOVE_SUBSCRIBER, &id)
            }
            Command::Lease(lease) => (tap::COMMAND_LEASE, lease.as_bytes()),
            Command::Restore(restore) => (tap::COMMAND_RESTORE, restore.as_bytes()),
            Command::Again(again) => (tap::COMMAND_AGAIN, again.as_bytes()),
        };
        self.part(number, body);
    }

    /// A command, or what is told like one.
    #[cold]
    fn part(&mut self, number: u8, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap_or(0).into();
        self.put(CommandHeader { number, reserved: [0; 3], length }.as_bytes());
        self.put(body);
        self.filled.commands += 1;
    }

    /// A frame of the buffer at this place follows.
    #[inline]
    fn of(&mut self, item: &Received, place: usize) {
        if self.item.is_none_or(|(_, last)| last != place) {
            self.close_item();
            self.item = Some((self.filled.at, place));
            self.filled.items += 1;
            let item = Item {
                buffer: item.buffer.index().into(),
                offset: item.offset.into(),
                length: item.len.into(),
                stride: item.stride.max(1).into(),
                shard: item.shard.into(),
                place: u16::try_from(place).unwrap_or(u16::MAX).into(),
                frames: U16::ZERO,
                source: item.source,
            };
            self.put(item.as_bytes());
        }
        self.frames += 1;
    }

    /// Writes into the last item how many frames it has.
    fn close_item(&mut self) {
        /// Where in an [`Item`] its frames are counted.
        const FRAMES: usize = core::mem::offset_of!(Item, frames);
        let frames = core::mem::take(&mut self.frames).to_le_bytes();
        if let Some((start, _)) = self.item
            && let Some(field) = self.bytes.get_mut(start + FRAMES..start + FRAMES + frames.len())
        {
            field.copy_from_slice(&frames);
        }
    }

    /// A frame that was not admitted.
    #[cold]
    pub(crate) fn refused(&mut self, item: &Received, place: usize, bytes: &[u8], reason: Reason) {
        self.of(item, place);
        let mut head = [0; HEAD_BYTES];
        let known = bytes.len().min(HEAD_BYTES);
        head[..known].copy_from_slice(&bytes[..known]);
        self.entry(FRAME_REFUSED, 0, reason.number(), 0);
        self.put(&head);
    }

    /// A frame whose messages were judged.
    #[inline]
    pub(crate) fn judged(
        &mut self,
        item: &Received,
        place: usize,
        frame: &Frame<'_>,
        verdicts: &[Verdict],
        summary: Summary,
    ) {
        self.of(item, place);
        let mixed = summary.is_any_durable() && !summary.are_all_durable();
        let words = summary.is_any_stopped() || mixed;
        let flags = if words { ENTRY_REASONS } else { 0 }
            | if summary.is_any_durable() { ENTRY_DURABLE } else { 0 }
            | if summary.is_for_log() { ENTRY_LOGGED } else { 0 };
        if summary.is_any_durable() {
            self.filled.durable = true;
            self.filled.held += verdicts.iter().filter(|verdict| verdict.is_durable()).count() as u64;
        }
        let whole = summary.is_for_log() || !frame.payload.is_empty() || (words && is_unusual(verdicts));
        self.entry(if whole { FRAME_WHOLE } else { FRAME_STUBS }, flags, 0, verdicts.len());
        if whole {
            self.filled.stays |= 1 << (place % 64); // a burst has no more
        } else {
            self.stubs(frame);
        }
        if words {
            self.words(verdicts);
        }
    }

    fn entry(&mut self, form: u8, flags: u8, reason: u8, count: usize) {
        let count = u16::try_from(count).unwrap_or(0).into(); // a frame has at most 256
        self.put(FrameEntry { form, flags, reason, reserved: 0, count, reserved_2: U16::ZERO }.as_bytes());
    }

    fn stubs(&mut self, frame: &Frame<'_>) {
        self.put(frame.header.as_bytes());
        for message in frame.messages {
            self.put(&message.as_bytes()[..STUB_BYTES]);
        }
    }

    #[cold]
    fn words(&mut self, verdicts: &[Verdict]) {
        for group in verdicts.chunks(ALIGN) {
            let mut words = [0; ALIGN];
            for (word, verdict) in words.iter_mut().zip(group) {
                *word = match verdict {
                    _ if verdict.is_durable() => HELD,
                    _ if verdict.is_withheld() => WITHHELD,
                    _ => verdict.reason(),
                };
            }
            self.put(&words);
        }
    }

    /// What was filled, once nothing more follows.
    pub(crate) fn finish(mut self) -> Filled {
        self.close_item();
        self.filled
    }
}

/// Whether a message was refused for what its stub does not hold.
fn is_unusual(verdicts: &[Verdict]) -> bool {
    let (packet, mode) = (Reason::BadPacket.number(), Reason::ModeForbidden.number());
    verdicts.iter().any(|verdict| verdict.reason() == packet || verdict.reason() == mode)
}
