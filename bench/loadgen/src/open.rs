//! Everything that must be there before the first frame: topics, sessions, threads with their ports, subscriptions.

use crate::{
    args::{Class, RunArgs},
    capture,
    forge::{Kind, Victim},
    hire::{self, Equipment, Hand, Roster},
    publisher::{Setup, Shape, Stream},
    reader::{Incoming, Reader},
    run::apart,
    session::{Access, NodeFacts, Wanted},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};
use tachyon_proto::v1::{OpenSessionResponse, SubscribeResponse};
use tachyon_wire::{
    Endpoint,
    tag::{self, FrameKey, MASTER_BYTES},
};

/// What is open.
#[derive(Debug)]
pub struct Opened {
    /// The crews.
    pub hands: Vec<Hand>,
    /// Publishers of each crew.
    pub publishers: Vec<usize>,
    /// Publishing sessions.
    pub sessions: Vec<u32>,
    /// Subscriptions.
    pub subscribers: Vec<u32>,
    /// Topics in order of popularity.
    pub topics: Vec<u32>,
    /// Topics that phases favour, by name.
    pub hot_topics: BTreeMap<String, u32>,
    /// Senders of each session that are used.
    pub senders: u32,
    /// Shards of the fabric.
    pub shard_count: u16,
    /// What all frames have in common.
    pub shape: Shape,
    /// The driver's name.
    pub driver: &'static str,
    /// What works with less than was asked for.
    pub degraded: Vec<String>,
}

/// The node's address: the one that was given, else a loopback one if the node has it, else its first.
///
/// # Errors
/// The node told no address.
pub fn node_ip(args: &RunArgs, node: &NodeFacts) -> Result<IpAddr> {
    let told = || node.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
    let ip = args.node.or_else(|| told().find(IpAddr::is_loopback)).or_else(|| told().next());
    match ip {
        // Listening on every address includes the loopback one.
        Some(ip) if ip.is_unspecified() => Ok(Ipv4Addr::LOCALHOST.into()),
        Some(ip) => Ok(ip),
        None => bail!("the node told no address that takes frames; give one with --node"),
    }
}

/// Opens everything. `hire` starts a crew.
///
/// # Errors
/// The first thing that could not be had, and what to do.
pub fn open(
    args: &RunArgs,
    access: &mut dyn Access,
    node: &NodeFacts,
    node_ip: IpAddr,
    frame_messages: u32,
    hire: impl Fn(Roster) -> Result<Hand>,
) -> Result<Opened> {
    if args.frame_bytes > node.frame_bytes_max {
        bail!("the node takes frames up to {} bytes; give --frame-bytes {0} or less", node.frame_bytes_max);
    }
    let (topics, hot_topics) = resolve(args, access)?;
    let answers: Vec<OpenSessionResponse> = (0..args.sessions.max(1))
        .map(|_| access.open_session(&args.identity, !args.crc, args.fabric.lane()))
        .collect::<Result<_>>()?;
    let shape = Shape {
        messages: frame_messages,
        frames_most: hire::frames_most(64 * (frame_messages + 1)),
        payload_bytes: args.payload_bytes,
        class: args.class,
        ack: args.ack || args.until.is_some(),
        until: args.until.map(Class::number),
    };
    let rosters = rosters(args, node)?;
    let hands: Vec<Hand> = rosters.iter().cloned().map(hire).collect::<Result<_>>()?;
    let senders =
        answers.iter().map(|answer| answer.sender_high.saturating_sub(answer.sender_low).saturating_add(1)).min();
    let mut opened = Opened {
        publishers: rosters.iter().map(|roster| roster.publishers).collect(),
        sessions: answers.iter().map(|answer| answer.session_id).collect(),
        subscribers: Vec::new(),
        topics,
        hot_topics,
        senders: args.senders.clamp(1, senders.unwrap_or(1).max(1)),
        shard_count: node.shard_count,
        shape,
        driver: hands.first().map_or("none", |hand| hand.opened.driver),
        degraded: node.degraded.clone(),
        hands,
    };
    for line in opened.hands.iter().flat_map(|hand| &hand.opened.degraded) {
        let line = format!("load generator: {line}");
        if !opened.degraded.contains(&line) {
            opened.degraded.push(line);
        }
    }
    equip(args, access, node, node_ip, &answers, &rosters, &mut opened)?;
    Ok(opened)
}

/// Ids of the topics in order of popularity, and of those that phases favour.
fn resolve(args: &RunArgs, access: &mut dyn Access) -> Result<(Vec<u32>, BTreeMap<String, u32>)> {
    let names: Vec<String> = (0..args.topics.max(1)).map(|number| format!("{}{number}", args.topic_prefix)).collect();
    let topics = access.resolve(&args.identity, &names)?;
    let hot = hot_names(args)?;
    let ids = if hot.is_empty() { Vec::new() } else { access.resolve(&args.identity, &hot)? };
    Ok((topics, hot.into_iter().zip(ids).collect()))
}

fn hot_names(args: &RunArgs) -> Result<Vec<String>> {
    let phases = args.settled_phases().map_err(anyhow::Error::msg)?;
    let mut names: Vec<String> = phases.into_iter().filter_map(|phase| phase.hot.map(|(name, _)| name)).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Who works where: all in one thread, or each publisher in its own and all subscribers in one.
fn rosters(args: &RunArgs, node: &NodeFacts) -> Result<Vec<Roster>> {
    let subscribers = args.subscribers as usize;
    let ports = if args.write.is_some() {
        capture::listen_ports(args.listen_port, node.shard_count, subscribers)?
    } else {
        hire::free_ports(args.listen, args.listen_port, node.shard_count, subscribers)?
    };
    let publishers = args.publishers.clamp(1, args.sessions.max(1)) as usize;
    let apart = apart(args.threads);
    let roster = Roster {
        publishers: 0,
        listen_ports: Vec::new(),
        shard_count: node.shard_count,
        buffers: hire::buffers(args),
        cpu: None,
        own_core: apart,
    };
    let mut rosters = Vec::new();
    if apart {
        rosters.extend((0..publishers).map(|_| Roster { publishers: 1, ..roster.clone() }));
        if !ports.is_empty() {
            rosters.push(Roster { listen_ports: ports, ..roster });
        }
    } else {
        rosters.push(Roster { publishers, listen_ports: ports, ..roster });
    }
    if let Some(cpus) = &args.cpu {
        for (roster, cpu) in rosters.iter_mut().zip(cpus.0.iter().cycle()) {
            roster.cpu = Some(*cpu);
        }
    }
    Ok(rosters)
}

/// Gives every crew its sessions, and subscribes its subscribers now that their ports are bound.
fn equip(
    args: &RunArgs,
    access: &mut dyn Access,
    node: &NodeFacts,
    node_ip: IpAddr,
    answers: &[OpenSessionResponse],
    rosters: &[Roster],
    opened: &mut Opened,
) -> Result<()> {
    let publishers: usize = rosters.iter().map(|roster| roster.publishers).sum();
    let mut number = 0;
    for (index, roster) in rosters.iter().enumerate() {
        let mut setups = Vec::new();
        for _ in 0..roster.publishers {
            let mine: Vec<usize> = (number..answers.len()).step_by(publishers).collect();
            setups.push(setup(args, node, node_ip, answers, &mine, opened.shape)?);
            number += 1;
        }
        let mut readers = Vec::new();
        for port in &roster.listen_ports {
            let answer = access.subscribe(&wanted(args, *port)?)?;
            opened.subscribers.push(answer.subscriber);
            readers.push(subscriber_reader(args, &answer)?);
        }
        opened.hands[index].equip(Equipment { setups, readers })?;
    }
    Ok(())
}

fn setup(
    args: &RunArgs,
    node: &NodeFacts,
    node_ip: IpAddr,
    answers: &[OpenSessionResponse],
    mine: &[usize],
    shape: Shape,
) -> Result<Setup> {
    let mut streams = Vec::with_capacity(mine.len());
    let mut incoming = Vec::with_capacity(mine.len());
    for index in mine {
        let answer = &answers[*index];
        let key = tag::derive(&master(&answer.master_key)?, answer.session_id, answer.epoch);
        // Another session's key where there is one; a made-up one is just as foreign.
        let other = &answers[(index + 1) % answers.len()];
        let foreign_key = if other.session_id == answer.session_id {
            FrameKey::from_bytes([0x5a; 16])
        } else {
            tag::derive(&master(&other.master_key)?, other.session_id, other.epoch)
        };
        let victim = Victim {
            key: (!args.crc).then_some(key),
            foreign_key,
            foreign_sender: foreign_sender(answer),
            shard_count: node.shard_count,
        };
        streams.push(Stream::new(answer.session_id, answer.epoch, answer.sender_low, victim));
        incoming.push(Incoming {
            session_id: answer.reply_session_id,
            master: master(&answer.reply_master_key)?,
            tagged: answer.tag_required,
        });
    }
    let first = &answers[mine[0]];
    Ok(Setup {
        shape,
        node: endpoint(node_ip, node.base_port),
        streams,
        kinds: kinds(args, node, first),
        reader: Reader::new(args.frame_bytes, incoming),
        seed: args.seed.wrapping_add(mine[0] as u64),
    })
}

/// The kinds of forged frames that end in their reason here.
fn kinds(args: &RunArgs, node: &NodeFacts, answer: &OpenSessionResponse) -> Vec<Kind> {
    let owns_all_senders = answer.sender_low == 0 && answer.sender_high == u32::MAX;
    let mut kinds = Kind::possible(!args.crc, node.shard_count, owns_all_senders);
    // What a session is allowed is no forgery.
    kinds.retain(|kind| match kind {
        Kind::SystemPacket => !answer.system,
        Kind::Untagged => answer.tag_required,
        _ => true,
    });
    kinds
}

fn foreign_sender(answer: &OpenSessionResponse) -> u32 {
    answer.sender_high.checked_add(1).unwrap_or_else(|| answer.sender_low.saturating_sub(1))
}

fn wanted(args: &RunArgs, port: u16) -> Result<Wanted> {
    let mut topics = vec![args.subscribe.clone().unwrap_or_else(|| format!("{}*", args.topic_prefix))];
    if args.subscribe.is_none() {
        topics.extend(hot_names(args)?.into_iter().filter(|name| !name.starts_with(&args.topic_prefix)));
    }
    Ok(Wanted {
        identity: args.subscriber_identity.clone().unwrap_or_else(|| args.identity.clone()),
        topics,
        address: args.listen.to_string(),
        base_port: port,
        credit: args.credit,
        tagged: args.egress_tagged(),
        frame_bytes_max: args.frame_bytes,
        lane: args.fabric.lane(),
        fall_back: args.fabric_fall_back,
    })
}

fn subscriber_reader(args: &RunArgs, answer: &SubscribeResponse) -> Result<Reader> {
    let sessions = answer.sessions.iter().map(|session| {
        let master = master(&session.master_key)?;
        Ok(Incoming { session_id: session.session_id, master, tagged: args.egress_tagged() })
    });
    Ok(Reader::new(answer.frame_bytes_max, sessions.collect::<Result<Vec<_>>>()?))
}

fn master(bytes: &[u8]) -> Result<[u8; MASTER_BYTES]> {
    bytes.try_into().with_context(|| format!("the node sent a key of {} bytes instead of {MASTER_BYTES}", bytes.len()))
}

/// An address and a port.
#[must_use]
pub const fn endpoint(ip: IpAddr, port: u16) -> Endpoint {
    match ip {
        IpAddr::V4(ip) => Endpoint::v4(ip.octets(), port),
        IpAddr::V6(ip) => Endpoint::v6(ip.octets(), port),
    }
}
