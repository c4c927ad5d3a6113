//! Who is where: asks for the neighbours that somebody sends to, answers those that ask for us, and tells the workers.
//!
//! Bounded on purpose. Only addresses that somebody here wants to send to are remembered, so nothing that arrives makes
//! the memory grow; each request gets one answer, no longer than it or than an advertisement has to be, and only at the
//! Ethernet address it came from; and each turn asks for a limited number of neighbours.

use crate::{
    Checked, Foreign, Interface, Mac, Receiver, address, address_bytes,
    answer::{ARP_REPLY, ARP_REQUEST, Arp, Discovery, SMALL_BYTES, advertise, echo_v4, echo_v6, solicit},
    interface::is_unicast,
    packet::{
        self, ECHO_REQUEST_V6, ETHERNET_BYTES, IPV6_BYTES, Opened, TAG_BYTES, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, is_group,
    },
    table::Table,
};
use alloc::{vec, vec::Vec};
use core::net::{IpAddr, Ipv4Addr};

/// Most destinations that are remembered, besides the fixed ones: a network of 20 bits full of peers, in half a megabyte.
pub const WANTED_MAX: usize = 4096;

/// From the first request to the second, in ns; each next pause is twice as long.
const RETRY_NS: u64 = 250_000_000;
/// Requests without an answer after which a neighbour is given up, 7.75 s after the first.
const TRIES_MAX: u32 = 5;
/// How many of them go to the address that is known already, if one is.
const DIRECT_TRIES: u32 = 2;
/// How long an answer is believed before it is confirmed, in ns (RFC 4861's REACHABLE_TIME, 30 s).
const BELIEVED_NS: u64 = 30_000_000_000;
/// How long after a change of a neighbour's Ethernet address another change is not believed, in ns: two machines that
/// fight for one address shall not keep every worker busy. As Linux's `locktime`, 1 s.
const LOCK_NS: u64 = 1_000_000_000;
/// Most requests of one turn, so that many destinations at once are no storm on the wire.
const REQUESTS_PER_TICK: usize = 64;
/// Most destinations whose loss is still to be told.
const LOST_PENDING_MAX: usize = 64;

/// What the responder tells every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A destination can be reached; told again when its way changes.
    Reached {
        /// The destination, as in `Endpoint::ip`.
        to: [u8; 16],
        /// The index of the port it is reached from.
        port: u16,
        /// The Ethernet address of the next device on the way.
        mac: Mac,
    },
    /// A destination cannot be reached, or is forgotten; whoever still sends there wants it again.
    Lost {
        /// The destination, as in `Endpoint::ip`.
        to: [u8; 16],
    },
}

/// A port and an address on its network.
type Place = (u16, [u8; 16]);

/// A destination that somebody sends to.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    next: Place,
    wanted_ns: u64,
    /// Not only noted, so that what is noted cannot push it out.
    announced: bool,
    told: Option<Mac>,
}

/// A device on one of our networks: a destination itself, or the gateway to some.
#[derive(Clone, Copy, Debug)]
struct Next {
    mac: Option<Mac>,
    fixed: bool,
    /// Destinations that are reached through it.
    wanted: usize,
    tries: u32,
    due_ns: u64,
    changed_ns: u64,
}

#[derive(Clone, Debug)]
struct Side {
    interface: Interface,
    receiver: Receiver,
}

/// Finds neighbours for all ports of a node, and is one itself.
#[derive(Debug)]
pub struct Responder {
    sides: Vec<Side>,
    fixed: Vec<([u8; 16], u16)>,
    wanted: Table<[u8; 16], Wanted>,
    nexts: Table<Place, Next>,
    lost: Vec<[u8; 16]>,
    /// Somebody is wanted whose next hop is known already.
    untold: bool,
    scratch: Vec<u8>,
}

impl Responder {
    /// A responder for these ports, in the order of their indices. A fixed neighbour is an address, the index of the port
    /// it is reached from, and its Ethernet address; it is never asked for, and told with the first turn. Those of ports
    /// that do not exist are left out. Allocates all it will ever need.
    #[must_use]
    pub fn new(interfaces: Vec<Interface>, fixed: &[(IpAddr, u16, Mac)]) -> Self {
        let longest = interfaces.iter().map(|interface| usize::from(interface.mtu)).max().unwrap_or(0);
        let scratch = vec![0; (longest + ETHERNET_BYTES + TAG_BYTES).max(SMALL_BYTES)];
        let side = |interface: Interface| Side { receiver: Receiver::new(&interface), interface };
        let sides: Vec<Side> = interfaces.into_iter().map(side).collect();
        let fixed = fixed.iter().filter(|(_, port, _)| usize::from(*port) < sides.len());
        let capacity = WANTED_MAX + fixed.clone().count();
        let (mut wanted, mut nexts) = (Table::new(capacity), Table::new(capacity));
        for (ip, port, mac) in fixed.clone() {
            let place = (*port, address_bytes(*ip));
            let next =
                Next { mac: Some(*mac), fixed: true, wanted: 1, tries: 0, due_ns: u64::MAX, changed_ns: u64::MAX };
            nexts.insert(place, next);
            wanted.insert(place.1, Wanted { next: place, wanted_ns: u64::MAX, announced: true, told: None });
        }
        let fixed = fixed.map(|(ip, port, _)| (address_bytes(*ip), *port)).collect();
        let lost = Vec::with_capacity(LOST_PENDING_MAX);
        Self { sides, fixed, wanted, nexts, lost, untold: true, scratch }
    }

    /// Somebody sends to this address: find out where it is. What becomes of it is told by the next turns; to be called
    /// again for whatever was lost and is still sent to.
    pub fn want(&mut self, to: IpAddr, now_ns: u64) {
        self.add(to, now_ns, true);
    }

    /// The same for a destination that a packet named, such as where an answer goes: it never makes room by forgetting one
    /// that was announced, or whoever sends under many addresses could cut subscribers off.
    pub fn note(&mut self, to: IpAddr, now_ns: u64) {
        self.add(to, now_ns, false);
    }

    fn add(&mut self, to: IpAddr, now_ns: u64, announced: bool) {
        let key = address_bytes(to);
        if let Some(known) = self.wanted.get_mut(&key) {
            known.wanted_ns = known.wanted_ns.max(now_ns);
            known.announced |= announced;
            return;
        }
        let Some(place) = self.route(to) else { return self.lose(key) };
        if self.wanted.is_full() && !self.forget_oldest(announced) {
            return;
        }
        match self.nexts.get_mut(&place) {
            Some(next) => {
                next.wanted += 1;
                self.untold |= next.mac.is_some();
            }
            None => {
                let new = Next { mac: None, fixed: false, wanted: 1, tries: 0, due_ns: now_ns, changed_ns: 0 };
                self.nexts.insert(place, new);
            }
        }
        self.wanted.insert(key, Wanted { next: place, wanted_ns: now_ns, announced, told: None });
    }

    /// Reads a packet that came to a port and was found to be a [`Foreign::Neighbour`]; others are ignored. `send` is
    /// given a port's index and a packet for it, at most once; `tell` what the packet changed.
    pub fn handle(
        &mut self,
        port: u16,
        packet: &[u8],
        now_ns: u64,
        send: &mut dyn FnMut(u16, &[u8]),
        tell: &mut dyn FnMut(News),
    ) {
        self.tell_lost(tell);
        let Some(side) = self.sides.get(usize::from(port)) else { return };
        if side.receiver.find(packet, Checked::default()) != Err(Foreign::Neighbour) {
            return;
        }
        let Ok(opened) = packet::open(packet, side.interface.vlan) else { return };
        // Whoever sends as a group, as nobody or as us gets no answer: it would go to many, to none or in a circle.
        if !is_other_device(opened.from, &side.interface) {
            return;
        }
        match opened.ether_type {
            TYPE_ARP => self.arp(port, &opened, now_ns, send, tell),
            TYPE_IPV6 if opened.body.get(IPV6_BYTES) != Some(&ECHO_REQUEST_V6) => {
                self.discovery(port, &opened, now_ns, send, tell);
            }
            TYPE_IPV4 | TYPE_IPV6 => {
                let echo = if opened.ether_type == TYPE_IPV4 { echo_v4 } else { echo_v6 };
                if let Some(bytes) = echo(&mut self.scratch, &side.interface, opened.from, opened.body) {
                    send(port, &self.scratch[..bytes]);
                }
            }
            _ => {}
        }
    }

    /// One turn, to be taken some ten times a second: asks for whom is due, gives up whom nobody hears, and tells what
    /// has not been told yet.
    pub fn tick(&mut self, now_ns: u64, send: &mut dyn FnMut(u16, &[u8]), tell: &mut dyn FnMut(News)) {
        self.tell_lost(tell);
        if core::mem::take(&mut self.untold) {
            for (to, wanted) in self.wanted.iter_mut().filter(|(_, wanted)| wanted.told.is_none()) {
                let mac = self.nexts.get(&wanted.next).and_then(|next| next.mac);
                tell_reached(*to, wanted, mac, tell);
            }
        }
        let (mut at, mut requests) = (0, 0);
        while at < self.nexts.len() && requests < REQUESTS_PER_TICK {
            let Some((place, next)) = self.nexts.at_mut(at) else { break };
            if next.fixed || next.due_ns > now_ns {
                at += 1;
                continue;
            }
            if next.tries == TRIES_MAX {
                self.give_up(place, tell);
                continue;
            }
            let direct = next.mac.filter(|_| next.tries < DIRECT_TRIES);
            next.due_ns = now_ns.saturating_add(RETRY_NS << next.tries);
            next.tries += 1;
            self.ask(place, direct, send);
            (at, requests) = (at + 1, requests + 1);
        }
    }

    /// The port and the address on its network by which a destination is reached; `None` if there is no way.
    fn route(&self, to: IpAddr) -> Option<Place> {
        let key = address_bytes(to);
        if let Some((ip, port)) = self.fixed.iter().find(|(ip, _)| *ip == key) {
            return Some((*port, *ip));
        }
        let sides = || (0u16..).zip(&self.sides);
        if !is_unicast(to) || sides().any(|(_, side)| side.interface.owns(to)) {
            return None;
        }
        let direct = sides().filter_map(|(port, side)| Some((port, side.interface.network_of(to)?.prefix)));
        if let Some((port, _)) = direct.max_by_key(|(_, prefix)| *prefix) {
            return Some((port, key));
        }
        sides().find_map(|(port, side)| {
            let gateway = side.interface.network_with_gateway(to)?.gateway?;
            Some((port, address_bytes(gateway)))
        })
    }

    /// Sends one request: to everybody, or to an Ethernet address that is known.
    fn ask(&mut self, (port, target): Place, known: Option<Mac>, send: &mut dyn FnMut(u16, &[u8])) {
        let Some(Side { interface, .. }) = self.sides.get(usize::from(port)) else { return };
        let bytes = match (address(&target), interface.source_towards(address(&target))) {
            (IpAddr::V4(ip), Some(IpAddr::V4(source))) => {
                let request = Arp {
                    operation: ARP_REQUEST,
                    sender_mac: interface.mac,
                    sender: source.octets(),
                    target_mac: [0; 6],
                    target: ip.octets(),
                };
                request.write(&mut self.scratch, interface, known.unwrap_or([0xff; 6]))
            }
            (IpAddr::V6(_), Some(IpAddr::V6(source))) => {
                solicit(&mut self.scratch, interface, source.octets(), target, known)
            }
            _ => return,
        };
        send(port, &self.scratch[..bytes]);
    }

    fn arp(
        &mut self,
        port: u16,
        opened: &Opened<'_>,
        now_ns: u64,
        send: &mut dyn FnMut(u16, &[u8]),
        tell: &mut dyn FnMut(News),
    ) {
        let Some(arp) = Arp::read(opened.body) else { return };
        let Some(Side { interface, .. }) = self.sides.get(usize::from(port)) else { return };
        let sender = IpAddr::from(arp.sender);
        // A sender of zero only asks whether an address is taken (RFC 5227); it is answered and not believed.
        let probes = sender.is_unspecified() && arp.operation == ARP_REQUEST;
        if !(probes || is_unicast(sender)) || interface.owns(sender) {
            return;
        }
        let target = Ipv4Addr::from(arp.target);
        if arp.operation == ARP_REQUEST && interface.owns(target.into()) {
            let answer = Arp {
                operation: ARP_REPLY,
                sender_mac: interface.mac,
                sender: arp.target,
                target_mac: arp.sender_mac,
                target: arp.sender,
            };
            let bytes = answer.write(&mut self.scratch, interface, opened.from);
            send(port, &self.scratch[..bytes]);
        }
        if !probes && matches!(arp.operation, ARP_REQUEST | ARP_REPLY) {
            self.learn((port, address_bytes(sender)), arp.sender_mac, true, now_ns, tell);
        }
    }

    fn discovery(
        &mut self,
        port: u16,
        opened: &Opened<'_>,
        now_ns: u64,
        send: &mut dyn FnMut(u16, &[u8]),
        tell: &mut dyn FnMut(News),
    ) {
        let Some(said) = Discovery::read(opened.body) else { return };
        let Some(Side { interface, .. }) = self.sides.get(usize::from(port)) else { return };
        let (from, target) = (IpAddr::from(said.from), IpAddr::from(said.target));
        let probes = said.asks && from.is_unspecified();
        if !(probes || is_unicast(from)) || interface.owns(from) {
            return;
        }
        if said.asks && interface.owns(target) {
            let bytes = advertise(&mut self.scratch, interface, opened.from, said.from, said.target);
            send(port, &self.scratch[..bytes]);
        }
        if !probes {
            let who = if said.asks { said.from } else { said.target };
            self.learn((port, who), said.mac.unwrap_or(opened.from), said.replaces, now_ns, tell);
        }
    }

    /// Believes that a neighbour has this Ethernet address, if it is one that somebody wants. Gateways that are several
    /// devices announce an address that they do not send from, so it need not be the sender's.
    fn learn(&mut self, place: Place, mac: Mac, replaces: bool, now_ns: u64, tell: &mut dyn FnMut(News)) {
        if !self.sides.get(usize::from(place.0)).is_some_and(|side| is_other_device(mac, &side.interface)) {
            return;
        }
        let Some(next) = self.nexts.get_mut(&place).filter(|next| !next.fixed) else { return };
        if next.mac.is_some_and(|known| known != mac) {
            if !replaces || now_ns < next.changed_ns.saturating_add(LOCK_NS) {
                return;
            }
            next.mac = None;
        }
        next.tries = 0;
        next.due_ns = now_ns.saturating_add(BELIEVED_NS);
        if next.mac.replace(mac).is_none() {
            next.changed_ns = now_ns;
            for (to, wanted) in self.wanted.iter_mut().filter(|(_, wanted)| wanted.next == place) {
                tell_reached(*to, wanted, Some(mac), tell);
            }
        }
    }

    /// Forgets a next hop and everybody behind it.
    fn give_up(&mut self, place: Place, tell: &mut dyn FnMut(News)) {
        self.nexts.remove(&place);
        self.wanted.retain(|to, wanted| {
            let stays = wanted.next != place;
            if !stays {
                tell(News::Lost { to: *to });
            }
            stays
        });
    }

    /// Makes room by forgetting whom nobody wanted for longest, of those that were announced only if `announced` and no
    /// other is left; false if there is none or its loss cannot be told yet.
    fn forget_oldest(&mut self, announced: bool) -> bool {
        // What never changes can always be told again, so the fixed ones stay.
        let may_go = |wanted: &Wanted| wanted.wanted_ns != u64::MAX && (announced || !wanted.announced);
        let old = self.wanted.iter().filter(|(_, wanted)| may_go(wanted));
        let Some((to, place)) =
            old.min_by_key(|(_, old)| (old.announced, old.wanted_ns)).map(|(to, old)| (*to, old.next))
        else {
            return false;
        };
        if self.lost.len() >= LOST_PENDING_MAX {
            return false;
        }
        self.wanted.remove(&to);
        self.lose(to);
        if let Some(next) = self.nexts.get_mut(&place) {
            next.wanted -= 1;
            if next.wanted == 0 && !next.fixed {
                self.nexts.remove(&place);
            }
        }
        true
    }

    fn lose(&mut self, to: [u8; 16]) {
        if self.lost.len() < LOST_PENDING_MAX && !self.lost.contains(&to) {
            self.lost.push(to);
        }
    }

    /// Tells losses first, so that whoever is wanted again since then is not lost after it was reached.
    fn tell_lost(&mut self, tell: &mut dyn FnMut(News)) {
        self.lost.drain(..).for_each(|to| tell(News::Lost { to }));
    }
}

/// Whether an Ethernet address can be that of a single device other than our port.
fn is_other_device(mac: Mac, ours: &Interface) -> bool {
    !is_group(mac) && mac != [0; 6] && mac != ours.mac
}

fn tell_reached(to: [u8; 16], wanted: &mut Wanted, mac: Option<Mac>, tell: &mut dyn FnMut(News)) {
    if let Some(mac) = mac.filter(|mac| wanted.told != Some(*mac)) {
        wanted.told = Some(mac);
        tell(News::Reached { to, port: wanted.next.0, mac });
    }
}
