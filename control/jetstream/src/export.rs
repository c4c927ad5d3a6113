//! The loop: events of all shards go out in one chain, and positions move as their acknowledgements come in.

use crate::{
    accepts::Accepts,
    event::{Grain, LOG, RECORD, SENDER, TICK, UNIX_NS, hex},
    follow::Trouble,
    positions::{Position, Positions},
    settings::Settings,
    shard::{Ready, Shard},
    status::{ShardStatus, Status},
    stream::{self, Refusal, Snapshot, chain, pause},
};
use anyhow::{Result, anyhow};
use async_nats::{
    Client, ConnectOptions, Event, HeaderMap,
    header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID},
    jetstream::{
        Context, ContextBuilder,
        context::{PublishError, PublishErrorKind},
        publish::PublishAck,
    },
};
use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    future::IntoFuture,
    path::Path,
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How often new shards are looked for.
const SHARDS_EVERY: Duration = Duration::from_secs(1);

type Answer = Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>;

/// An event on its way.
struct Flying {
    shard: u16,
    ready: Ready,
    /// The sequence that it gets in the stream.
    sequence: u64,
    answer: Answer,
}

/// Why the loop was left with its work undone.
enum Pause {
    /// The stream's end is to be read anew, then it goes on.
    Resume(String),
    /// The connection is of no use any more.
    Disconnected,
    /// It makes no sense to go on.
    Never(String),
}

/// The chain of what was published since the stream's end was read.
struct Chain {
    /// The last sequence in the stream once all that flies is stored.
    last_sequence: u64,
    /// Identity of the last message of the chain; none before its first.
    last_id: Option<String>,
}

/// Takes logs to a stream.
pub struct Exporter<A> {
    settings: Settings,
    until_end: bool,
    make_accepts: fn() -> A,
    positions: Positions,
    shards: BTreeMap<u16, Shard<A>>,
    /// The shard whose turn it is.
    turn: u16,
    status: Status,
    stop: watch::Receiver<bool>,
    /// Positions changed since they were stored.
    changed: bool,
    stored: Instant,
    listed: Option<Instant>,
    /// When no log had anything new.
    exhausted: Option<Instant>,
    /// What went wrong with a log; said once all before it is acknowledged.
    trouble: Option<String>,
}

impl<A> core::fmt::Debug for Exporter<A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Exporter").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<A: Accepts> Exporter<A> {
    /// With what is stored of an earlier run. With `until_end` it ends when everything in the logs is exported; it ends
    /// too when `stop` becomes true.
    ///
    /// # Errors
    ///
    /// When stored positions cannot be read, or another exporter to this stream runs.
    pub fn new(
        settings: Settings,
        until_end: bool,
        make_accepts: fn() -> A,
        status: Status,
        stop: watch::Receiver<bool>,
    ) -> Result<Self> {
        let positions = Positions::open(&settings.state_dir, &settings.stream.name)?;
        Ok(Self {
            settings,
            until_end,
            make_accepts,
            positions,
            shards: BTreeMap::new(),
            turn: 0,
            status,
            stop,
            changed: false,
            stored: Instant::now(),
            listed: None,
            exhausted: None,
            trouble: None,
        })
    }

    /// Exports until it is told to stop, or the end is reached where that was asked for.
    ///
    /// # Errors
    ///
    /// When going on would lose or double something, or somebody has to do something first. All that was acknowledged is
    /// stored then.
    pub async fn run(mut self) -> Result<()> {
        let mut tries = 0;
        let outcome = loop {
            match self.connected(&mut tries).await {
                Ok(()) => break Ok(()),
                Err(Refusal::Never(what)) => break Err(anyhow!(what)),
                Err(Refusal::Later(what)) => {
                    self.status.waits_for(Some(what));
                    self.line("exporting", 0);
                    self.rest(pause(tries, self.settings.retry_max)).await;
                    tries += 1;
                }
            }
            if *self.stop.borrow() {
                break Ok(());
            }
        };
        self.positions.store()?;
        self.line(if outcome.is_ok() { "ended" } else { "failed" }, 0);
        outcome
    }

    /// One connection, from its beginning to its end.
    async fn connected(&mut self, tries: &mut u32) -> Result<(), Refusal> {
        let mut stop = self.stop.clone();
        let connected = tokio::select! {
            connected = connect(&self.settings) => connected,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let (client, mut broken) = connected?;
        loop {
            // A context of its own each time, because one that is left keeps the places of what was never answered.
            let context = ContextBuilder::new()
                .timeout(self.settings.answer_max)
                .max_ack_inflight(self.settings.unacknowledged_max)
                .build(client.clone());
            self.find_shards()?;
            let mut chain = tokio::select! {
                chain = self.resume(&context) => chain?,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            let before = self.status.counts.acknowledged;
            self.exhausted = None; // what was given back is at hand
            let mut flying = VecDeque::new();
            let left = self.pump(&context, &mut broken, &mut chain, &mut flying).await;
            for lost in flying.into_iter().rev() {
                if let Some(shard) = self.shards.get_mut(&lost.shard) {
                    shard.give_back(lost.ready);
                }
            }
            let progress = self.status.counts.acknowledged > before;
            if progress {
                *tries = 0;
            }
            match left {
                Ok(()) => return Ok(()),
                Err(Pause::Resume(_)) if progress => {}
                Err(Pause::Resume(why)) => return Err(Refusal::Later(why)),
                Err(Pause::Never(why)) => return Err(Refusal::Never(why)),
                Err(Pause::Disconnected) => {
                    return Err(Refusal::Later(format!("{}: the connection broke", self.settings.servers.join(", "))));
                }
            }
        }
    }

    /// Reads back where the stream ends, and sets every shard behind what it has.
    async fn resume(&mut self, context: &Context) -> Result<Chain, Refusal> {
        let (stream, made) = stream::ensure(context, &self.settings).await?;
        if made {
            self.status.say(&format!("made stream {}", self.settings.stream.name));
        }
        let shards: Vec<u16> = self.shards.keys().copied().collect();
        let snapshot = stream::snapshot(&stream, &self.settings.prefix, &shards).await?;
        self.adopt(&snapshot).map_err(|(shard, trouble)| Refusal::Never(format!("shard {shard}: {trouble}")))?;
        self.status.counts.resumed += 1;
        Ok(Chain { last_sequence: snapshot.last_sequence, last_id: None })
    }

    /// Goes on behind the further of what was acknowledged and what the stream has, except where the server lost what it
    /// had acknowledged: there only the stream counts.
    fn adopt(&mut self, snapshot: &Snapshot) -> Result<(), (u16, Trouble)> {
        let same = self.positions.created == Some(snapshot.created);
        if !same && self.positions.created.is_some() {
            self.status.say(&format!(
                "stream {} was made anew since; what was exported before stays exported and is not in it",
                self.settings.stream.name
            ));
            self.positions.shards.values_mut().for_each(|position| position.stream_sequence = 0);
        }
        let newest = self.positions.shards.values().map(|position| position.stream_sequence).max().unwrap_or(0);
        if newest > snapshot.last_sequence {
            let lost = newest - snapshot.last_sequence;
            self.status.counts.lost_by_server += lost;
            self.status.say(&format!("the server lost {lost} messages that it had acknowledged; they are sent again"));
        }
        for (number, shard) in &mut self.shards {
            let streamed = snapshot.shards.get(number).map(|last| Position {
                log_id: last.log_id,
                place: last.place,
                mark: None,
                stream_sequence: last.sequence,
                clock: None,
            });
            let mut stored = self.positions.shards.get(number).copied();
            if stored.is_some_and(|stored| stored.stream_sequence > snapshot.last_sequence) {
                stored = None;
                match streamed {
                    Some(streamed) => self.positions.shards.insert(*number, streamed),
                    None => self.positions.shards.remove(number),
                };
            }
            let further = [stored, streamed].into_iter().flatten().max_by_key(|position| position.place);
            for position in [stored, streamed].into_iter().flatten() {
                shard.expect_log(position.log_id).map_err(|trouble| (*number, trouble))?;
            }
            shard.resume(further.as_ref());
        }
        self.positions.created = Some(snapshot.created);
        self.changed = true;
        Ok(())
    }

    /// Publishes and takes acknowledgements until there is nothing more to do.
    async fn pump(
        &mut self,
        context: &Context,
        broken: &mut watch::Receiver<bool>,
        chain: &mut Chain,
        flying: &mut VecDeque<Flying>,
    ) -> Result<(), Pause> {
        let mut stop = self.stop.clone();
        loop {
            let stopping = *stop.borrow();
            if !stopping {
                self.fill(context, chain, flying).await?;
            }
            self.keep_house(flying.len())?;
            let Some(front) = flying.front_mut() else {
                if !stopping && self.trouble.is_none() && self.exhausted.is_none() {
                    // Still on the way to what is new.
                    tokio::task::yield_now().await;
                    continue;
                }
                if stopping || self.is_done()? {
                    return Ok(());
                }
                self.status.waits_for(
                    self.shards
                        .is_empty()
                        .then(|| format!("the log: {} has no folder of a shard yet", self.settings.log_dir.display())),
                );
                tokio::select! {
                    () = tokio::time::sleep(self.settings.poll) => {}
                    _ = broken.wait_for(|broken| *broken) => return Err(Pause::Disconnected),
                    _ = stop.wait_for(|stop| *stop) => {}
                }
                continue;
            };
            let answer = tokio::select! {
                biased;
                answer = &mut front.answer => answer,
                _ = broken.wait_for(|broken| *broken) => return Err(Pause::Disconnected),
                // Meanwhile more may have come into the log, or a line be due.
                () = tokio::time::sleep(self.settings.poll) => continue,
            };
            let answer = answer.map_err(|error| self.refusal(&error))?;
            if let Some(front) = flying.pop_front() {
                self.settle(front, &answer)?;
            }
        }
    }

    /// Whether nothing is left to do, or something is wrong with a log and all before it is acknowledged.
    fn is_done(&mut self) -> Result<bool, Pause> {
        if let Some(trouble) = self.trouble.take() {
            return Err(Pause::Never(trouble));
        }
        if !self.until_end {
            return Ok(false);
        }
        for (number, shard) in &mut self.shards {
            let at_end = shard.is_at_end().map_err(|trouble| Pause::Never(format!("shard {number}: {trouble}")))?;
            if !at_end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Publishes until enough flies or the logs have nothing more.
    async fn fill(&mut self, context: &Context, chain: &mut Chain, flying: &mut VecDeque<Flying>) -> Result<(), Pause> {
        // Acknowledgements come by the thousand, and logs need not be looked at for each.
        if self.exhausted.is_some_and(|since| since.elapsed() < self.settings.poll) {
            return Ok(());
        }
        self.exhausted = None;
        while flying.len() < self.settings.unacknowledged_max && self.trouble.is_none() {
            let Some((number, ready)) = self.next_ready() else {
                self.exhausted = self.shards.values().all(Shard::is_idle).then(Instant::now);
                return Ok(());
            };
            let Some(shard) = self.shards.get_mut(&number) else { return Ok(()) };
            let headers = headers(&ready, shard.log_id().unwrap_or_default(), &self.settings.stream.name, chain);
            let token = ready.event.topic.map_or_else(|| "frames".to_owned(), |topic| topic.to_string());
            let subject = format!("{}.{number}.{token}", self.settings.prefix);
            let sent = context.publish_with_headers(subject, headers, ready.event.payload.clone()).await;
            match sent {
                Ok(answer) => {
                    chain.last_sequence += 1;
                    chain.last_id = Some(ready.event.id.clone());
                    self.status.counts.published += 1;
                    let (sequence, answer) = (chain.last_sequence, Box::pin(answer.into_future()));
                    flying.push_back(Flying { shard: number, ready, sequence, answer });
                }
                Err(error) => {
                    shard.give_back(ready);
                    return Err(self.refusal(&error));
                }
            }
        }
        Ok(())
    }

    /// The next event of any shard: of the same one as long as that has some at hand.
    fn next_ready(&mut self) -> Option<(u16, Ready)> {
        let turns: Vec<u16> =
            self.shards.range(self.turn..).chain(self.shards.range(..self.turn)).map(|(number, _)| *number).collect();
        for number in turns {
            let shard = self.shards.get_mut(&number)?;
            match shard.take_next() {
                Ok(Some(ready)) => {
                    self.turn = if shard.has_more() { number } else { number.wrapping_add(1) };
                    return Some((number, ready));
                }
                Ok(None) => {}
                Err(trouble) => {
                    self.trouble = Some(format!("shard {number}: {trouble}"));
                    return None;
                }
            }
        }
        None
    }

    /// Takes one acknowledgement.
    fn settle(&mut self, flying: Flying, answer: &PublishAck) -> Result<(), Pause> {
        let fits = answer.sequence == flying.sequence;
        if !fits && !answer.duplicate {
            let (got, wanted) = (answer.sequence, flying.sequence);
            let why =
                format!("message {wanted} of the stream: the server stored it as {got}; does it know expectations?");
            return Err(Pause::Never(why));
        }
        let Some(shard) = self.shards.get_mut(&flying.shard) else { return Ok(()) };
        let Ready { event, clock, mark } = flying.ready;
        let before = self.positions.shards.get(&flying.shard).map_or(0, |position| position.stream_sequence);
        let position = Position {
            log_id: shard.log_id().unwrap_or_default(),
            place: event.place,
            mark: Some(mark),
            stream_sequence: before.max(answer.sequence),
            clock,
        };
        shard.settle(event.place);
        self.positions.shards.insert(flying.shard, position);
        self.changed = true;
        self.status.counts.acknowledged += 1;
        self.status.waits_for(None);
        if fits {
            return Ok(());
        }
        // The log has this message a second time. It took no place in the stream, so the chain ends here.
        self.status.counts.duplicates += 1;
        Err(Pause::Resume(format!("the stream has message {} since before", event.id)))
    }

    /// What a refused message means.
    fn refusal(&self, error: &PublishError) -> Pause {
        let name = &self.settings.stream.name;
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Pause::Never(format!(
                "a message is larger than the server allows: raise its `max_payload` to 131072 ({})",
                chain(error)
            )),
            PublishErrorKind::StreamNotFound => Pause::Resume(format!("stream {name}, which is not there any more")),
            PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => {
                Pause::Resume(format!("the end of stream {name} to be where it was left"))
            }
            _ => Pause::Resume(format!("stream {name} to take messages: {}", chain(error))),
        }
    }

    /// What is done from time to time.
    fn keep_house(&mut self, unacknowledged: usize) -> Result<(), Pause> {
        if self.changed && self.stored.elapsed() >= self.settings.store {
            self.positions.store().map_err(|error| Pause::Never(format!("{error:#}")))?;
            (self.changed, self.stored) = (false, Instant::now());
        }
        let missed: u64 = self.shards.values().map(Shard::records_missed).sum();
        if missed > self.status.counts.records_missed {
            let more = missed - self.status.counts.records_missed;
            self.status.counts.records_missed = missed;
            self.status
                .say(&format!("{more} records were removed from the log before they were exported; going on behind"));
        }
        let undecided: u64 = self.shards.values().map(Shard::undecided).sum();
        if undecided > self.status.counts.undecided {
            let more = undecided - self.status.counts.undecided;
            self.status.counts.undecided = undecided;
            self.status.say(&format!("{more} frames are left out: the log does not say what became of them"));
        }
        if self.status.is_due() {
            self.line("exporting", unacknowledged);
        }
        let due = self.settings.shards.is_empty() && self.listed.is_none_or(|listed| listed.elapsed() >= SHARDS_EVERY);
        let before = self.shards.len();
        if due {
            self.find_shards().map_err(|refusal| Pause::Never(refusal.to_string()))?;
        }
        if self.shards.len() > before {
            return Err(Pause::Resume("the position of a new shard".into()));
        }
        Ok(())
    }

    /// Takes up the shards that are to be exported and are not yet.
    fn find_shards(&mut self) -> Result<(), Refusal> {
        self.listed = Some(Instant::now());
        let numbers = if self.settings.shards.is_empty() {
            list(&self.settings.log_dir).map_err(|error| {
                Refusal::Never(format!("cannot list {}: {error}; check `log_dir`", self.settings.log_dir.display()))
            })?
        } else {
            self.settings.shards.clone()
        };
        let grain = if self.settings.frames { Grain::Frames } else { Grain::Messages };
        for number in numbers {
            let folder = self.settings.log_dir.join(format!("shard-{number:05}"));
            let position = self.positions.shards.get(&number);
            let new = || Shard::new(&folder, number, grain, self.make_accepts, position);
            self.shards.entry(number).or_insert_with(new);
        }
        Ok(())
    }

    fn line(&mut self, state: &str, unacknowledged: usize) {
        let shards: Vec<ShardStatus> = self
            .shards
            .values()
            .map(|shard| ShardStatus {
                shard: shard.number(),
                record: self.positions.shards.get(&shard.number()).map(|position| position.place.record),
                read_to: shard.read_to(),
            })
            .collect();
        self.status.line(state, unacknowledged, &shards);
    }

    /// Waits for this long, or until it is told to stop.
    async fn rest(&self, duration: Duration) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Numbers of the shards that have a folder here; none where there is no folder at all.
fn list(log_dir: &Path) -> std::io::Result<Vec<u16>> {
    let entries = match fs::read_dir(log_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix("shard-")).filter(|digits| digits.len() == 5);
        numbers.extend(digits.and_then(|digits| digits.parse::<u16>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A connection that is not made again by itself: what was sent over one that broke is looked up in the stream first. The
/// other value becomes true when it breaks.
async fn connect(settings: &Settings) -> Result<(Client, watch::Receiver<bool>), Refusal> {
    let (breaks, broken) = watch::channel(false);
    let servers = settings.servers.join(", ");
    let options = ConnectOptions::new()
        .name("tachyon-jetstream")
        .connection_timeout(settings.answer_max)
        .max_reconnects(1)
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed) {
                breaks.send_replace(true);
            }
            std::future::ready(())
        });
    let client = options.connect(settings.servers.as_slice()).await;
    let client = client.map_err(|error| Refusal::Later(format!("{servers}: {}", chain(&error))))?;
    Ok((client, broken))
}

/// What the server has to know, and what a reader may want to.
fn headers(ready: &Ready, log_id: [u8; 16], stream: &str, chain: &Chain) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, ready.event.id.as_str());
    headers.insert(NATS_EXPECTED_STREAM, stream);
    headers.insert(NATS_EXPECTED_LAST_SEQUENCE, chain.last_sequence.to_string());
    if let Some(last_id) = &chain.last_id {
        headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, last_id.as_str());
    }
    headers.insert(LOG, hex(&log_id));
    headers.insert(RECORD, ready.event.place.record.to_string());
    headers.insert(TICK, ready.event.tick.to_string());
    if let Some(unix_ns) = ready.unix_ns() {
        headers.insert(UNIX_NS, unix_ns.to_string());
    }
    if let Some(sender) = ready.event.sender {
        headers.insert(SENDER, sender.to_string());
    }
    headers
}
