//! The tables that the program looks into: each change is one write that packets see whole or not at all.

use crate::{Content, Counters, Doing, LoaderError, Result, config::Image, contract};
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, MapType, libbpf_sys};
use std::{
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Mutex, PoisonError},
};
use tachyon_wire::Endpoint;

/// How the name of the map with the program's constants ends.
pub(crate) const CONSTANTS: &str = ".rodata";
/// Key of the one place in `counters`, `deny` and `topics`.
const ONLY: [u8; 4] = [0; 4];
const WORDS: usize = contract::TOPIC_WORDS as usize;
/// Prefixes per call: a call per prefix would take seconds for a million, and one for all would hold a CPU for as long.
const BATCH: usize = 1 << 14;

/// One session as the pre-filter knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id. The low 17 bits are the slot of its rate, so they differ between sessions that are open together.
    pub id: u32,
    /// Where its frames must come from; [`Endpoint::NONE`] is anywhere.
    pub pinned: Endpoint,
    /// Opened by another node, so its frames may carry a route.
    pub by_node: bool,
}

impl Session {
    /// `struct prefilter_session`.
    fn value(&self) -> [u8; 24] {
        let flags = if self.by_node { contract::SESSION_NODE } else { 0 };
        let mut value = [0; 24];
        value[..16].copy_from_slice(&self.pinned.ip);
        value[16..18].copy_from_slice(&self.pinned.port.get().to_ne_bytes());
        value[18..20].copy_from_slice(&flags.to_ne_bytes()[..2]);
        value
    }
}

/// The sources whose addresses begin alike. Bits behind the prefix do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    ip: [u8; 16],
    bits: u8,
}

/// Bytes of `struct prefilter_prefix`.
const PREFIX_BYTES: usize = 20;
/// The same for the kernel.
const PREFIX_KEY: u32 = 20;

impl Prefix {
    /// The addresses that share their first `bits` bits with this one; `None` if it has not so many.
    #[must_use]
    pub fn new(ip: IpAddr, bits: u8) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) if bits <= 32 => Some(Self { ip: ip.to_ipv6_mapped().octets(), bits: bits + 96 }),
            IpAddr::V6(ip) if bits <= 128 => Some(Self { ip: ip.octets(), bits }),
            _ => None,
        }
    }

    /// `struct prefilter_prefix`.
    fn key(&self) -> [u8; PREFIX_BYTES] {
        let mut key = [0; PREFIX_BYTES];
        key[..4].copy_from_slice(&u32::from(self.bits).to_ne_bytes());
        key[4..].copy_from_slice(&self.ip);
        key
    }
}

/// Blocks of 64 topics in which somebody may publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicBlocks([u64; WORDS]);

impl TopicBlocks {
    /// No topic passes.
    pub const NONE: Self = Self([0; WORDS]);
    /// Every topic passes.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// How many blocks pass.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Lets everything pass that another map lets pass.
    pub fn allow_all_of(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    /// Lets a topic pass, and with it the others of its block. Ids beyond the last slot change nothing.
    pub fn allow(&mut self, topic_id: u32) {
        let block = topic_id / contract::TOPIC_BLOCK;
        if let Some(word) = self.0.get_mut(block as usize / 64) {
            *word |= 1 << (block % 64);
        }
    }
}

/// The one entry that says which table packets are judged by.
#[derive(Debug)]
struct Place {
    map: MapHandle,
    /// That table. Kept open, because opening it by its number takes CAP_SYS_ADMIN, which whoever keeps a filter for long has given up.
    now: Mutex<Option<MapHandle>>,
}

impl Place {
    fn of(map: MapHandle) -> Self {
        let place = Self { map, now: Mutex::new(None) };
        let now = place.in_force().ok(); // a new program has none yet
        Self { now: Mutex::new(now), ..place }
    }

    /// The one write after which packets are judged by the new table.
    fn put_in_force(&self, table: &MapHandle) -> Result<()> {
        // Kernels before 6.1.75, 6.6.14 and 6.7.2 (CVE-2023-52447) free a table that is replaced while programs still look into
        // it. The update returns after all of these are done, so it is enough that we hold the old one until then.
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let held = MapHandle::try_from(table).doing(|| "the new table's descriptor".to_owned())?;
        let put = self.map.update(&ONLY, &table.as_fd().as_raw_fd().to_ne_bytes(), MapFlags::ANY);
        put.doing(|| format!("the new {} cannot be put in force, the old one stays", table.name().to_string_lossy()))?;
        *now = Some(held);
        Ok(())
    }

    /// The table that packets are judged by now, whoever put it there.
    fn in_force(&self) -> Result<MapHandle> {
        let id = self.map.lookup(&ONLY, MapFlags::ANY).doing(|| "which table is in force cannot be read".to_owned())?;
        let id = id.and_then(|id| id.try_into().ok()).map(u32::from_ne_bytes);
        let id = id.ok_or_else(|| LoaderError("no table is in force; replace it whole first".to_owned()))?;
        MapHandle::from_map_id(id).doing(|| format!("the table in force, map {id}, cannot be opened"))
    }
}

/// The tables of one program.
#[derive(Debug)]
pub struct Tables {
    counters: MapHandle,
    sessions: MapHandle,
    pinned_rates: MapHandle,
    source_rates: MapHandle,
    deny: Place,
    topics: Place,
    sockets: MapHandle,
}

impl Tables {
    /// Finds the tables, and the constants, among the maps of a program.
    pub(crate) fn of_maps(ids: &[u32]) -> Result<(Self, Image)> {
        let mut maps = Vec::with_capacity(ids.len());
        for id in ids {
            maps.push(MapHandle::from_map_id(*id).doing(|| format!("the map {id} of the program cannot be opened"))?);
        }
        let mut take = |name: &str| {
            let found = maps.iter().position(|map| map.name().to_string_lossy().ends_with(name));
            let found =
                found.ok_or_else(|| LoaderError(format!("the program has no map {name}: it is none of ours")))?;
            Ok(maps.swap_remove(found))
        };
        let constants = take(CONSTANTS)?;
        let value = constants.lookup(&ONLY, MapFlags::ANY).doing(|| "the program's constants".to_owned())?;
        let image = value.and_then(|value| value.try_into().ok()).map(Image);
        let image = image.ok_or_else(|| LoaderError("the program's constants are not as ours".to_owned()))?;
        let tables = Self {
            counters: take("counters")?,
            sessions: take("sessions")?,
            pinned_rates: take("pinned_rates")?,
            source_rates: take("source_rates")?,
            deny: Place::of(take("deny")?),
            topics: Place::of(take("topics")?),
            sockets: take("xsks_map")?,
        };
        Ok((tables, image))
    }

    /// Every table with its name.
    pub(crate) fn all(&self) -> [(&'static str, &MapHandle); 7] {
        [
            ("counters", &self.counters),
            ("sessions", &self.sessions),
            ("pinned_rates", &self.pinned_rates),
            ("source_rates", &self.source_rates),
            ("deny", &self.deny.map),
            ("topics", &self.topics.map),
            ("xsks_map", &self.sockets),
        ]
    }

    pub(crate) fn named(&self, name: &str) -> Option<&MapHandle> {
        self.all().into_iter().find(|(own, _)| *own == name).map(|(_, map)| map)
    }

    /// Puts everything in that new tables begin with.
    pub(crate) fn fill(&self, content: &Content<'_>) -> Result<()> {
        for session in content.sessions {
            self.session_add(session)?;
        }
        self.deny_replace(content.deny)?;
        self.topics_replace(content.topics.unwrap_or(&TopicBlocks::ALL))
    }

    /// Opens a session, or replaces the one with its id.
    ///
    /// # Errors
    /// The table is full.
    pub fn session_add(&self, session: &Session) -> Result<()> {
        let added = self.sessions.update(&session.id.to_ne_bytes(), &session.value(), MapFlags::ANY);
        added.doing(|| {
            format!(
                "session {} cannot be opened in the pre-filter, which has room for {}",
                session.id,
                contract::SESSIONS_MAX
            )
        })
    }

    /// Ends a session. Says whether there was one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn session_remove(&self, id: u32) -> Result<bool> {
        removed(self.sessions.delete(&id.to_ne_bytes()))
            .doing(|| format!("session {id} cannot be ended in the pre-filter"))
    }

    /// Ends every session. Says how many there were.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sessions_clear(&self) -> Result<usize> {
        // Collected first: whoever deletes the key that an iteration stands on starts it anew.
        let ids: Vec<Vec<u8>> = self.sessions.keys().collect();
        for id in &ids {
            removed(self.sessions.delete(id)).doing(|| "the sessions of the pre-filter cannot be ended".to_owned())?;
        }
        Ok(ids.len())
    }

    /// Puts another deny list in force, whole: it is made beside the one in force, which one write then replaces.
    ///
    /// # Errors
    /// More than a million prefixes, or no memory for them; the list in force stays.
    pub fn deny_replace(&self, prefixes: &[Prefix]) -> Result<()> {
        let draft = DenyDraft::new()?;
        prefixes.chunks(BATCH).try_for_each(|batch| draft.add(batch))?;
        self.deny_put(&draft)
    }

    /// Puts a list in force that was made slice by slice. It stays as it is then: further additions take effect at once.
    ///
    /// # Errors
    /// The kernel refuses; the list in force stays.
    pub fn deny_put(&self, draft: &DenyDraft) -> Result<()> {
        self.deny.put_in_force(&draft.0)
    }

    /// Denies one more prefix.
    ///
    /// # Errors
    /// The list is full.
    pub fn deny_add(&self, prefix: &Prefix) -> Result<()> {
        let added = self.deny.in_force()?.update(&prefix.key(), &[1], MapFlags::ANY);
        added.doing(|| format!("the deny list takes no more, {} prefixes fit", contract::PREFIXES_MAX))
    }

    /// Denies a prefix no longer. Says whether it was on the list.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn deny_del(&self, prefix: &Prefix) -> Result<bool> {
        removed(self.deny.in_force()?.delete(&prefix.key()))
            .doing(|| "a prefix cannot be taken off the deny list".to_owned())
    }

    /// Puts another map of topics in force, whole.
    ///
    /// # Errors
    /// The kernel has no memory; the map in force stays.
    pub fn topics_replace(&self, topics: &TopicBlocks) -> Result<()> {
        let words = made(MapType::Array, "topic_words", 4, 8, contract::TOPIC_WORDS, 0)?;
        let keys: Vec<u8> = (0..contract::TOPIC_WORDS).flat_map(u32::to_ne_bytes).collect();
        let values: Vec<u8> = topics.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let put = words.update_batch(&keys, &values, contract::TOPIC_WORDS, MapFlags::ANY, MapFlags::ANY);
        put.doing(|| "a map of topics cannot be made".to_owned())?;
        self.topics.put_in_force(&words)
    }

    /// The ledger.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counters(&self) -> Result<Counters> {
        let cpus =
            self.counters.lookup_percpu(&ONLY, MapFlags::ANY).doing(|| "the counters cannot be read".to_owned())?;
        Ok(Counters::sum(&cpus.unwrap_or_default()))
    }

    /// How many sessions are open and prefixes denied, counted one by one: a million take about a second.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn entries(&self) -> Result<(usize, usize)> {
        Ok((self.sessions.keys().count(), self.deny.in_force()?.keys().count()))
    }

    /// Lets an AF_XDP socket receive: bind it first. It leaves the table when it is closed.
    ///
    /// # Errors
    /// The index is too high, or this is no such socket.
    pub fn socket_add(&self, index: u32, socket: &impl AsRawFd) -> Result<()> {
        let added = self.sockets.update(&index.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes(), MapFlags::ANY);
        added.doing(|| format!("socket {index} of {} cannot be given frames", contract::SOCKETS_MAX))
    }

    /// Where AF_XDP sockets go; [`crate::Deliver`] says under which index.
    #[must_use]
    pub fn xskmap(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }
}

/// A deny list that is being made and is not in force yet. A million prefixes take about a second, so whoever has something else to
/// do adds them in slices.
#[derive(Debug)]
pub struct DenyDraft(MapHandle);

impl DenyDraft {
    /// An empty list.
    ///
    /// # Errors
    /// The kernel has no memory.
    pub fn new() -> Result<Self> {
        let flags = libbpf_sys::BPF_F_NO_PREALLOC;
        Ok(Self(made(MapType::LpmTrie, "deny_list", PREFIX_KEY, 1, contract::PREFIXES_MAX, flags)?))
    }

    /// Adds these prefixes, by one call.
    ///
    /// # Errors
    /// The list is full, or the kernel has no memory.
    pub fn add(&self, prefixes: &[Prefix]) -> Result<()> {
        if prefixes.is_empty() {
            return Ok(());
        }
        let keys: Vec<u8> = prefixes.iter().flat_map(Prefix::key).collect();
        let values = vec![1; prefixes.len()];
        let count = u32::try_from(prefixes.len()).unwrap_or(u32::MAX);
        let put = self.0.update_batch(&keys, &values, count, MapFlags::ANY, MapFlags::ANY);
        put.doing(|| format!("a deny list cannot be made that long, {} prefixes fit", contract::PREFIXES_MAX))
    }
}

fn made(kind: MapType, name: &str, key: u32, value: u32, entries: u32, flags: u32) -> Result<MapHandle> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
        map_flags: flags,
        ..Default::default()
    };
    let made = MapHandle::create(kind, Some(name), key, value, entries, &options);
    made.doing(|| format!("the kernel makes no map {name}"))
}

fn removed(result: libbpf_rs::Result<()>) -> libbpf_rs::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Program};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_table_in_force_is_held_when_it_is_found_and_when_it_is_put_there() {
        if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() != 0) {
            return println!("skipped: tables in the kernel need root");
        }
        let program = Program::load(&Config::default(), &Content::default()).expect("loaded");
        let id = |map: &MapHandle| map.info().expect("described").info.id;
        let held = |place: &Place| place.now.lock().expect("not poisoned").as_ref().map(id);
        let in_force = |place: &Place| place.in_force().map(|map| id(&map)).ok();
        let found = Place::of(MapHandle::try_from(&program.tables().topics.map).expect("a descriptor"));
        let first = in_force(&found);
        assert!(first.is_some() && held(&found) == first);
        found
            .put_in_force(&made(MapType::Array, "topic_words", 4, 8, contract::TOPIC_WORDS, 0).expect("made"))
            .expect("put");
        assert!(in_force(&found) != first && held(&found) == in_force(&found));
    }
}
