//! Housekeeping's side of the pre-filters: what they know, how they are, and what control asks of them.
//!
//! A filter drops early what the workers would refuse, so it may never know less than they do: a session is told to it
//! before the workers and taken from it after all of them, and the topics of a ruleset are added before the ruleset is
//! handed out and the old ones taken away once every worker judges by the new one. Topics are derived here, from the very
//! image that the workers get. Denied sources and rates of sources are the filters' alone, and so hold where there is one.
//!
//! A filter that is off its interface, for whatever reason, is kept up to date all the same, so putting it on again is one step.

use crate::{left_over, sandbox::User, worker::Image};
use rustix::thread::CapabilitySet;
use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    io::Write,
    net::{IpAddr, Ipv6Addr},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tachyon_config::{AtStop, FilterDelivery, FilterMode, NodeFile, PrefilterSection};
use tachyon_loader::{
    Config, Content, Counters, Deliver, DenyDraft, Facts, Found, LoaderError, Mode, Prefilter, Rate, Session,
    TopicBlocks,
};
use tachyon_policy::Verified;
use tachyon_segment::{
    SealedImage,
    handover::{FilterState, FilterStatus, Prefix},
};
use tachyon_wire::{
    Reason,
    command::{OpenSession, SESSION_NODE},
    image::TOPIC_KNOWN,
    reason::REASON_SLOTS,
};

/// Prefixes that go into a filter at a time: about 4 ms, less than what leases wait for anyway.
const SLICE: usize = 4_096;

/// Between looks at whether filters are still on their interfaces, in ns.
const LOOK_NS: u64 = 1_000_000_000;

/// One interface's filter.
#[derive(Debug)]
struct Filter {
    section: PrefilterSection,
    /// The program and its tables; `None` if the kernel does not take it at all, or if its driver has not attached it yet.
    loaded: Option<Prefilter>,
    /// What DPDK's driver loads, where it is its business to; gone once it has.
    object: Option<PathBuf>,
    /// The loader's words for what the node file says.
    config: Config,
    state: FilterState,
    /// Why it is not as it was asked for.
    why: String,
    /// Both as they were last told: whoever looks may find a change, and it is told once, by the next tick.
    told: (FilterState, String),
    /// Denied prefixes in its table.
    prefixes: u32,
}

/// A change that has to wait until every worker has taken what was sent to it under these tickets.
#[derive(Debug)]
struct Later {
    tickets: Vec<u64>,
    change: Change,
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// The session is gone.
    Close(u32),
    /// These topics and no others.
    Narrow(Box<TopicBlocks>),
}

/// A list of denied sources on its way into the filters.
#[derive(Debug)]
struct Feeding {
    prefixes: Vec<tachyon_loader::Prefix>,
    /// The filter whose turn it is, its list as far as it is, and how much of it.
    place: usize,
    draft: Option<DenyDraft>,
    fed: usize,
}

/// All filters of the node.
#[derive(Debug)]
pub(crate) struct Filters {
    list: Vec<Filter>,
    /// Where their pins are.
    folder: PathBuf,
    /// The sessions that they know.
    sessions: BTreeSet<u32>,
    /// The topics that they let pass.
    topics: TopicBlocks,
    later: VecDeque<Later>,
    feeding: Option<Feeding>,
    looked_ns: u64,
    said: Vec<String>,
}

impl Filters {
    /// No interface has one.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::over(Vec::new(), PathBuf::new())
    }

    fn over(list: Vec<Filter>, folder: PathBuf) -> Self {
        let (sessions, later, said) = (BTreeSet::new(), VecDeque::new(), Vec::new());
        Self { list, folder, sessions, topics: TopicBlocks::ALL, later, feeding: None, looked_ns: 0, said }
    }

    /// Attaches every filter of the node file, or adopts what an earlier process left there; what is weaker than asked, and what it
    /// left elsewhere, goes to `degraded`. Pins are given to `user`, so that filters can be taken off and put on later.
    pub(crate) fn open(file: &NodeFile, seed: u64, user: Option<User>, degraded: &mut Vec<String>) -> Self {
        let mut list = Vec::new();
        for section in &file.prefilters {
            let config = config(file, section, seed);
            let mut filter = match section.deliver {
                FilterDelivery::Dpdk => Filter::hand_out(section, config, &file.node.state_dir),
                _ => Filter::open(section, config),
            };
            let name = &section.interface;
            match filter.state {
                _ if filter.object.is_some() => {} // that it is there is seen later
                FilterState::Failed => {
                    degraded.push(format!("{name} has no pre-filter, everything passes to the kernel: {}", filter.why));
                }
                // What is as it was asked for is not weaker than that.
                FilterState::Generic if section.mode == FilterMode::Generic => {}
                _ if !filter.why.is_empty() => degraded.push(format!("the pre-filter of {name}: {}", filter.why)),
                _ => {}
            }
            if let (Some(loaded), Some(User { uid, gid })) = (&filter.loaded, user)
                && let Err(error) = loaded.give_pins_to(uid, gid)
            {
                degraded.push(format!("the pre-filter of {name} cannot be taken off without a restart: {error}"));
            }
            filter.set_told();
            list.push(filter);
        }
        let folder = &file.node.filter_dir;
        let is_ours = |name: &String| file.prefilters.iter().any(|section| section.interface.as_str() == name);
        let others = left_over::interfaces(folder).into_iter().filter(|name| !is_ours(name));
        degraded.extend(others.map(|name| left_over::warning(folder, &name)));
        Self::over(list, folder.clone())
    }

    /// The object file of the filter that the DPDK port on this interface loads.
    #[cfg(feature = "dpdk")]
    pub(crate) fn object(&self, interface: &str) -> Option<PathBuf> {
        let filter = self.list.iter().find(|filter| filter.section.interface.as_str() == interface)?;
        filter.object.clone()
    }

    /// Takes up the filters that DPDK's driver attached, once its ports run; which of them are not there.
    pub(crate) fn adopt(&mut self) -> Vec<String> {
        let mut degraded = Vec::new();
        for filter in self.list.iter_mut().filter(|filter| filter.object.is_some()) {
            if let Some(path) = filter.object.take() {
                let _ = fs::remove_file(path); // the next start writes it anew
            }
            match Prefilter::beside(filter.section.interface.as_str(), &filter.config) {
                Ok(Some(loaded)) => {
                    filter.loaded = Some(loaded);
                    filter.look();
                }
                Ok(None) => "DPDK's driver has not attached it".clone_into(&mut filter.why),
                Err(error) => filter.why = error.to_string(),
            }
            if filter.state == FilterState::Failed {
                degraded.push(format!("{} has no pre-filter: {}", filter.section.interface, filter.why));
            }
            filter.set_told();
        }
        degraded
    }

    /// What the calling thread has to keep for all this: to change tables, to attach, and to open AF_XDP sockets anew.
    pub(crate) fn rights(&self) -> CapabilitySet {
        let mut rights = CapabilitySet::empty();
        for filter in self.list.iter().filter(|filter| filter.loaded.is_some()) {
            rights |= CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
            if filter.section.deliver == FilterDelivery::Afxdp {
                rights |= CapabilitySet::NET_RAW;
            }
        }
        rights
    }

    /// Folders that have to stay writable.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        self.list.iter().filter(|filter| filter.loaded.is_some()).take(1).map(|_| self.folder.clone()).collect()
    }

    /// The map by which the filter of an interface finds AF_XDP sockets.
    pub(crate) fn xskmap(&self, interface: &str) -> Option<Arc<OwnedFd>> {
        let filter = self.list.iter().find(|filter| filter.section.interface.as_str() == interface)?;
        filter.loaded.as_ref()?.tables().xskmap().try_clone_to_owned().ok().map(Arc::new)
    }

    fn loaded(&self) -> impl Iterator<Item = &Prefilter> {
        self.list.iter().filter_map(|filter| filter.loaded.as_ref())
    }

    /// Tells every filter of a session, before the workers know it.
    ///
    /// # Errors
    /// A filter has no room for it, and then no filter has it.
    pub(crate) fn open_session(&mut self, open: &OpenSession) -> Result<(), String> {
        let id = open.session_id.get();
        let session = Session { id, pinned: open.pinned, by_node: open.flags & SESSION_NODE != 0 };
        let added = self.loaded().try_for_each(|filter| filter.tables().session_add(&session));
        if let Err(error) = added {
            let _ = self.loaded().try_for_each(|filter| filter.tables().session_remove(id).map(|_| ()));
            self.sessions.remove(&id);
            return Err(error.to_string());
        }
        // It may be open anew while its end still waits.
        self.later.retain(|later| later.change != Change::Close(id));
        self.sessions.insert(id);
        Ok(())
    }

    /// A session ends in every filter once the workers have taken these tickets.
    pub(crate) fn close_session(&mut self, id: u32, tickets: Vec<u64>) {
        self.later.push_back(Later { tickets, change: Change::Close(id) });
    }

    /// Lets the topics of a ruleset pass too, before the workers have it.
    ///
    /// # Errors
    /// The kernel has no memory for it; then the ruleset must wait, or a filter would drop what it allows.
    pub(crate) fn widen(&mut self, image: &Image) -> Result<(), String> {
        let mut wider = self.topics.clone();
        wider.allow_all_of(&blocks(image));
        self.set_topics(wider)
    }

    /// Lets no other topics pass than those of a ruleset, once the workers have taken these tickets.
    pub(crate) fn narrow(&mut self, image: &Image, tickets: Vec<u64>) {
        // An older ruleset's topics say nothing any more.
        self.later.retain(|later| !matches!(later.change, Change::Narrow(_)));
        self.later.push_back(Later { tickets, change: Change::Narrow(Box::new(blocks(image))) });
    }

    fn set_topics(&mut self, topics: TopicBlocks) -> Result<(), String> {
        if topics != self.topics {
            let set = self.loaded().try_for_each(|filter| filter.tables().topics_replace(&topics));
            set.map_err(|error| error.to_string())?;
            self.topics = topics;
        }
        Ok(())
    }

    /// Does what waited for the workers; `taken` says of tickets whether they have been.
    pub(crate) fn settle(&mut self, taken: impl Fn(&[u64]) -> bool) {
        while let Some(later) = self.later.pop_front() {
            if !taken(&later.tickets) {
                return self.later.push_front(later);
            }
            let done = match later.change {
                Change::Close(id) => {
                    self.sessions.remove(&id);
                    let mut filters = self.loaded();
                    let removed = filters.try_for_each(|filter| filter.tables().session_remove(id).map(|_| ()));
                    removed.map_err(|error| error.to_string())
                }
                Change::Narrow(topics) => self.set_topics(*topics),
            };
            if let Err(error) = done {
                self.said
                    .push(format!("a pre-filter lets more pass than it should, which the workers refuse: {error}"));
            }
        }
    }

    /// Begins to put another list of denied sources in force in every filter; [`Filters::feed`] does it. One that was on its way is
    /// given up.
    ///
    /// # Errors
    /// There is no filter.
    pub(crate) fn deny(&mut self, list: &[Prefix]) -> Result<(), String> {
        if self.loaded().next().is_none() && !list.is_empty() {
            return Err("this node has no pre-filter; add a [[prefilter]] to its node file".to_owned());
        }
        let prefix = |one: &Prefix| tachyon_loader::Prefix::new(IpAddr::V6(Ipv6Addr::from(one.ip)), one.bits);
        let prefixes = list.iter().filter_map(prefix).collect(); // all: the list was checked
        self.feeding = Some(Feeding { prefixes, place: 0, draft: None, fed: 0 });
        Ok(())
    }

    /// Whether a list is on its way.
    pub(crate) fn is_feeding(&self) -> bool {
        self.feeding.is_some()
    }

    /// Does a slice of that. Once the list is in force everywhere, or cannot be, what became of it.
    pub(crate) fn feed(&mut self) -> Option<Result<(), String>> {
        let feeding = self.feeding.as_mut()?;
        let Some(filter) = self.list.get_mut(feeding.place) else {
            self.feeding = None;
            return Some(Ok(()));
        };
        match filter.feed(feeding) {
            Ok(()) => None,
            Err(error) => {
                self.feeding = None; // the old list stays where it failed
                Some(Err(format!("{}: {error}", filter.section.interface)))
            }
        }
    }

    fn find(&mut self, interface: &str) -> Result<&mut Filter, String> {
        let names: Vec<&str> = self.list.iter().map(|filter| filter.section.interface.as_str()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let found = self.list.iter_mut().find(|filter| filter.section.interface.as_str() == interface);
        found.ok_or_else(|| {
            format!("the node file has no [[prefilter]] for `{interface}`; those that have one: {there}")
        })
    }

    /// Puts a filter onto its interface.
    ///
    /// # Errors
    /// There is none, or why it cannot be.
    pub(crate) fn attach(&mut self, interface: &str) -> Result<(), String> {
        let filter = self.find(interface)?;
        let done = filter.put_on();
        filter.set_told(); // by the answer
        done
    }

    /// Takes a filter off its interface, until it is told otherwise.
    ///
    /// # Errors
    /// There is none, or the kernel refuses.
    pub(crate) fn detach(&mut self, interface: &str) -> Result<(), String> {
        let filter = self.find(interface)?;
        filter.ensure_ours()?;
        if let Some(loaded) = &mut filter.loaded {
            loaded.take_off().map_err(|error| error.to_string())?;
        }
        filter.state = FilterState::Detached;
        "taken off by an operator: everything passes to the kernel".clone_into(&mut filter.why);
        filter.set_told(); // by the answer
        Ok(())
    }

    /// How the filter at `place` is, and how many there are.
    pub(crate) fn status(&mut self, place: u32) -> Option<(FilterStatus, u16)> {
        let count = u16::try_from(self.list.len()).unwrap_or(u16::MAX);
        let (sessions, blocks) = (number(self.sessions.len()), self.topics.count());
        let filter = self.list.get_mut(usize::try_from(place).ok()?)?;
        filter.look();
        Some((FilterStatus { sessions, topic_blocks: blocks, ..filter.status() }, count))
    }

    /// Looks from time to time whether filters are where they should be, and puts back what went away with its interface.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.looked_ns) < LOOK_NS {
            return;
        }
        self.looked_ns = now_ns;
        for filter in &mut self.list {
            filter.look();
            if filter.state == FilterState::Failed {
                let _ = filter.put_on(); // why not is kept
            }
            if (filter.state, &filter.why) != (filter.told.0, &filter.told.1) {
                filter.set_told();
                self.said.push(filter.news());
            }
        }
    }

    /// What there is to say since the last call.
    pub(crate) fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }

    /// Leaves the filters as the node file says when the node stops.
    pub(crate) fn stop(&mut self) {
        for filter in self.list.iter_mut().filter(|filter| filter.section.at_stop == AtStop::Detach) {
            let beside = filter.section.deliver == FilterDelivery::Dpdk;
            if let Some(loaded) = &mut filter.loaded
                && filter.state != FilterState::Detached
                && let Err(error) = if beside { loaded.take_off_beside() } else { loaded.take_off() }
            {
                self.said.push(format!("the pre-filter of {} stays: {error}", filter.section.interface));
            }
        }
    }
}

impl Filter {
    fn new(section: &PrefilterSection, config: Config) -> Self {
        let (section, state, why) = (section.clone(), FilterState::Failed, String::new());
        Self { section, loaded: None, object: None, config, state, told: (state, why.clone()), why, prefixes: 0 }
    }

    /// How it is now has been told.
    fn set_told(&mut self) {
        self.told = (self.state, self.why.clone());
    }

    /// Writes down what DPDK's driver is to load, and clears the interface for it: it takes none that has a program.
    fn hand_out(section: &PrefilterSection, config: Config, folder: &Path) -> Self {
        let mut filter = Self::new(section, config);
        let name = section.interface.as_str();
        let path = folder.join(format!("prefilter-{name}.o"));
        // While frames came by the kernel, the filter was ours and held by a link, which a sweep leaves alone.
        let own = Prefilter::open(name, &filter.config.pins);
        let cleared = own.and_then(|own| own.map_or(Ok(()), Prefilter::detach)).and_then(|()| Prefilter::sweep(name));
        let written = cleared.and_then(|_| tachyon_loader::object(&filter.config));
        let written = written.map_err(|error| error.to_string()).and_then(|object| {
            // The seed of the sources' hash is in it, which is nobody's business.
            let _ = fs::remove_file(&path);
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            let written = file.and_then(|mut file| file.write_all(&object));
            written.map_err(|error| format!("{} cannot be written: {error}", path.display()))
        });
        match written {
            Ok(()) => filter.object = Some(path),
            Err(error) => filter.why = error,
        }
        filter
    }

    /// Refuses what is DPDK's to do.
    fn ensure_ours(&self) -> Result<(), String> {
        if self.section.deliver != FilterDelivery::Dpdk {
            return Ok(());
        }
        let name = &self.section.interface;
        Err(format!("the pre-filter of {name} belongs to the DPDK port on it, which attaches it when the node starts"))
    }

    fn open(section: &PrefilterSection, config: Config) -> Self {
        let mut filter = Self::new(section, config);
        let (name, config) = (section.interface.as_str(), &filter.config);
        let empty = Content::default();
        // What DPDK's driver attached before, in a node that was killed, goes on dropping and would be taken for somebody else's.
        // Where it cannot be swept away, attaching says what is there.
        if let Ok(None) = Prefilter::open(name, &config.pins) {
            let _ = Prefilter::sweep(name);
        }
        match Prefilter::attach(name, config, &empty).and_then(|loaded| filter.taken_over(loaded)) {
            Ok(loaded) => {
                filter.loaded = Some(loaded);
                filter.look();
            }
            Err(error) => {
                filter.why = error.to_string();
                // So that it can be put on as soon as what is in the way is gone.
                filter.loaded = Prefilter::load(name, &filter.config, &empty).ok();
            }
        }
        filter
    }

    /// A filter whose tables agree with workers that know nothing yet: the attached one, or another in its place if that one's cannot
    /// be made to, because what they know of an earlier node would drop this one's frames.
    fn taken_over(&mut self, loaded: Prefilter) -> Result<Prefilter, LoaderError> {
        let Err(error) = self.take_over(&loaded) else { return Ok(loaded) };
        let anew = Prefilter::load(self.section.interface.as_str(), &self.config, &Content::default());
        anew.and_then(|mut anew| anew.put_on().map(|()| anew)).map_err(|second| match loaded.detach() {
            Ok(()) => LoaderError(format!("what was there cannot be taken over ({error}) nor replaced: {second}")),
            Err(third) => LoaderError(format!(
                "what was there drops frames of new sessions, and cannot be taken over ({error}), replaced ({second}) or taken off: {third}"
            )),
        })
    }

    /// Makes adopted tables agree with workers that know nothing yet. Who is denied stays so.
    fn take_over(&mut self, loaded: &Prefilter) -> Result<(), LoaderError> {
        if matches!(loaded.found(), Found::Same | Found::OtherProgram) {
            loaded.tables().topics_replace(&TopicBlocks::ALL)?;
            loaded.tables().sessions_clear()?;
            self.prefixes = number(loaded.tables().entries()?.1);
        }
        Ok(())
    }

    /// Adds a slice of a list to the one that is being made for this filter; the last one puts it in force.
    fn feed(&mut self, feeding: &mut Feeding) -> Result<(), LoaderError> {
        let Some(loaded) = &self.loaded else {
            feeding.place += 1;
            return Ok(());
        };
        let draft = match feeding.draft.take() {
            Some(draft) => draft,
            None => DenyDraft::new()?,
        };
        let end = feeding.prefixes.len().min(feeding.fed + SLICE);
        draft.add(&feeding.prefixes[feeding.fed..end])?;
        feeding.fed = end;
        if end < feeding.prefixes.len() {
            feeding.draft = Some(draft);
            return Ok(());
        }
        loaded.tables().deny_put(&draft)?;
        self.prefixes = number(feeding.prefixes.len());
        (feeding.place, feeding.fed) = (feeding.place + 1, 0);
        Ok(())
    }

    /// Asks the kernel how it is.
    fn look(&mut self) {
        if self.state == FilterState::Detached {
            return;
        }
        let Some(loaded) = &self.loaded else { return };
        let asked = match loaded.status() {
            Ok(status) => status.mode,
            Err(error) => {
                // What was said when it could not be put on says more.
                if self.state != FilterState::Failed {
                    (self.state, self.why) = (FilterState::Failed, error.to_string());
                }
                return;
            }
        };
        self.why = match (asked, self.section.mode) {
            (Mode::Generic, FilterMode::Generic) => "generic, as the node file says".to_owned(),
            (Mode::Generic, _) => {
                let found = match self.section.deliver {
                    FilterDelivery::Dpdk => "the driver of the interface takes no XDP program",
                    _ => "it was put behind the driver earlier; detach and attach it to try the driver",
                };
                format!("generic: {}", loaded.why_generic().unwrap_or(found))
            }
            (Mode::Native | Mode::Offloaded, FilterMode::Generic) => {
                "in the driver, where it was found, and not generic as the node file says; detach and attach it"
                    .to_owned()
            }
            (Mode::Native | Mode::Offloaded, _) => String::new(),
        };
        self.state = if asked == Mode::Generic { FilterState::Generic } else { FilterState::Native };
    }

    fn put_on(&mut self) -> Result<(), String> {
        self.ensure_ours()?;
        let Some(loaded) = &mut self.loaded else {
            return Err(format!(
                "the pre-filter of {} was not loaded at the start: {}",
                self.section.interface, self.why
            ));
        };
        if let Err(error) = loaded.put_on() {
            (self.state, self.why) = (FilterState::Failed, error.to_string());
            return Err(error.to_string());
        }
        self.state = FilterState::Native; // or what the kernel says
        self.look();
        Ok(())
    }

    fn news(&self) -> String {
        let (name, why) = (&self.section.interface, &self.why);
        match self.state {
            FilterState::Native if why.is_empty() => format!("the pre-filter of {name} is on it again"),
            FilterState::Native | FilterState::Generic | FilterState::Detached => {
                format!("the pre-filter of {name}: {why}")
            }
            FilterState::Failed => format!("{name} has no pre-filter, everything passes to the kernel: {why}"),
        }
    }

    /// All of it but what is the same for every filter.
    fn status(&self) -> FilterStatus {
        let facts = self.loaded.as_ref().and_then(|loaded| loaded.facts().ok());
        let counters = self.loaded.as_ref().and_then(|loaded| loaded.tables().counters().ok());
        let fact = |one: fn(&Facts) -> u32| facts.as_ref().map_or(0, one);
        let count = |one: fn(&Counters) -> u64| counters.as_ref().map_or(0, one);
        let mut dropped = [0; REASON_SLOTS];
        for reason in Reason::ALL {
            dropped[reason.index()] = counters.as_ref().map_or(0, |counters| counters.dropped(*reason));
        }
        FilterStatus {
            interface: self.section.interface.as_str().to_owned(),
            state: self.state,
            why: self.why.clone(),
            program_id: fact(|facts| facts.program_id),
            version: tachyon_loader::contract::VERSION,
            instructions: fact(|facts| facts.verified_instructions),
            code_bytes: fact(|facts| facts.jited_bytes),
            run_ns: facts.map_or(0, |facts| facts.run_time_ns),
            runs: facts.map_or(0, |facts| facts.run_count),
            sessions: 0,
            prefixes: self.prefixes,
            topic_blocks: 0,
            seen: count(Counters::seen),
            passed_foreign: count(Counters::passed_foreign),
            passed_ours: count(Counters::passed_ours),
            redirected: count(Counters::redirected),
            dropped,
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What the node file says, in the loader's words.
fn config(file: &NodeFile, section: &PrefilterSection, seed: u64) -> Config {
    let rate = |(per_second, burst)| Rate { per_second, burst };
    Config {
        base_port: file.network.base_port,
        shard_count: file.network.shard_count,
        // A device may have less, which the workers then know.
        frame_bytes_max: file.frame_bytes_max(),
        deliver: match section.deliver {
            FilterDelivery::Kernel => Deliver::Kernel,
            FilterDelivery::Afxdp => Deliver::ByShard,
            FilterDelivery::Dpdk => Deliver::AllByQueue,
        },
        pinned_rate: section.session_rate().map(rate),
        unpinned_rate: section.source_rate().map(rate),
        seed,
        generation: 0,
        native_allowed: section.mode != FilterMode::Generic,
        generic_allowed: section.mode != FilterMode::Native,
        pins: file.node.filter_dir.clone(),
    }
}

/// The blocks with topics that a ruleset knows.
fn blocks(image: &Verified<SealedImage>) -> TopicBlocks {
    let (rules, mut blocks) = (image.ruleset(), TopicBlocks::NONE);
    for id in 0..number(rules.topic_slots()) {
        if rules.topic(id).is_some_and(|topic| topic.flags.get() & TOPIC_KNOWN != 0) {
            blocks.allow(id);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use tachyon_config::Source;

    #[test]
    fn what_somebody_who_asked_found_is_said_by_the_next_tick_and_once() {
        let text = "[[prefilter]]\ninterface = \"eth0\"\n";
        let file = NodeFile::parse(&Source { name: "node.toml", text, manual: "" }).expect("a node file");
        let section = &file.prefilters[0];
        let filter = Filter::new(section, config(&file, section, 1));
        let mut filters = Filters::over(vec![Filter { state: FilterState::Native, ..filter }], PathBuf::new());
        filters.list[0].set_told();
        // As `status` leaves it when it finds the program gone.
        (filters.list[0].state, filters.list[0].why) = (FilterState::Failed, "gone".to_owned());
        filters.tick(LOOK_NS);
        assert_eq!(filters.said(), ["eth0 has no pre-filter, everything passes to the kernel: gone"]);
        filters.tick(2 * LOOK_NS);
        assert!(filters.said().is_empty());
    }
}
