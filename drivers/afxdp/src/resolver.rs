//! Who is where, as the kernel knows it: has it find the neighbours that somebody sends to, looks again from time to time, and
//! tells the workers.
//!
//! The kernel stays the owner of addresses, routes and neighbours; nothing is configured here and no packet is answered. The
//! packets that workers send do not pass its neighbour table, so it is asked to confirm what it has not confirmed lately.

use crate::netlink::{Neighbour, Netlink};
use std::{collections::BTreeMap, io, net::IpAddr};
use tachyon_driver_ether::{Mac, WANTED_MAX, address, address_bytes};

/// Between looks at a destination that is known, in ns: how long a change of the kernel's mind can stay unseen.
const LOOK_NS: u64 = 1_000_000_000;
/// From the first look at one that is not known yet to the second, in ns; each next pause is twice as long, up to `LOOK_NS`.
const RETRY_NS: u64 = 2_000_000;
/// Between two requests to confirm or find the same neighbour, in ns; the kernel's own pause between probes is 1 s.
const RESOLVE_NS: u64 = 1_000_000_000;
/// Most looks of one turn, of two calls each, so that thousands of destinations do not hold up what else is to be done.
const LOOKS_PER_TICK: usize = 64;

/// What every worker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A destination can be reached; told again when its way changes.
    Reached {
        /// The destination, as in `Endpoint::ip`.
        to: [u8; 16],
        /// The index of the port it is reached from.
        port: u16,
        /// The Ethernet address of the next device on the way.
        mac: Mac,
        /// Our address towards it.
        source: IpAddr,
    },
    /// A destination cannot be reached.
    Lost {
        /// The destination, as in `Endpoint::ip`.
        to: [u8; 16],
    },
}

impl News {
    /// Whom it is about.
    pub(crate) const fn destination(&self) -> [u8; 16] {
        match self {
            Self::Reached { to, .. } | Self::Lost { to } => *to,
        }
    }
}

/// What the resolver asks; the kernel's tables, or a test's.
pub(crate) trait Tables {
    /// Which port an address is reached from, the next device's address, and ours.
    fn way(&mut self, to: IpAddr) -> io::Result<Option<Way>>;
    /// What is known of a neighbour at a port.
    fn neighbour(&mut self, way: &Way) -> io::Result<Neighbour>;
    /// Has it found or confirmed.
    fn resolve(&mut self, way: &Way) -> io::Result<()>;
}

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) port: u16,
    pub(crate) interface: u32,
    pub(crate) next: IpAddr,
    pub(crate) source: IpAddr,
}

/// The kernel's tables, seen from some interfaces.
pub(crate) struct Kernel<'k> {
    pub(crate) netlink: &'k mut Netlink,
    /// Index of the interface of each port; 0 where there is none now.
    pub(crate) interfaces: &'k [u32],
}

impl Tables for Kernel<'_> {
    fn way(&mut self, to: IpAddr) -> io::Result<Option<Way>> {
        let Some(route) = self.netlink.route(to)? else { return Ok(None) };
        let port =
            (0..).zip(self.interfaces).find(|(_, interface)| **interface == route.interface && route.interface > 0);
        let (Some((port, &interface)), Some(source)) = (port, route.source) else { return Ok(None) };
        Ok(Some(Way { port, interface, next: route.next, source }))
    }

    fn neighbour(&mut self, way: &Way) -> io::Result<Neighbour> {
        self.netlink.neighbour(way.interface, way.next)
    }

    fn resolve(&mut self, way: &Way) -> io::Result<()> {
        self.netlink.resolve(way.interface, way.next)
    }
}

/// A destination that somebody sends to.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Not only noted by a worker, so that what is noted cannot push it out.
    announced: bool,
    due_ns: u64,
    pause_ns: u64,
    resolved_ns: Option<u64>,
    /// What the workers know.
    told: Option<(u16, Mac, IpAddr)>,
    /// They are to be told even if that is still so.
    tell_again: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    wanted: BTreeMap<[u8; 16], Wanted>,
    /// Where the last turn ended, so that none is left out when there are many.
    cursor: [u8; 16],
    /// Those who were pushed out and whom the workers still know.
    lost: Vec<[u8; 16]>,
    /// Why the kernel could not be asked for a neighbour the first time that was so, and whether that was told.
    refused: Option<(String, bool)>,
}

impl Resolver {
    /// Somebody will send there.
    pub(crate) fn want(&mut self, to: IpAddr, now_ns: u64) {
        self.add(address_bytes(to), true, now_ns);
    }

    /// A worker sent there and found no way.
    pub(crate) fn note(&mut self, to: [u8; 16], now_ns: u64) {
        self.add(to, false, now_ns);
    }

    fn add(&mut self, to: [u8; 16], announced: bool, now_ns: u64) {
        if let Some(known) = self.wanted.get_mut(&to) {
            known.announced |= announced;
            return;
        }
        if self.wanted.len() >= WANTED_MAX {
            // Whoever is looked for in vain gives way, or over months those who left would fill all places; and to one who
            // is announced so does whoever was only noted.
            let in_vain = |wanted: &Wanted| wanted.told.is_none() && wanted.pause_ns >= LOOK_NS;
            let weak = |wanted: &Wanted| in_vain(wanted) || (announced && !wanted.announced);
            let places = self.wanted.iter().filter(|(_, wanted)| weak(wanted));
            let place = places.min_by_key(|(_, wanted)| (wanted.announced, wanted.told.is_some())).map(|(to, _)| *to);
            let Some(place) = place else { return };
            if self.wanted.remove(&place).is_some_and(|gone| gone.told.is_some()) {
                self.lost.push(place);
            }
        }
        let (pause_ns, resolved_ns, told) = (RETRY_NS, None, None);
        self.wanted.insert(to, Wanted { announced, due_ns: now_ns, pause_ns, resolved_ns, told, tell_again: false });
    }

    /// What a port is has changed, so every way is told anew. What the workers know stays on the books: whoever has no way
    /// any more must still be lost to them.
    pub(crate) fn tell_again(&mut self, now_ns: u64) {
        for wanted in self.wanted.values_mut() {
            (wanted.due_ns, wanted.tell_again) = (now_ns, true);
        }
    }

    /// Why the kernel cannot be asked for neighbours, if that is so; told once.
    pub(crate) fn refused(&mut self) -> Option<String> {
        let (why, told) = self.refused.as_mut()?;
        (!core::mem::replace(told, true)).then(|| why.clone())
    }

    /// Looks at those whose turn it is.
    pub(crate) fn tick(&mut self, now_ns: u64, tables: &mut impl Tables, news: &mut Vec<News>) {
        news.extend(self.lost.drain(..).map(|to| News::Lost { to }));
        let due = |(_, wanted): &(&[u8; 16], &Wanted)| wanted.due_ns <= now_ns;
        let behind = self.wanted.range(self.cursor..).filter(due).map(|(to, _)| *to);
        let before = self.wanted.range(..self.cursor).filter(due).map(|(to, _)| *to);
        let turn: Vec<[u8; 16]> = behind.chain(before).take(LOOKS_PER_TICK).collect();
        for to in turn {
            self.cursor = to;
            if let Some(wanted) = self.wanted.get_mut(&to)
                && let Err(error) = look(to, wanted, now_ns, tables, news)
                && error.kind() == io::ErrorKind::PermissionDenied
            {
                self.refused.get_or_insert_with(|| (error.to_string(), false));
            }
        }
    }
}

/// Looks at one destination; an error says that the kernel could not be asked for it.
fn look(
    to: [u8; 16],
    wanted: &mut Wanted,
    now_ns: u64,
    tables: &mut impl Tables,
    news: &mut Vec<News>,
) -> io::Result<()> {
    let way = tables.way(address(&to));
    let known = match &way {
        Ok(Some(way)) => tables.neighbour(way).map(|neighbour| Some((*way, neighbour))),
        Ok(None) => Ok(None),
        Err(error) => Err(io::Error::from(error.kind())),
    };
    let mut lose = |wanted: &mut Wanted| {
        if wanted.told.take().is_some() {
            news.push(News::Lost { to });
        }
    };
    let (mut confirmed, mut asked) = (false, Ok(()));
    match known {
        // The kernel did not answer, which says nothing about the neighbour.
        Err(_) => {}
        Ok(None) => lose(wanted),
        Ok(Some((way, neighbour))) => {
            match neighbour {
                Neighbour::At(mac, fresh) => {
                    confirmed = fresh;
                    let now = (way.port, mac, way.source);
                    let again = core::mem::take(&mut wanted.tell_again);
                    if wanted.told.replace(now) != Some(now) || again {
                        news.push(News::Reached { to, port: way.port, mac, source: way.source });
                    }
                }
                Neighbour::Failed => lose(wanted),
                // Forgotten or asked for again: what was known is believed until the kernel says otherwise.
                Neighbour::Unknown => {}
            }
            if !confirmed && wanted.resolved_ns.is_none_or(|at| now_ns.saturating_sub(at) >= RESOLVE_NS) {
                asked = tables.resolve(&way);
                wanted.resolved_ns = Some(now_ns);
            }
        }
    }
    wanted.pause_ns = if wanted.told.is_some() { LOOK_NS } else { (wanted.pause_ns * 2).min(LOOK_NS) };
    wanted.due_ns = now_ns + wanted.pause_ns;
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    const SECOND: u64 = 1_000_000_000;

    #[derive(Debug)]
    struct Made {
        way: Option<Way>,
        neighbour: Neighbour,
        resolved: usize,
    }

    impl Tables for Made {
        fn way(&mut self, _: IpAddr) -> io::Result<Option<Way>> {
            Ok(self.way)
        }
        fn neighbour(&mut self, _: &Way) -> io::Result<Neighbour> {
            Ok(self.neighbour)
        }
        fn resolve(&mut self, _: &Way) -> io::Result<()> {
            self.resolved += 1;
            Ok(())
        }
    }

    fn made() -> Made {
        let way = Way { port: 1, interface: 7, next: TO, source: [192, 0, 2, 1].into() };
        Made { way: Some(way), neighbour: Neighbour::Unknown, resolved: 0 }
    }

    fn tick(resolver: &mut Resolver, now_ns: u64, tables: &mut Made) -> Vec<News> {
        let mut news = Vec::new();
        resolver.tick(now_ns, tables, &mut news);
        news
    }

    fn reached(mac: Mac) -> News {
        News::Reached { to: address_bytes(TO), port: 1, mac, source: [192, 0, 2, 1].into() }
    }

    #[test]
    fn a_neighbour_is_asked_for_told_once_and_told_again_when_it_moves() {
        let (mut resolver, mut tables) = (Resolver::default(), made());
        resolver.want(TO, 0);
        assert_eq!((tick(&mut resolver, 0, &mut tables), tables.resolved), (vec![], 1));
        assert_eq!((tick(&mut resolver, 1, &mut tables), tables.resolved), (vec![], 1), "not before its time");
        tables.neighbour = Neighbour::At([1; 6], true);
        assert_eq!(tick(&mut resolver, SECOND / 2, &mut tables), [reached([1; 6])]);
        assert_eq!(tick(&mut resolver, 2 * SECOND, &mut tables), []);
        tables.neighbour = Neighbour::At([2; 6], false);
        assert_eq!((tick(&mut resolver, 4 * SECOND, &mut tables), tables.resolved), (vec![reached([2; 6])], 2));
        tables.neighbour = Neighbour::Unknown;
        assert_eq!(tick(&mut resolver, 6 * SECOND, &mut tables), [], "the kernel looks for it again");
        tables.neighbour = Neighbour::Failed;
        assert_eq!(tick(&mut resolver, 8 * SECOND, &mut tables), [News::Lost { to: address_bytes(TO) }]);
        tables.neighbour = Neighbour::At([2; 6], true);
        assert_eq!(tick(&mut resolver, 10 * SECOND, &mut tables), [reached([2; 6])]);
        resolver.tell_again(11 * SECOND);
        assert_eq!(tick(&mut resolver, 11 * SECOND, &mut tables), [reached([2; 6])]);
        let way = tables.way.take();
        assert_eq!(tick(&mut resolver, 13 * SECOND, &mut tables), [News::Lost { to: address_bytes(TO) }]);
        // An address that is taken off a port changes the port and ends the way at the same time.
        tables.way = way;
        assert_eq!(tick(&mut resolver, 15 * SECOND, &mut tables), [reached([2; 6])]);
        tables.way = None;
        resolver.tell_again(16 * SECOND);
        assert_eq!(tick(&mut resolver, 16 * SECOND, &mut tables), [News::Lost { to: address_bytes(TO) }]);
    }

    #[test]
    fn what_is_noted_pushes_nobody_out_and_all_have_their_turn() {
        let (mut resolver, mut tables) = (Resolver::default(), made());
        tables.neighbour = Neighbour::At([1; 6], true);
        let ip = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
        let most = u32::try_from(WANTED_MAX).unwrap();
        for number in 0..most {
            resolver.note(address_bytes(ip(number)), 0);
        }
        resolver.note(address_bytes(ip(most)), 0);
        assert_eq!(resolver.wanted.len(), WANTED_MAX);
        let mut told = 0;
        for turn in 0..WANTED_MAX / LOOKS_PER_TICK {
            told += tick(&mut resolver, turn as u64, &mut tables).len();
        }
        assert_eq!(told, WANTED_MAX);
        resolver.want(ip(most), 100);
        let news = tick(&mut resolver, 100, &mut tables);
        assert!(matches!(news[..], [News::Lost { .. }, News::Reached { .. }]), "{news:?}");
    }

    #[test]
    fn whoever_left_gives_way_to_whoever_comes() {
        let (mut resolver, mut tables) = (Resolver::default(), made());
        tables.neighbour = Neighbour::Failed;
        let ip = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
        let most = u32::try_from(WANTED_MAX).unwrap();
        (0..most).for_each(|number| resolver.want(ip(number), 0));
        // Ten looks at each double the pause from 2 ms to a second.
        for look in 0..10 {
            for turn in 0..(WANTED_MAX / LOOKS_PER_TICK) as u64 {
                assert_eq!(tick(&mut resolver, 2 * look * SECOND + turn, &mut tables), []);
            }
        }
        tables.neighbour = Neighbour::At([1; 6], true);
        resolver.note(address_bytes(ip(most)), 18 * SECOND + 100);
        let told = tick(&mut resolver, 18 * SECOND + 100, &mut tables);
        assert!(told.iter().any(|news| news.destination() == address_bytes(ip(most))), "{told:?}");
    }
}
