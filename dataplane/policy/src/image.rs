//! From untrusted bytes to a ruleset: positions, bounds, every record, checksum.

use core::{fmt, ops::Range};
use tachyon_wire::image::{
    BUCKET_SPAN_MAX, FAN_OUT_MAX, FULL_MARK, ImageHeader, LAYOUT, MAGIC, PRINCIPALS_MAX, RIGHTS_WORDS_MAX,
    ROUTE_DURABLE, ROUTE_LOGGED, ROUTE_NONE, ROUTE_VOLATILE, ROUTES_MAX, RouteRule, SENDER_SLOTS_MAX, SUBSCRIBERS_MAX,
    SenderRule, TARGETS_MAX, TOPIC_DURABLE, TOPIC_FLAGS_KNOWN, TOPIC_FULL_MASK, TOPIC_FULL_SHIFT, TOPIC_KNOWN,
    TOPIC_LOGGED, TOPIC_SLOTS_MAX, Target, TopicRule, VERSION_MAX,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, byteorder::little_endian::U64};

/// Bytes of the header, where the first section starts.
pub(crate) const HEADER: usize = size_of::<ImageHeader>();
/// Sections start on cache lines, so that a record of 16 or 32 bytes never straddles two.
const SECTION_ALIGN: u64 = 64;

/// Why an image was refused. Positions are record numbers within their section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageError {
    /// Fewer bytes than a header.
    TooShort,
    /// The first four bytes are not [`MAGIC`].
    Magic,
    /// Written in this layout, which is not ours.
    Layout(u32),
    /// Version 0, or above [`VERSION_MAX`].
    Version(u64),
    /// Compiled for this number of shards, which is not the node's.
    ShardCount(u32),
    /// Reserved bytes of the header are not zero.
    HeaderReserved,
    /// This count of the header is out of its range.
    Count(&'static str),
    /// The bytes are not as many as the header says, or not as many as its counts need.
    Length,
    /// The bytes behind this section's last record are not zero.
    Padding(&'static str),
    /// A topic record is wrong.
    Topic(u32, Fault),
    /// A sender record is wrong.
    Sender(u32, Fault),
    /// This principal has a right on group 0, which is nobody's.
    Rights(u32),
    /// A route record is wrong.
    Route(u32, Fault),
    /// The BLAKE3 checksum does not match.
    Checksum,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A slot that is not in use has bytes that are not zero, or slot 0 is in use.
    NotEmpty,
    /// The record carries another slot's number.
    WrongSlot,
    /// Unknown flags are set.
    Flags,
    /// A limit without burst, or a period times burst that the clock cannot hold.
    Bucket,
    /// The route does not exist.
    Route,
    /// The group is wider than a row of rights.
    Group,
    /// Reserved bytes are not zero.
    Reserved,
    /// Route id 0.
    RouteId,
    /// No targets, more than [`FAN_OUT_MAX`], or a run that leaves the section.
    Run,
    /// A target that is no subscriber slot, or targets that do not rise.
    Targets,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => write!(f, "shorter than a ruleset header"),
            Self::Magic => write!(f, "not a ruleset image"),
            Self::Layout(layout) => write!(f, "layout {layout}, this node reads layout {LAYOUT}"),
            Self::Version(version) => write!(f, "version {version} is not in 1..={VERSION_MAX}"),
            Self::ShardCount(count) => write!(f, "compiled for {count} shards, the node has another number"),
            Self::HeaderReserved => write!(f, "reserved bytes of the header are not zero"),
            Self::Count(field) => write!(f, "header count `{field}` is out of range"),
            Self::Length => write!(f, "length does not match the header"),
            Self::Padding(section) => write!(f, "padding behind the {section} is not zero"),
            Self::Topic(slot, fault) => write!(f, "topic {slot}: {fault}"),
            Self::Sender(slot, fault) => write!(f, "sender {slot}: {fault}"),
            Self::Rights(principal) => write!(f, "principal {principal} has a right on group 0"),
            Self::Route(index, fault) => write!(f, "route {index}: {fault}"),
            Self::Checksum => write!(f, "checksum does not match"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEmpty => "an unused slot is not zero",
            Self::WrongSlot => "the record carries another slot's number",
            Self::Flags => "unknown flags",
            Self::Bucket => "burst is 0, or period times burst is too large",
            Self::Route => "no such route",
            Self::Group => "the group is wider than a row of rights",
            Self::Reserved => "reserved bytes are not zero",
            Self::RouteId => "route id 0",
            Self::Run => "no targets, too many, or a run outside its section",
            Self::Targets => "targets do not rise, or are no subscriber slots",
        })
    }
}

impl core::error::Error for ImageError {}

/// Where each section lies. Follows from the header's counts alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sections {
    pub(crate) topics: Range<usize>,
    pub(crate) senders: Range<usize>,
    pub(crate) rights: Range<usize>,
    pub(crate) routes: Range<usize>,
    pub(crate) targets: Range<usize>,
    /// Bytes of the whole image.
    pub(crate) length: usize,
}

impl Sections {
    /// The positions, or `None` where they exceed the address space.
    pub(crate) fn of(header: &ImageHeader) -> Option<Self> {
        let mut end = HEADER as u64;
        let mut place = |records: u64, bytes: usize| {
            let start = end;
            let stop = records.checked_mul(bytes as u64)?.checked_add(start)?;
            end = stop.checked_next_multiple_of(SECTION_ALIGN)?;
            Some(usize::try_from(start).ok()?..usize::try_from(stop).ok()?)
        };
        let rights_words = u64::from(header.principals.get()) * u64::from(header.rights_words.get());
        let topics = place(header.topic_slots.get().into(), size_of::<TopicRule>())?;
        let senders = place(header.sender_slots.get().into(), size_of::<SenderRule>())?;
        let rights = place(rights_words, size_of::<U64>())?;
        let routes = place(header.routes.get().into(), size_of::<RouteRule>())?;
        let targets = place(header.targets.get().into(), size_of::<Target>())?;
        Some(Self { topics, senders, rights, routes, targets, length: usize::try_from(end).ok()? })
    }
}

/// The checksum of an image: BLAKE3 with the checksum field, the header's last 32 bytes, taken as zero.
pub(crate) fn checksum(image: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(image.get(..HEADER - 32).unwrap_or_default());
    hasher.update(&[0; 32]);
    hasher.update(image.get(HEADER..).unwrap_or_default());
    *hasher.finalize().as_bytes()
}

/// An image whose header, bounds, records and checksum were checked. Only [`verify`] makes one.
pub struct Verified<T: AsRef<[u8]>> {
    bytes: T,
    version: u64,
    rights_words: usize,
    direct: u32,
    logged: u64,
    sections: Sections,
}

impl<T: AsRef<[u8]>> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified(version {}, {} bytes)", self.version, self.sections.length)
    }
}

impl<T: AsRef<[u8]>> Verified<T> {
    /// The rules, as records. Costs a few bounds checks: ask once per burst.
    #[inline]
    #[must_use]
    pub fn ruleset(&self) -> Ruleset<'_> {
        let ruleset = Ruleset::over(self.bytes.as_ref(), &self.sections, self.version, self.rights_words);
        Ruleset { direct: self.direct, logged: self.logged, ..ruleset }
    }

    /// The ruleset's version, from 1.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The bytes again.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.bytes
    }
}

/// A ruleset in force: borrowed records of a verified image. Lookups are one bounds check and one load.
#[derive(Clone, Copy)]
pub struct Ruleset<'a> {
    /// From 1, strictly increasing.
    pub version: u64,
    topics: &'a [TopicRule],
    senders: &'a [SenderRule],
    rights: &'a [U64],
    rights_words: usize,
    routes: &'a [RouteRule],
    targets: &'a [Target],
    direct: u32,
    logged: u64,
}

impl fmt::Debug for Ruleset<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ruleset(version {}, {} topic slots)", self.version, self.topics.len())
    }
}

impl<'a> Ruleset<'a> {
    fn over(image: &'a [u8], sections: &Sections, version: u64, rights_words: usize) -> Self {
        Self {
            version,
            topics: records(image, &sections.topics),
            senders: records(image, &sections.senders),
            rights: records(image, &sections.rights),
            rights_words,
            routes: records(image, &sections.routes),
            targets: records(image, &sections.targets),
            direct: 0,
            logged: 0,
        }
    }

    /// The version as tables hold it. Loses nothing: versions end at [`VERSION_MAX`].
    #[inline]
    pub(crate) fn version_word(&self) -> u32 {
        (self.version & VERSION_MAX) as u32
    }

    /// The rule of a topic's slot; `None` past the last slot. A slot that is not in use has no flags.
    #[inline]
    #[must_use]
    pub fn topic(&self, topic_id: u32) -> Option<&'a TopicRule> {
        self.topics.get(topic_id as usize)
    }

    /// Topic slots, used or not.
    #[must_use]
    pub fn topic_slots(&self) -> usize {
        self.topics.len()
    }

    /// The quota of a sender; `None` past the last slot and where the slot is not in use.
    #[inline]
    #[must_use]
    pub fn sender(&self, sender_id: u32) -> Option<&'a SenderRule> {
        self.senders.get(sender_id as usize).filter(|rule| rule.burst.get() != 0)
    }

    /// Sender slots, used or not.
    #[must_use]
    pub fn sender_slots(&self) -> usize {
        self.senders.len()
    }

    /// A principal's row of rights: bit g of it is the right on group g. Empty, so no rights, for unknown principals.
    #[inline]
    #[must_use]
    pub fn rights_row(&self, principal: u32) -> &'a [U64] {
        let start = (principal as usize).saturating_mul(self.rights_words);
        self.rights.get(start..start.saturating_add(self.rights_words)).unwrap_or_default()
    }

    /// A route and its subscribers' slots. `None` for [`ROUTE_NONE`] and past the last route.
    #[inline]
    #[must_use]
    pub fn route(&self, index: u32) -> Option<(&'a RouteRule, &'a [Target])> {
        let route = self.routes.get(index as usize)?;
        let first = route.first_target.get() as usize;
        let run = self.targets.get(first..first.saturating_add(usize::from(route.target_count.get())))?;
        Some((route, run))
    }

    /// The routes below this number have one target each, and it has the route's number.
    #[inline]
    #[must_use]
    pub fn direct_routes(&self) -> u32 {
        self.direct
    }

    /// A bit for each shard that has a topic of which messages go to the truth log.
    #[inline]
    #[must_use]
    pub fn logged_shards(&self) -> u64 {
        self.logged
    }

    /// Routes of the image.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.routes.len()
    }
}

/// A section as records; empty where it does not fit, which [`verify`] excludes.
#[inline]
fn records<'a, R: FromBytes + Immutable + KnownLayout>(image: &'a [u8], section: &Range<usize>) -> &'a [R] {
    image.get(section.clone()).and_then(|bytes| <[R]>::ref_from_bytes(bytes).ok()).unwrap_or_default()
}

/// Checks an image for a node with `shard_count` shards. Never panics, whatever the bytes, and allocates nothing.
///
/// The caller must not let the bytes change afterwards: seal the memory first.
///
/// # Errors
/// The first thing found wrong: header, lengths, checksum, then the records.
pub fn verify<T: AsRef<[u8]>>(bytes: T, shard_count: u16) -> Result<Verified<T>, ImageError> {
    let image = bytes.as_ref();
    let (header, _) = ImageHeader::ref_from_prefix(image).map_err(|_| ImageError::TooShort)?;
    verify_header(header, shard_count)?;
    let sections = Sections::of(header).ok_or(ImageError::Length)?;
    if sections.length != image.len() || header.length.get() != image.len() as u64 {
        return Err(ImageError::Length);
    }
    if checksum(image) != header.checksum {
        return Err(ImageError::Checksum);
    }
    let (version, rights_words) = (header.version.get(), header.rights_words.get() as usize);
    verify_padding(image, &sections)?;
    let ruleset = Ruleset::over(image, &sections, version, rights_words);
    verify_records(&ruleset)?;
    let (direct, logged) = (direct_routes(&ruleset), logged_shards(&ruleset, shard_count));
    Ok(Verified { bytes, version, rights_words, direct, logged, sections })
}

/// How many of the first routes have one target, with the route's own number.
fn direct_routes(ruleset: &Ruleset<'_>) -> u32 {
    let direct = |(index, rule): &(u32, &RouteRule)| rule.first_target.get() == *index && rule.target_count.get() == 1;
    (0..).zip(ruleset.routes).take_while(direct).fold(0, |count, _| count + 1)
}

/// A bit for each shard that has a topic for the log. Shards are at most 64 ([`crate::SHARDS_MAX`]).
fn logged_shards(ruleset: &Ruleset<'_>, shard_count: u16) -> u64 {
    let for_log = |rule: &&TopicRule| rule.flags.get() & (TOPIC_LOGGED | TOPIC_DURABLE) != 0;
    let bit = |rule: &TopicRule| 1_u64.checked_shl(rule.topic_id.get() % u32::from(shard_count)).unwrap_or(0);
    ruleset.topics.iter().filter(for_log).fold(0, |shards, rule| shards | bit(rule))
}

fn verify_header(header: &ImageHeader, shard_count: u16) -> Result<(), ImageError> {
    if header.magic != MAGIC {
        return Err(ImageError::Magic);
    }
    if header.layout.get() != LAYOUT {
        return Err(ImageError::Layout(header.layout.get()));
    }
    if !(1..=VERSION_MAX).contains(&header.version.get()) {
        return Err(ImageError::Version(header.version.get()));
    }
    if header.shard_count.get() != u32::from(shard_count) || !shard_count.is_power_of_two() {
        return Err(ImageError::ShardCount(header.shard_count.get()));
    }
    if header.reserved != [0; 44] {
        return Err(ImageError::HeaderReserved);
    }
    let counts = [
        ("topic_slots", header.topic_slots, 0, TOPIC_SLOTS_MAX),
        ("sender_slots", header.sender_slots, 0, SENDER_SLOTS_MAX),
        ("principals", header.principals, 0, PRINCIPALS_MAX),
        ("rights_words", header.rights_words, 1, RIGHTS_WORDS_MAX),
        ("routes", header.routes, 0, ROUTES_MAX),
        ("targets", header.targets, 0, TARGETS_MAX),
    ];
    match counts.iter().find(|(_, count, least, most)| !(*least..=*most).contains(&count.get())) {
        Some((field, ..)) => Err(ImageError::Count(field)),
        None => Ok(()),
    }
}

/// Between a section's last record and the next section's start there are zeros, so an image has one byte string.
fn verify_padding(image: &[u8], sections: &Sections) -> Result<(), ImageError> {
    let gaps = [
        ("topics", sections.topics.end..sections.senders.start),
        ("senders", sections.senders.end..sections.rights.start),
        ("rights", sections.rights.end..sections.routes.start),
        ("routes", sections.routes.end..sections.targets.start),
        ("targets", sections.targets.end..sections.length),
    ];
    for (section, gap) in gaps {
        if image.get(gap).ok_or(ImageError::Length)?.iter().any(|byte| *byte != 0) {
            return Err(ImageError::Padding(section));
        }
    }
    Ok(())
}

fn verify_records(ruleset: &Ruleset<'_>) -> Result<(), ImageError> {
    for (slot, rule) in (0..).zip(ruleset.topics) {
        verify_topic(ruleset, slot, rule).map_err(|fault| ImageError::Topic(slot, fault))?;
    }
    for (slot, rule) in (0..).zip(ruleset.senders) {
        verify_sender(rule).map_err(|fault| ImageError::Sender(slot, fault))?;
    }
    for (principal, row) in (0..).zip(ruleset.rights.chunks(ruleset.rights_words)) {
        if row.first().is_none_or(|word| word.get() & 1 != 0) {
            return Err(ImageError::Rights(principal));
        }
    }
    for (index, rule) in (0..).zip(ruleset.routes) {
        verify_route(ruleset, index, rule).map_err(|fault| ImageError::Route(index, fault))?;
    }
    Ok(())
}

fn verify_topic(ruleset: &Ruleset<'_>, slot: u32, rule: &TopicRule) -> Result<(), Fault> {
    let flags = rule.flags.get();
    if slot == 0 || flags & TOPIC_KNOWN == 0 {
        return if rule.as_bytes().iter().all(|byte| *byte == 0) { Ok(()) } else { Err(Fault::NotEmpty) };
    }
    if rule.topic_id.get() != slot {
        return Err(Fault::WrongSlot);
    }
    let unwritten = flags & TOPIC_DURABLE != 0 && flags & TOPIC_FULL_MASK == FULL_MARK << TOPIC_FULL_SHIFT;
    if flags & !TOPIC_FLAGS_KNOWN != 0 || unwritten {
        return Err(Fault::Flags);
    }
    if !bucket_fits(rule.period.get(), rule.burst.get()) {
        return Err(Fault::Bucket);
    }
    let for_log = match flags & (TOPIC_LOGGED | TOPIC_DURABLE) {
        0 => ROUTE_VOLATILE,
        TOPIC_LOGGED => ROUTE_LOGGED,
        _ => ROUTE_DURABLE,
    };
    let route = ruleset.routes.get(rule.route.get() as usize);
    if rule.route.get() != ROUTE_NONE && route.is_none_or(|route| route.for_log != for_log) {
        return Err(Fault::Route);
    }
    if usize::from(rule.group.get()) >= ruleset.rights_words * 64 {
        return Err(Fault::Group);
    }
    if rule.reserved.get() != 0 { Err(Fault::Reserved) } else { Ok(()) }
}

fn verify_sender(rule: &SenderRule) -> Result<(), Fault> {
    if rule.reserved.get() != 0 {
        return Err(Fault::Reserved);
    }
    if bucket_fits(rule.period.get(), rule.burst.get()) { Ok(()) } else { Err(Fault::Bucket) }
}

fn verify_route(ruleset: &Ruleset<'_>, index: u32, rule: &RouteRule) -> Result<(), Fault> {
    if rule.route_id.get() == 0 {
        return Err(Fault::RouteId);
    }
    if rule.for_log > ROUTE_DURABLE || rule.reserved != [0; 5] {
        return Err(Fault::Reserved);
    }
    if !(1..=FAN_OUT_MAX).contains(&rule.target_count.get()) {
        return Err(Fault::Run);
    }
    let (_, run) = ruleset.route(index).ok_or(Fault::Run)?;
    let rises = run.is_sorted_by(|a, b| a.get() < b.get());
    if rises && run.iter().all(|slot| slot.get() < SUBSCRIBERS_MAX) { Ok(()) } else { Err(Fault::Targets) }
}

/// Whether a limit's span stays within the clock's range, and a limit lets at least one message through.
pub(crate) fn bucket_fits(period: u64, burst: u32) -> bool {
    period == 0 || (burst > 0 && period.checked_mul(burst.into()).is_some_and(|span| span <= BUCKET_SPAN_MAX))
}
