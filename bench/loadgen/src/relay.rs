//! A relay in the node's place: it sends on every frame as it is, so this program invents what a node would give, and its
//! subscriber verifies the publishers' own frames. What a node adds shows as the difference between the two runs.

use crate::session::{Access, NodeFacts, Reading, Wanted};
use anyhow::{Result, bail};
use std::net::SocketAddr;
use tachyon_proto::v1::{EgressSession, Lane, OpenSessionResponse, SubscribeResponse};
use tachyon_wire::tag::MASTER_BYTES;

/// Senders of the one range that every session has, 0 to this one: what the rules of a small node give.
const SENDER_HIGH: u32 = 1023;

/// A relay, and what was invented for it.
#[derive(Debug)]
pub struct Relay {
    facts: NodeFacts,
    listen_port: u16,
    sessions: u32,
    subscribed: bool,
}

impl Relay {
    /// A relay that receives shard n at the port of `at` + n, and sends to `listen_port` + n of whoever subscribes.
    #[must_use]
    pub fn new(at: SocketAddr, shard_count: u16, listen_port: u16, frame_bytes_max: u32) -> Self {
        let facts = NodeFacts {
            shard_count,
            base_port: at.port(),
            addresses: vec![at.ip().to_string()],
            frame_bytes_max,
            degraded: Vec::new(),
            counts: false,
            workers: 1,
            fabric_mtu_bytes: None,
        };
        Self { facts, listen_port, sessions: 0, subscribed: false }
    }
}

impl Access for Relay {
    fn node(&mut self) -> Result<NodeFacts> {
        Ok(self.facts.clone())
    }

    fn resolve(&mut self, _identity: &str, names: &[String]) -> Result<Vec<u32>> {
        Ok((1..).take(names.len()).collect())
    }

    fn open_session(&mut self, _identity: &str, tags: bool, _lane: Lane) -> Result<OpenSessionResponse> {
        self.sessions += 1;
        Ok(OpenSessionResponse {
            session_id: self.sessions,
            master_key: master(self.sessions),
            // Nobody answers; a number that no session of ours has.
            reply_session_id: u32::MAX,
            reply_master_key: master(u32::MAX),
            epoch: 1,
            sender_low: 0,
            sender_high: SENDER_HIGH,
            tag_required: tags,
            ..OpenSessionResponse::default()
        })
    }

    fn close_session(&mut self, _session_id: u32) -> Result<()> {
        Ok(())
    }

    fn subscribe(&mut self, wanted: &Wanted) -> Result<SubscribeResponse> {
        if self.subscribed {
            bail!("a relay sends to one address only; give --subscribers 1");
        }
        if wanted.base_port != self.listen_port {
            bail!("a port from --listen-port {} on is taken, and the relay sends there", self.listen_port);
        }
        self.subscribed = true;
        let sessions = (1..=self.sessions).map(|session_id| EgressSession {
            session_id,
            master_key: master(session_id),
            ..EgressSession::default()
        });
        Ok(SubscribeResponse {
            subscriber: 1,
            sessions: sessions.collect(),
            frame_bytes_max: self.facts.frame_bytes_max,
            ..SubscribeResponse::default()
        })
    }

    fn unsubscribe(&mut self, _subscriber: u32) -> Result<()> {
        Ok(())
    }

    fn read(&mut self) -> Result<Reading> {
        Ok(Reading::default())
    }
}

/// A key that both ends of this program know; there is nobody to keep it from.
fn master(session_id: u32) -> Vec<u8> {
    session_id.to_le_bytes().repeat(MASTER_BYTES / size_of::<u32>())
}
