//! Publishers and subscribers: what speaks with the worker, by the wire document alone.

use super::{BOOT, UNIX_OFFSET};
use std::collections::BTreeMap;
use tachyon_driver_mem::Delivered;
use tachyon_wire::{
    Endpoint, Frame, Lane, Message, Reason,
    ack::{AckBody, NackBody},
    build::{self, Body, FrameFields, FrameWriter, Seal},
    command::{AddSubscriber, OpenSession, SESSION_TAG_REQUIRED},
    crc,
    frame::{self, KIND_DATA, Provenance},
    payload, tag,
};

/// A body that came back to a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Ack(AckBody),
    Nack(NackBody),
}

#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) session_id: u32,
    pub(crate) reply_id: u32,
    pub(crate) master: [u8; 32],
    pub(crate) reply_master: [u8; 32],
    pub(crate) principal: u32,
    pub(crate) tagged: bool,
    pub(crate) epoch: u32,
    pub(crate) endpoint: Endpoint,
    /// By shard: the last id given.
    pub(crate) last: BTreeMap<u16, u32>,
    /// By shard: the last id that a reply came under.
    reply_last: BTreeMap<u16, u32>,
    /// Shard and body, in order of arrival.
    pub(crate) replies: Vec<(u16, Reply)>,
}

fn master(of: u32) -> [u8; 32] {
    let mut key = [0xa5; 32];
    key[..4].copy_from_slice(&of.to_le_bytes());
    key
}

impl Publisher {
    pub(crate) fn new(number: usize, principal: u32, tagged: bool) -> Self {
        let low = u16::try_from(number).unwrap();
        let session_id = 0x100 + u32::from(low);
        let [high_byte, low_byte] = low.to_be_bytes();
        Self {
            session_id,
            reply_id: 0x1_0000 + session_id,
            master: master(session_id),
            reply_master: master(0x1_0000 + session_id),
            principal,
            tagged,
            epoch: 3,
            endpoint: Endpoint::v4([10, 2, high_byte, low_byte], 40_000 + low),
            last: BTreeMap::new(),
            reply_last: BTreeMap::new(),
            replies: Vec::new(),
        }
    }

    /// Goes on as another session, from the first frame on.
    pub(crate) fn renew(&mut self, session_id: u32) {
        self.session_id = session_id;
        self.reply_id = 0x1_0000 + session_id;
        (self.master, self.reply_master) = (master(self.session_id), master(self.reply_id));
        (self.last, self.reply_last, self.replies) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    }

    /// The command that opens its session.
    pub(crate) fn open(&self) -> OpenSession {
        OpenSession {
            session_id: self.session_id.into(),
            reply_session_id: self.reply_id.into(),
            principal: self.principal.into(),
            sender_low: 0.into(),
            sender_high: 63.into(),
            epoch_floor: 3.into(),
            class_cap: 0,
            flags: if self.tagged { SESSION_TAG_REQUIRED } else { 0 },
            pinned: Endpoint::NONE,
            master: self.master,
            reply_master: self.reply_master,
        }
    }

    /// The next id in a shard.
    pub(crate) fn next_id(&mut self, shard: u16) -> u32 {
        let last = self.last.entry(shard).or_default();
        *last += 1;
        *last
    }

    pub(crate) fn fields(&self, shard: u16, flags: u16, frame_id: u32) -> FrameFields {
        FrameFields {
            flags,
            frame_id,
            session_id: self.session_id,
            shard,
            epoch: self.epoch,
            sent_ns: 1,
            ..FrameFields::default()
        }
    }

    /// A data frame under a given id.
    pub(crate) fn write(&self, fields: FrameFields, fill: impl FnOnce(&mut FrameWriter<'_>)) -> Vec<u8> {
        let mut buffer = vec![0xee; 64 * 300];
        let mut writer = FrameWriter::new(&mut buffer, fields);
        fill(&mut writer);
        let key = tag::derive(&self.master, self.session_id, fields.epoch);
        let length = writer.finish(if self.tagged { Seal::Tag(&key) } else { Seal::Crc });
        buffer.truncate(length);
        buffer
    }

    /// A data frame of these messages under the next id.
    pub(crate) fn frame(&mut self, shard: u16, flags: u16, messages: &[Message]) -> Vec<u8> {
        let id = self.next_id(shard);
        self.frame_as(shard, flags, id, messages)
    }

    pub(crate) fn frame_as(&self, shard: u16, flags: u16, frame_id: u32, messages: &[Message]) -> Vec<u8> {
        self.write(self.fields(shard, flags, frame_id), |writer| {
            messages.iter().for_each(|message| writer.push(message).unwrap());
        })
    }

    /// A heartbeat under the next id.
    pub(crate) fn heartbeat(&mut self, shard: u16, flags: u16) -> Vec<u8> {
        let id = self.next_id(shard);
        let mut buffer = vec![0; 64];
        let key = tag::derive(&self.master, self.session_id, self.epoch);
        let seal = if self.tagged { Seal::Tag(&key) } else { Seal::Crc };
        build::control(&mut buffer, &self.fields(shard, flags, id), Body::Heartbeat, seal).unwrap();
        buffer
    }

    /// Seals changed bytes anew.
    pub(crate) fn reseal(&self, frame: &mut [u8]) {
        let epoch = u32::from_le_bytes(frame[40..44].try_into().unwrap());
        let key = tag::derive(&self.master, self.session_id, epoch);
        build::seal(frame, if self.tagged { Seal::Tag(&key) } else { Seal::Crc });
    }

    /// Verifies a reply and keeps it.
    pub(crate) fn take(&mut self, item: &Delivered, lossy: bool) {
        let frame = checked(&item.frame, 1472, self.tagged, &self.reply_master);
        let header = frame.header;
        assert_eq!(item.destination, self.endpoint, "replies go where the frame came from");
        assert_eq!((header.session_id.get(), header.route_id.get()), (self.reply_id, 0));
        assert_eq!(header.shard.get(), item.shard);
        follows(&mut self.reply_last, item.shard, header.frame_id.get(), lossy);
        let reply = match (frame.ack(), frame.nack()) {
            (Some(ack), None) => Reply::Ack(*ack),
            (None, Some(nack)) => Reply::Nack(*nack),
            _ => panic!("neither ack nor nack: {header:?}"),
        };
        let (Reply::Ack(AckBody { session_id, .. }) | Reply::Nack(NackBody { session_id, .. })) = reply;
        assert_eq!(session_id.get(), self.session_id);
        self.replies.push((item.shard, reply));
    }

    pub(crate) fn take_replies(&mut self) -> Vec<(u16, Reply)> {
        std::mem::take(&mut self.replies)
    }
}

/// One copy as a subscriber got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// The egress session it came under.
    pub(crate) session_id: u32,
    pub(crate) shard: u16,
    pub(crate) route_id: u32,
    pub(crate) message: Message,
    /// The payload that travelled in the frame, if one did.
    pub(crate) payload: Option<Vec<u8>>,
    /// Under which it was first admitted; of durable topics only.
    pub(crate) identity: Option<Provenance>,
    /// Virtual time at which it was collected.
    pub(crate) at: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(crate) slot: u32,
    pub(crate) session_id: u32,
    pub(crate) master: [u8; 32],
    pub(crate) tagged: bool,
    pub(crate) credit: u32,
    pub(crate) frame_bytes_max: u32,
    pub(crate) endpoint: Endpoint,
    /// Payloads may be damaged before the publisher seals them, which only their reader can see.
    pub(crate) damaged: bool,
    last: BTreeMap<u16, u32>,
    pub(crate) received: Vec<Received>,
    pub(crate) frames: usize,
    /// The bytes of every frame, one behind the other.
    pub(crate) bytes: Vec<u8>,
}

impl Subscriber {
    pub(crate) fn new(number: usize, tagged: bool, credit: u32, frame_bytes_max: u32) -> Self {
        let low = u16::try_from(number).unwrap();
        let [high_byte, low_byte] = low.to_be_bytes();
        let session_id = 0x2_0000 + u32::from(low);
        Self {
            slot: low.into(),
            session_id,
            master: master(session_id),
            tagged,
            credit,
            frame_bytes_max,
            endpoint: Endpoint::v4([10, 1, high_byte, low_byte], 24_640 + 16 * low),
            damaged: false,
            last: BTreeMap::new(),
            received: Vec::new(),
            frames: 0,
            bytes: Vec::new(),
        }
    }

    pub(crate) fn add(&self) -> AddSubscriber {
        AddSubscriber {
            slot: self.slot.into(),
            worker: 0.into(),
            tagged: self.tagged.into(),
            reserved: 0,
            session_id: self.session_id.into(),
            credit: self.credit.into(),
            frame_bytes_max: self.frame_bytes_max.into(),
            endpoint: self.endpoint,
            master: self.master,
        }
    }

    /// Becomes another session of the same slot, whose frames begin anew.
    pub(crate) fn renew(&mut self, session_id: u32) {
        self.session_id = session_id;
        self.master = master(session_id);
        self.last.clear();
    }

    /// Verifies a frame and keeps its copies.
    pub(crate) fn take(&mut self, item: &Delivered, now: u64, lossy: bool) {
        let frame = checked(&item.frame, self.frame_bytes_max, self.tagged, &self.master);
        let header = frame.header;
        assert_eq!(header.session_id.get(), self.session_id);
        assert_eq!((header.kind, header.shard.get()), (KIND_DATA, item.shard));
        assert_ne!(header.route_id.get(), 0);
        assert_eq!(item.destination.port.get(), self.endpoint.port.get() + item.shard, "shard n is n ports up");
        assert!(header.sent_ns.get() >= UNIX_OFFSET && header.sent_ns.get() <= UNIX_OFFSET + now);
        follows(&mut self.last, item.shard, header.frame_id.get(), lossy);
        payload::check(&frame).expect("the payload area is covered");
        for (index, message) in frame.messages.iter().enumerate() {
            let found = payload::of(&frame, index);
            assert!(found.is_ok() || (self.damaged && found == Err(Reason::ArenaCorrupt)), "{found:?}");
            let place = message.in_frame().map(|place| (place.offset.get(), place.length.get() as usize));
            let body = place.map(|(start, length)| frame.bytes[usize::try_from(start).unwrap()..][..length].to_vec());
            self.received.push(Received {
                session_id: self.session_id,
                shard: item.shard,
                route_id: header.route_id.get(),
                message: *message,
                payload: body,
                identity: frame.provenance.get(index).copied(),
                at: now,
            });
        }
        self.frames += 1;
        self.bytes.extend_from_slice(&item.frame);
    }
}

/// A frame of the node: it keeps the layout, and its seal is right under a key of this boot.
fn checked<'a>(bytes: &'a [u8], frame_bytes_max: u32, tagged: bool, master: &[u8; 32]) -> Frame<'a> {
    let frame = frame::parse(bytes, &Lane { frame_bytes_max, references: false }).expect("the node sends good frames");
    assert_eq!(frame.is_authenticated(), tagged);
    assert_eq!(frame.header.epoch.get(), u32::from(BOOT) << 16);
    if tagged {
        let key = tag::derive(master, frame.header.session_id.get(), frame.header.epoch.get());
        assert!(tag::verify(&key, &frame), "the tag is right");
    } else {
        assert!(crc::verify(&frame), "the crc is right");
    }
    frame
}

/// Frame ids rise by one, or at least rise where frames may be lost.
fn follows(last: &mut BTreeMap<u16, u32>, shard: u16, id: u32, lossy: bool) {
    let before = last.insert(shard, id).unwrap_or(0);
    assert!(id == before + 1 || (lossy && id > before), "frame {id} of shard {shard} came after {before}");
}
