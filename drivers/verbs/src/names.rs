//! By which names a worker reaches whom.
//!
//! A peer has one lane and one or more names: port numbers that follow each other, because a subscriber is sent each shard
//! at a port of its own, and further endpoints where they do not. The cold side keeps the book; a worker's table is made by
//! its orders, in their order, so it never has more names than the book.

use crate::{
    device::{Address, Fabric},
    ports::{Desk, VerbsPorts, name},
    wires::{Lane, Order},
};
use tachyon_driver_api::PortError;
use tachyon_wire::Endpoint;

/// A peer's first name, so that it can be sorted.
pub(crate) type Key = ([u8; 16], u16);

pub(crate) fn key(to: &Endpoint) -> Key {
    (to.ip, to.port.get())
}

/// An endpoint and those at the port numbers after it.
pub(crate) fn span(to: Endpoint, ports: u16) -> impl Iterator<Item = Endpoint> {
    (0..ports).map(move |port| Endpoint::v6(to.ip, to.port.get().wrapping_add(port)))
}

/// Whom a worker knows.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its lane; `None`: frames for it are not taken, because nothing is agreed on yet or it failed for good.
    pub(crate) lane: Option<u16>,
    pub(crate) is_datagram: bool,
    /// Port numbers that are its names.
    pub(crate) ports: u16,
    /// Its further names.
    pub(crate) also: Vec<Endpoint>,
    /// Where frames on its connection are said to come from, if that is not its first name.
    pub(crate) source: Option<Endpoint>,
    /// Once its way failed for good its frames are not taken any more.
    pub(crate) falls_back: bool,
}

impl Peer {
    const fn new() -> Self {
        Self { lane: None, is_datagram: false, ports: 1, also: Vec::new(), source: None, falls_back: false }
    }

    fn names(&self) -> usize {
        usize::from(self.ports) + self.also.len()
    }

    /// Whether one of these names is its own.
    fn shares(&self, (ip, first): Key, to: &Endpoint, ports: u16) -> bool {
        let (start, end) = (u32::from(to.port.get()), u32::from(to.port.get()) + u32::from(ports));
        let inside = |port: u32| (start..end).contains(&port);
        let first = u32::from(first);
        (ip == to.ip && first < end && start < first + u32::from(self.ports))
            || self.also.iter().any(|also| also.ip == to.ip && inside(also.port.get().into()))
    }
}

impl<F: Fabric> Desk<F> {
    /// Who but `to` has one of these names.
    fn owner(&self, to: &Endpoint, first: &Endpoint, ports: u16) -> Option<Endpoint> {
        let mut others = self.peers.iter().filter(|(one, _)| **one != key(to));
        let found = others.find(|(one, peer)| peer.shares(**one, first, ports));
        found.map(|((ip, port), _)| Endpoint::v6(*ip, *port))
    }

    /// Whether these names can be a peer's, or are its already.
    fn check_names(&self, to: &Endpoint, ports: u16) -> Result<(), PortError> {
        match self.owner(to, to, ports) {
            Some(owner) => Err(PortError(format!(
                "{ports} ports from {} on are in part those of {}: give each peer ports of its own",
                name(to),
                name(&owner)
            ))),
            None => Ok(()),
        }
    }

    /// Whether a peer can have that many names in all.
    fn check_room(&self, to: &Endpoint, names: usize) -> Result<(), PortError> {
        let standing = self.peers.get(&key(to)).filter(|peer| peer.lane.is_some());
        if self.names - standing.map_or(0, Peer::names) + names <= self.names_max {
            return Ok(());
        }
        Err(PortError(format!("there is no room for {names} names of {}: raise ports_per_peer or lanes_max", name(to))))
    }

    /// A destination is reached like this from now on, or as it was before if there is an error.
    pub(crate) fn route(&mut self, to: Endpoint, by: Lane<Address<F>>) -> Result<(), PortError> {
        let peer = self.peers.get(&key(&to));
        let (ports, names) = peer.map_or((1, 1), |peer| (peer.ports, peer.names()));
        self.check_names(&to, ports)?;
        self.check_room(&to, names)?;
        let Some(lane) = self.free_lanes.pop() else {
            return Err(PortError(format!("there is no lane left for {}: raise lanes_max", name(&to))));
        };
        self.unroute(to);
        self.names += names;
        let peer = self.peers.entry(key(&to)).or_insert_with(Peer::new);
        (peer.lane, peer.is_datagram) = (Some(lane), matches!(by, Lane::Datagram { .. }));
        let also = peer.also.clone();
        self.order(Order::Route { to, ports, lane, by });
        also.into_iter().for_each(|name| self.order(Order::Name { name, lane }));
        Ok(())
    }

    /// A destination is reached no more, and its names stay known.
    pub(crate) fn unroute(&mut self, to: Endpoint) {
        let Some(peer) = self.peers.get_mut(&key(&to)) else { return };
        let Some(lane) = peer.lane.take() else { return };
        self.names -= peer.names();
        let (ports, also) = (peer.ports, peer.also.clone());
        also.into_iter().for_each(|name| self.order(Order::Unname { name }));
        self.order(Order::Forget { to, ports, lane });
    }

    /// What a peer is called from now on. A lane that it has stays, and is reached by the new names.
    pub(crate) fn describe(&mut self, to: Endpoint, ports: u16, falls_back: bool) -> Result<(), PortError> {
        let last = u32::from(to.port.get()) + u32::from(ports) - u32::from(ports > 0);
        if ports == 0 || last > u32::from(u16::MAX) {
            return Err(PortError(format!("{ports} ports from {} on cannot be: there are 65535", name(&to))));
        }
        self.check_names(&to, ports)?;
        let names = usize::from(ports) + self.peers.get(&key(&to)).map_or(0, |peer| peer.also.len());
        self.check_room(&to, names)?;
        let peer = self.peers.entry(key(&to)).or_insert_with(Peer::new);
        let before = core::mem::replace(&mut peer.ports, ports);
        peer.falls_back = falls_back;
        if let Some(lane) = peer.lane {
            self.names = self.names - usize::from(before) + usize::from(ports);
            span(to, before).skip(ports.into()).for_each(|name| self.order(Order::Unname { name }));
            span(to, ports).skip(before.into()).for_each(|name| self.order(Order::Name { name, lane }));
        }
        Ok(())
    }
}

impl<F: Fabric> VerbsPorts<F> {
    /// One more name for a peer: frames to `also` go to it too, over reconnections and until its lane is ended.
    ///
    /// # Errors
    /// There is no such peer, the name is another's, or there is no room for more.
    pub fn also(&mut self, worker: u16, to: Endpoint, also: Endpoint) -> Result<(), PortError> {
        let desk = self.own_desk(worker)?;
        let Some(peer) = desk.peers.get(&key(&to)) else {
            return Err(PortError(format!("worker {worker} has no lane to {}: connect with it first", name(&to))));
        };
        if peer.shares(key(&to), &also, 1) {
            return Ok(());
        }
        let (lane, names) = (peer.lane, peer.names());
        if let Some(owner) = desk.owner(&to, &also, 1) {
            let owner = name(&owner);
            return Err(PortError(format!("{} is a name of {owner}: end its lane first", name(&also))));
        }
        if let Some(lane) = lane {
            desk.check_room(&to, names + 1)?;
            desk.names += 1;
            desk.order(Order::Name { name: also, lane });
        }
        desk.peers.entry(key(&to)).and_modify(|peer| peer.also.push(also));
        Ok(())
    }

    /// Frames of peers that fall back are not taken any more once their way has failed for good.
    pub(crate) fn fall_back(&mut self, worker: usize) {
        let (lost, most, desk) = (self.lost, self.config.reconnects_max, &mut self.desks[worker]);
        let datagrams = desk.datagrams.is_given_up(most);
        if lost || datagrams {
            let gone = desk.peers.iter().filter(|(_, peer)| peer.falls_back && (lost || peer.is_datagram));
            let gone: Vec<Endpoint> = gone.map(|((ip, port), _)| Endpoint::v6(*ip, *port)).collect();
            gone.into_iter().for_each(|to| desk.unroute(to));
        }
        for index in 0..desk.connections.len() {
            let (to, is_given_up) = (desk.connections[index].to, desk.connections[index].is_given_up(most));
            let peer = desk.peers.get(&key(&to));
            if is_given_up && peer.is_some_and(|peer| peer.falls_back && !peer.is_datagram) {
                desk.unroute(to);
            }
        }
    }
}
