//! What the registry keeps of sessions and subscribers, and how it becomes what `tachyond` is told.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};
use tachyon_wire::{
    Endpoint,
    command::{AddSubscriber, OpenSession, SESSION_SYSTEM, SESSION_TAG_REQUIRED},
};

/// A master key. Never printed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key(pub [u8; 32]);

impl Key {
    /// A new one from the kernel's random numbers.
    ///
    /// # Panics
    /// Where the kernel has no random numbers; nothing can be done safely then.
    #[must_use]
    pub(crate) fn random() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
        Self(bytes)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A process, told apart from a later one with the same number by the tick of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub(crate) started: u64,
}

/// Who opened something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The identity that it claimed.
    pub(crate) identity: String,
    /// That identity's permanent row of rights.
    pub(crate) principal: u32,
    /// Its Unix user.
    pub(crate) uid: u32,
    /// The process with which it ends; `None` = it stays until it is ended.
    pub(crate) process: Option<Process>,
}

/// What carries the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// UDP, which needs no agreement.
    #[default]
    Udp,
    /// RDMA datagrams.
    Datagram,
    /// Sends on RDMA connections.
    Connection,
    /// Writes into rings of the receiving side.
    Ring,
}

/// A lane that one worker agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreed {
    /// What the node calls the peer.
    pub(crate) to: SocketAddr,
    /// The start of `tachyond` that agreed; a later one has no lane of it.
    pub(crate) boot_id: [u8; 16],
}

/// How the frames of a session or subscriber go. What both ends told each other is secret and not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lanes {
    /// What was asked for.
    pub(crate) way: Way,
    /// Copies go by UDP once a lane has failed for good.
    pub(crate) falls_back: bool,
    /// By worker.
    pub(crate) agreed: BTreeMap<u16, Agreed>,
}

/// A publisher's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Its low bits are its slot in the node's table.
    pub(crate) session_id: u32,
    /// The opposite session.
    pub(crate) reply_session_id: u32,
    /// Who opened it.
    pub(crate) owner: Owner,
    /// First sender id.
    pub(crate) sender_low: u32,
    /// Last sender id (inclusive).
    pub(crate) sender_high: u32,
    /// Best class, 0–3.
    pub(crate) class_cap: u8,
    /// May set SYSTEM_PACKET.
    pub(crate) system: bool,
    /// Frames must carry a tag.
    pub(crate) tag_required: bool,
    /// Where its frames must come from; port 0 = any.
    pub(crate) pinned: Option<(IpAddr, u16)>,
    /// Key of the publisher's direction.
    pub(crate) master: Key,
    /// Key of the opposite direction.
    pub(crate) reply_master: Key,
    /// How its frames go. Registries of before there were lanes do not have it.
    #[serde(default)]
    pub(crate) lanes: Lanes,
    /// To be ended at the node as soon as that is possible.
    pub(crate) ending: bool,
}

impl Session {
    /// What `tachyond` is told.
    #[must_use]
    pub(crate) fn command(&self, epoch_floor: u32) -> OpenSession {
        let tag = if self.tag_required { SESSION_TAG_REQUIRED } else { 0 };
        let system = if self.system { SESSION_SYSTEM } else { 0 };
        OpenSession {
            session_id: self.session_id.into(),
            reply_session_id: self.reply_session_id.into(),
            principal: self.owner.principal.into(),
            sender_low: self.sender_low.into(),
            sender_high: self.sender_high.into(),
            epoch_floor: epoch_floor.into(),
            class_cap: self.class_cap,
            flags: tag | system,
            pinned: self.pinned.map_or(Endpoint::NONE, |(ip, port)| endpoint(ip, port)),
            master: self.master.0,
            reply_master: self.reply_master.0,
        }
    }
}

/// A subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subscriber {
    /// The slot that the ruleset's targets name.
    pub(crate) slot: u32,
    /// Who subscribed.
    pub(crate) owner: Owner,
    /// Names and patterns, as asked for.
    pub(crate) topics: Vec<String>,
    /// Where copies go.
    pub(crate) address: IpAddr,
    /// Port of shard 0.
    pub(crate) base_port: u16,
    /// Buffers that may wait or be in flight, per worker.
    pub(crate) credit: u32,
    /// Egress frames carry tags.
    pub(crate) tagged: bool,
    /// Largest frame in bytes.
    pub(crate) frame_bytes_max: u32,
    /// Egress session and its key, worker by worker.
    pub(crate) egress: Vec<(u32, Key)>,
    /// How its frames go. Registries of before there were lanes do not have it.
    #[serde(default)]
    pub(crate) lanes: Lanes,
    /// To be ended at the node as soon as no ruleset in force names it.
    pub(crate) ending: bool,
}

impl Subscriber {
    /// Where copies of shard 0 go.
    pub(crate) const fn at(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.base_port)
    }

    /// What `tachyond` is told, worker by worker.
    pub(crate) fn commands(&self) -> impl Iterator<Item = AddSubscriber> {
        self.egress.iter().zip(0_u16..).map(|((session_id, master), worker)| AddSubscriber {
            slot: self.slot.into(),
            worker: worker.into(),
            tagged: self.tagged.into(),
            reserved: 0,
            session_id: (*session_id).into(),
            credit: self.credit.into(),
            frame_bytes_max: self.frame_bytes_max.into(),
            endpoint: endpoint(self.address, self.base_port),
            master: master.0,
        })
    }
}

pub(crate) fn endpoint(ip: IpAddr, port: u16) -> Endpoint {
    match ip {
        IpAddr::V4(ip) => Endpoint::v4(ip.octets(), port),
        IpAddr::V6(ip) => Endpoint::v6(ip.octets(), port),
    }
}

/// The reverse of [`endpoint`].
pub(crate) fn address(at: Endpoint) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(at.ip)).to_canonical(), at.port.get())
}

/// What of the connected node its sessions and subscribers depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Slots of the session table.
    pub(crate) sessions_max: u32,
    /// Workers.
    pub(crate) workers: u16,
    /// Shards.
    pub(crate) shard_count: u16,
}

/// The start of `tachyond` that has all sessions and subscribers of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// Which start.
    pub(crate) boot_id: [u8; 16],
    /// Its number.
    pub(crate) boot_number: u16,
    /// Its shape.
    pub(crate) shape: Shape,
}

/// The rules file in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RulesText {
    /// All of it.
    pub(crate) text: String,
    /// Its name when it was applied.
    pub(crate) file_name: String,
    /// When, Unix seconds.
    pub(crate) applied_unix_s: u64,
}
