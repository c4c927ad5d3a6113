//! The thread beside the workers: talks to control, checks rulesets, moves leases, watches over the workers.
//!
//! It is the only one that reads the Unix socket and the only one that writes files. Workers never wait for it: if it
//! stood still, they would go on with the rules and leases they have.

use crate::{
    filters::Filters,
    leases::{Couriers, INTERVAL_NS, Leases},
    port_desk::PortDesk,
    state::StateFolder,
    taps::Taps,
    topology,
    voice::Voice,
    worker::{Clock, End, Gauges, Image, Item},
};
use rtrb::{Consumer, Producer};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use serde_json::json;
use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tachyon_driver_api::{NoLane, PortError};
use tachyon_segment::{
    SealedImage, StatsSegment, WorkerState, WorkerStatus,
    handover::{Accepted, Connection, Hello, Incoming, LaneRequest, Listener, Prefix, Reply, Request},
};
use tachyon_wire::{
    Message, Reason,
    command::{AddSubscriber, Command, Demand, Lease, OpenSession},
    image::ImageHeader,
};
use zerocopy::FromBytes;

/// Requests answered before the leases get their turn again.
const REQUESTS_PER_ROUND: usize = 64;
/// Quarantined messages are told of at most this often.
const QUARANTINE_EVERY: Duration = Duration::from_secs(1);

/// Housekeeping's ends of the rings of one worker.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) items: Producer<Item>,
    pub(crate) retired: Consumer<Image>,
    pub(crate) demands: Consumer<Demand>,
    pub(crate) quarantine: Consumer<(Message, u8)>,
    pub(crate) gauges: Arc<Gauges>,
    /// Restarts that were told.
    pub(crate) restarts_told: u64,
    /// Items ever sent.
    pub(crate) sent: u64,
    /// `None` once it ended.
    pub(crate) thread: Option<JoinHandle<End>>,
    pub(crate) state: WorkerState,
}

impl Desk {
    /// `None`: the ring is full. A worker that ended takes nothing any more and judges nothing, so what it is sent is in force with
    /// it at once, and its ring never fills.
    fn send(&mut self, item: Item) -> Option<u64> {
        if !self.has_ended() {
            self.items.push(item).ok()?;
        }
        self.sent += 1;
        Some(self.sent)
    }

    fn has_room(&self) -> bool {
        self.has_ended() || self.items.slots() > 0
    }

    fn has_ended(&self) -> bool {
        self.state == WorkerState::Down
    }

    /// Whether the worker took what this ticket stands for, or will never judge anything without it.
    fn has_taken(&self, ticket: u64) -> bool {
        if self.has_ended() {
            return true;
        }
        let waiting = self.items.buffer().capacity() - self.items.slots();
        self.sent - waiting as u64 >= ticket
    }
}

impl Couriers for Vec<Desk> {
    fn send(&mut self, worker: usize, lease: Lease) -> Option<u64> {
        self[worker].send(Item::Command(Command::Lease(lease)))
    }

    fn in_force(&self, worker: usize, ticket: u64) -> bool {
        self[worker].has_taken(ticket)
    }
}

/// Why a request did not succeed.
struct Refusal(Accepted, String);

impl Refusal {
    fn never(text: impl Into<String>) -> Self {
        Self(Accepted::Refused, text.into())
    }

    fn busy() -> Self {
        Self(Accepted::Busy, "a worker's command ring is full; try again in a moment".into())
    }
}

/// Everything the thread owns.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    /// What control is told; the ruleset's version is put in when it is.
    pub(crate) hello: Hello,
    /// The drivers and what each stands on, for people.
    pub(crate) transports: String,
    pub(crate) listener: Listener,
    pub(crate) connection: Option<Connection>,
    pub(crate) segment: StatsSegment,
    pub(crate) state: StateFolder,
    pub(crate) desks: Vec<Desk>,
    pub(crate) leases: Leases,
    pub(crate) taps: Taps,
    pub(crate) ports: PortDesk,
    pub(crate) filters: Filters,
    /// The request for a list of denied sources that is answered once it is in force; others wait for that.
    pub(crate) denying: Option<u32>,
    pub(crate) clock: Clock,
    /// The ruleset in force.
    pub(crate) current: Option<Image>,
    pub(crate) voice: Voice,
    pub(crate) stop: Arc<AtomicBool>,
    /// Quarantined messages that nobody was told of yet, and the last of them.
    pub(crate) quarantined: u64,
    pub(crate) quarantined_last: Option<(Message, u8)>,
    pub(crate) quarantine_told: Instant,
}

impl Housekeeping {
    /// Runs until the node is told to stop, then stops the workers.
    pub(crate) fn run(mut self) {
        let interval = Duration::from_nanos(INTERVAL_NS);
        let mut next = Instant::now() + interval;
        while !self.stop.load(Ordering::Relaxed) {
            // A long list goes on as soon as everything else had its turn.
            self.wait_until(if self.filters.is_feeding() { Instant::now() } else { next });
            self.accept();
            self.serve();
            self.feed_filters();
            if Instant::now() >= next {
                self.collect();
                self.look_after_filters();
                self.ports.tick(self.clock.tick_ns());
                for said in self.ports.said() {
                    self.voice.say("device", &said.text, &[("is_error", json!(said.is_error))]);
                }
                self.supervise();
                next = Instant::now() + interval;
            }
        }
        for worker in 0..self.desks.len() {
            if let Some(thread) = self.desks[worker].thread.take() {
                self.note_end(worker, thread);
            }
        }
        self.filters.stop();
        self.say_of_filters();
    }

    /// Puts a slice of a list of denied sources into the filters, and answers whoever sent it when it was the last.
    fn feed_filters(&mut self) {
        if self.denying.is_none() && !self.filters.is_feeding() {
            return;
        }
        let Some(fed) = self.filters.feed() else { return };
        let (Some(number), Some(connection)) = (self.denying.take(), &self.connection) else { return };
        if let Err(error) = answer(connection, number, fed.map_err(Refusal::never)) {
            self.connection = None;
            self.lost(&error);
        }
    }

    /// Does in the filters what waited for the workers, and looks whether they are there.
    fn look_after_filters(&mut self) {
        let desks = &self.desks;
        let has_taken = |(desk, ticket): (&Desk, &u64)| desk.has_taken(*ticket);
        self.filters.settle(|tickets| desks.iter().zip(tickets).all(has_taken));
        self.filters.tick(self.clock.tick_ns());
        self.say_of_filters();
    }

    fn say_of_filters(&mut self) {
        for text in self.filters.said() {
            self.voice.say("prefilter", &text, &[]);
        }
    }

    /// Sleeps until somebody connects, control asks something, or the time is up.
    fn wait_until(&self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return };
        let listener = PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN);
        let connection = self.connection.as_ref().map(|it| PollFd::from_borrowed_fd(it.as_fd(), PollFlags::IN));
        let mut fds: Vec<_> = [Some(listener), connection].into_iter().flatten().collect();
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            // Never seen; without a pause it would turn into a busy loop.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }

    /// A new connection replaces the old one: control restarted, and perhaps nobody noticed yet.
    fn accept(&mut self) {
        let connection = match self.listener.accept() {
            Ok(None) => return,
            Ok(Some(connection)) => connection,
            Err(error) => return self.voice.say("refused", &format!("control connection: {error}"), &[]),
        };
        self.hello.ruleset_version = self.current.as_ref().map_or(0, |image| image.version());
        match connection.send_hello(&self.hello, self.segment.reader_fd()) {
            Ok(()) => {
                let peer = connection.peer();
                self.voice.say("control", &format!("process {} connected", peer.pid), &[("pid", json!(peer.pid))]);
                self.denying = None; // whoever asked is gone, and will send it again
                if self.connection.replace(connection).is_some() {
                    self.taps.hung_up(); // nobody will notice the end of the one before
                }
            }
            Err(error) => self.voice.say("refused", &format!("control went away at once: {error}"), &[]),
        }
    }

    fn serve(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        for _ in 0..REQUESTS_PER_ROUND {
            if self.denying.is_some() {
                break; // answers come in the order of the requests
            }
            let answered = match connection.receive() {
                Ok(Incoming::Nothing) => break,
                Ok(Incoming::Request(number, Request::Port(place))) => self.tell_port(&connection, number, place),
                Ok(Incoming::Request(number, Request::Lane(place))) => self.tell_lane(&connection, number, place),
                Ok(Incoming::Request(number, Request::Filter(place))) => self.tell_filter(&connection, number, place),
                Ok(Incoming::Request(number, Request::Tap(worker))) => self.hand_over_tap(&connection, number, worker),
                Ok(Incoming::Request(number, Request::ConnectLane(lane))) => {
                    self.connect_lane(&connection, number, *lane)
                }
                Ok(Incoming::Request(number, Request::Denied(fd))) => match self.deny(&fd) {
                    Ok(()) => {
                        self.denying = Some(number);
                        Ok(())
                    }
                    refused => answer(&connection, number, refused),
                },
                Ok(Incoming::Request(number, request)) => answer(&connection, number, self.handle(request)),
                Ok(Incoming::Malformed(number, text)) => answer(&connection, number, Err(Refusal::never(text))),
                Ok(Incoming::Closed) => {
                    self.taps.hung_up();
                    return self.voice.say("control", "disconnected; its rules stay in force", &[]);
                }
                Err(error) => return self.lost(&error),
            };
            if let Err(error) = answered {
                return self.lost(&error);
            }
        }
        self.connection = Some(connection);
    }

    fn tell_port(&mut self, connection: &Connection, number: u32, place: u32) -> io::Result<()> {
        match self.ports.port(place) {
            Some((port, ports)) => connection.reply_port(number, ports, port),
            None => answer(connection, number, Err(Refusal::never(format!("there is no port at place {place}")))),
        }
    }

    fn tell_lane(&mut self, connection: &Connection, number: u32, place: u32) -> io::Result<()> {
        match self.ports.lane(place) {
            Some((lane, lanes)) => connection.reply_lane(number, lanes, lane),
            None if place == 0 => answer(connection, number, Ok(())), // there are none
            None => answer(connection, number, Err(Refusal::never(format!("there is no lane at place {place}")))),
        }
    }

    fn tell_filter(&mut self, connection: &Connection, number: u32, place: u32) -> io::Result<()> {
        match self.filters.status(place) {
            Some((filter, filters)) => connection.reply_filter(number, filters, &filter),
            None if place == 0 => answer(connection, number, Ok(())), // there are none
            None => answer(connection, number, Err(Refusal::never(format!("there is no filter at place {place}")))),
        }
    }

    fn connect_lane(&mut self, connection: &Connection, number: u32, lane: LaneRequest) -> io::Result<()> {
        match self.ports.connect_lane(&lane) {
            Ok(ours) => connection.reply_details(number, &ours),
            Err(NoLane::Never(text)) => answer(connection, number, Err(Refusal::never(text))),
            Err(NoLane::Later(text)) => answer(connection, number, Err(Refusal(Accepted::Busy, text))),
        }
    }

    fn hand_over_tap(&self, connection: &Connection, number: u32, worker: u16) -> io::Result<()> {
        match self.taps.tap(worker) {
            Ok((tap, descriptors)) => connection.reply_tap(number, tap, descriptors),
            Err(text) => answer(connection, number, Err(Refusal::never(text))),
        }
    }

    fn lost(&mut self, error: &io::Error) {
        self.taps.hung_up();
        self.denying = None;
        self.voice.say("control", &format!("connection lost ({error}); its rules stay in force"), &[]);
    }

    fn handle(&mut self, request: Request) -> Result<(), Refusal> {
        match request {
            Request::OpenSession(open) => self.open_session(&open),
            Request::CloseSession(id) => {
                let tickets = self.broadcast(Command::CloseSession(id))?;
                self.filters.close_session(id, tickets);
                Ok(())
            }
            Request::AddSubscriber(add) => self.add_subscriber(*add),
            Request::RemoveSubscriber(slot) => self.broadcast(Command::RemoveSubscriber(slot)).map(|_| ()),
            Request::Ruleset(fd) => self.ruleset(fd),
            Request::StopPort(name) => self.set_port("stopped", &name, PortDesk::stop),
            Request::StartPort(name) => self.set_port("started", &name, PortDesk::start),
            Request::DropLane(worker, to) => {
                self.ports.drop_lane(worker, to);
                Ok(())
            }
            Request::AttachFilter(name) => self.set_filter("attached", &name, Filters::attach),
            Request::DetachFilter(name) => self.set_filter("detached", &name, Filters::detach),
            Request::Restore(part) => self.tell_owner(part.shard.get(), Command::Restore(*part)),
            Request::Again(again) => self.tell_owner(again.identity.shard.get(), Command::Again(*again)),
            Request::Port(_)
            | Request::Lane(_)
            | Request::Filter(_)
            | Request::ConnectLane(_)
            | Request::Tap(_)
            | Request::Denied(_) => {
                Err(Refusal::never("what is asked for is answered by what it is, and by nothing else"))
            }
        }
    }

    fn set_port(
        &mut self,
        what: &str,
        name: &str,
        change: fn(&mut PortDesk, &str) -> Result<(), PortError>,
    ) -> Result<(), Refusal> {
        change(&mut self.ports, name).map_err(|PortError(text)| Refusal::never(text))?;
        self.voice.say("port", &format!("{name} was {what} by control"), &[("port", json!(name))]);
        Ok(())
    }

    fn set_filter(
        &mut self,
        what: &str,
        name: &str,
        change: fn(&mut Filters, &str) -> Result<(), String>,
    ) -> Result<(), Refusal> {
        change(&mut self.filters, name).map_err(Refusal::never)?;
        let text = format!("the pre-filter of {name} was {what} by control");
        self.voice.say("prefilter", &text, &[("interface", json!(name))]);
        Ok(())
    }

    fn deny(&mut self, fd: &OwnedFd) -> Result<(), Refusal> {
        let list = Prefix::unseal(fd).map_err(|error| Refusal::never(error.to_string()))?;
        self.filters.deny(&list).map_err(Refusal::never)
    }

    /// Filters hear of a session before workers do, or they would drop its first frames.
    fn open_session(&mut self, open: &OpenSession) -> Result<(), Refusal> {
        if !self.desks.iter().all(Desk::has_room) {
            return Err(Refusal::busy());
        }
        self.filters.open_session(open).map_err(Refusal::never)?;
        self.broadcast(Command::OpenSession(*open)).map(|_| ())
    }

    /// To every worker or to none; their tickets.
    fn broadcast(&mut self, command: Command) -> Result<Vec<u64>, Refusal> {
        if !self.desks.iter().all(Desk::has_room) {
            return Err(Refusal::busy());
        }
        // There is room: only this thread fills the rings.
        Ok(self.desks.iter_mut().filter_map(|desk| desk.send(Item::Command(command))).collect())
    }

    /// To the worker that has a shard.
    fn tell_owner(&mut self, shard: u16, command: Command) -> Result<(), Refusal> {
        let (shards, workers) = (self.hello.shard_count, self.hello.workers);
        if shard >= shards {
            return Err(Refusal::never(format!("there is no shard {shard} of {shards}")));
        }
        let desk = self.desks.get_mut(usize::from(topology::owner(shard, workers)));
        desk.and_then(|desk| desk.send(Item::Command(command))).map(|_| ()).ok_or_else(Refusal::busy)
    }

    fn add_subscriber(&mut self, add: AddSubscriber) -> Result<(), Refusal> {
        let (slot, slots, worker) = (add.slot.get(), self.hello.subscribers_max, add.worker.get());
        if slot >= slots {
            return Err(Refusal::never(format!("slot {slot} is none of {slots}; raise limits.subscribers_max")));
        }
        let Some(desk) = self.desks.get_mut(usize::from(worker)) else {
            return Err(Refusal::never(format!("there is no worker {worker}")));
        };
        // Once per worker, but only the first time is there anything to find out.
        self.ports.want(IpAddr::from(add.endpoint.ip).to_canonical());
        desk.send(Item::Command(Command::AddSubscriber(add))).map(|_| ()).ok_or_else(Refusal::busy)
    }

    /// Checks a ruleset, brings it into force and stores it as the last good one; whatever is wrong with it, the old one
    /// stays.
    fn ruleset(&mut self, fd: OwnedFd) -> Result<(), Refusal> {
        let adopt = || SealedImage::adopt(&fd).map_err(|error| Refusal::never(error.to_string()));
        // Once for the workers, and once more to store it: a verified image no longer gives its bytes away.
        let (sealed, bytes) = (adopt()?, adopt()?);
        let image = check_image(sealed, &self.hello).map_err(Refusal::never)?;
        let (new, old) = (image.version(), self.current.as_ref().map_or(0, |image| image.version()));
        if new <= old {
            return Err(Refusal::never(format!("ruleset {new} is not newer than {old}, which is in force")));
        }
        if !self.desks.iter().all(Desk::has_room) {
            return Err(Refusal::busy());
        }
        self.bring_in(&image).map_err(|text| Refusal(Accepted::Busy, text))?;
        self.current = Some(image);
        self.voice.say("ruleset", &format!("version {new} replaces {old}"), &[("version", json!(new))]);
        if let Err(error) = self.state.store_last_good(bytes.as_ref()) {
            let text = format!("the next start will not have ruleset {new}: {error:#}");
            self.voice.say("degraded", &text, &[]);
        }
        Ok(())
    }

    /// Hands an image to every worker, between two changes of the filters, so that these never drop what a worker allows.
    ///
    /// # Errors
    /// A filter cannot let its topics pass; then nobody has it.
    pub(crate) fn bring_in(&mut self, image: &Image) -> Result<(), String> {
        self.filters.widen(image)?;
        let tickets = self.desks.iter_mut().filter_map(|desk| desk.send(Item::Image(image.clone()))).collect();
        self.filters.narrow(image, tickets);
        Ok(())
    }

    /// Takes what the workers sent, and moves leases.
    fn collect(&mut self) {
        for (worker, desk) in self.desks.iter_mut().enumerate() {
            while desk.retired.pop().is_ok() {} // the last clone to go unmaps the image, here
            while let Ok(demand) = desk.demands.pop() {
                self.leases.demand(worker, demand);
            }
            while let Ok(entry) = desk.quarantine.pop() {
                self.quarantined += 1;
                self.quarantined_last = Some(entry);
            }
        }
        let rules = self.current.as_ref().map(|image| image.ruleset());
        let period = |sender| rules.and_then(|rules| rules.sender(sender)).map_or(0, |rule| rule.period.get());
        self.leases.step(period, &mut self.desks);
        if self.quarantine_told.elapsed() >= QUARANTINE_EVERY
            && let Some((message, reason)) = self.quarantined_last.take()
        {
            self.tell_quarantine(&message, reason);
        }
    }

    fn tell_quarantine(&mut self, message: &Message, reason: u8) {
        let code = Reason::from_number(reason).map_or("?", Reason::code);
        let (topic, sender) = (message.topic_id.get(), message.sender_id.get());
        let text = format!("{} messages; the last: topic {topic}, sender {sender}, {code}", self.quarantined);
        self.voice.say("quarantine", &text, &[("count", json!(self.quarantined)), ("reason", json!(code))]);
        self.quarantined = 0;
        self.quarantine_told = Instant::now();
    }

    /// Looks after the workers' threads, and says how they are.
    pub(crate) fn supervise(&mut self) {
        for worker in 0..self.desks.len() {
            if let Some(thread) = self.desks[worker].thread.take_if(|thread| thread.is_finished()) {
                self.note_end(worker, thread);
            }
            let restarts = self.desks[worker].gauges.restarts.load(Ordering::Relaxed);
            if core::mem::replace(&mut self.desks[worker].restarts_told, restarts) != restarts {
                let text = format!("worker {worker} panicked and goes on, {restarts} times by now");
                self.voice.say("panic", &text, &[("restarts", json!(restarts))]);
            }
            self.publish_status(worker);
        }
    }

    fn note_end(&mut self, worker: usize, thread: JoinHandle<End>) {
        self.desks[worker].state = WorkerState::Down;
        if let End::Panicked(text) = thread.join().unwrap_or_else(|_| End::Panicked("outside of its loop".into())) {
            self.voice.say("panic", &format!("worker {worker} panicked and its shards are down: {text}"), &[]);
        }
        self.publish_status(worker);
    }

    fn publish_status(&self, worker: usize) {
        let desk = &self.desks[worker];
        let heap_calls = desk.gauges.heap_calls.load(Ordering::Relaxed);
        let restarts = desk.gauges.restarts.load(Ordering::Relaxed);
        if let Ok(number) = u16::try_from(worker) {
            self.segment.set_status(number, WorkerStatus { state: desk.state, restarts, heap_calls });
        }
    }
}

/// Answers a request.
fn answer(connection: &Connection, number: u32, result: Result<(), Refusal>) -> io::Result<()> {
    let Refusal(accepted, text) = result.err().unwrap_or(Refusal(Accepted::Yes, String::new()));
    connection.reply(&Reply { number, accepted, text })
}

/// Whether an image is a ruleset that this node can serve.
pub(crate) fn check_image(sealed: SealedImage, hello: &Hello) -> Result<Image, String> {
    let header = ImageHeader::ref_from_prefix(sealed.as_ref()).map(|(header, _)| *header).ok();
    let image = tachyon_policy::verify(sealed, hello.shard_count).map_err(|error| format!("ruleset: {error}"))?;
    let header = header.ok_or("ruleset: no header")?;
    for (what, has, max, key) in [
        ("topic slots", header.topic_slots.get(), hello.topics_max, "topics_max"),
        ("sender slots", header.sender_slots.get(), hello.senders_max, "senders_max"),
        ("targets", header.targets.get(), hello.targets_max, "targets_max"),
    ] {
        if has > max {
            return Err(format!("ruleset: {has} {what}, this node has room for {max}; raise limits.{key}"));
        }
    }
    let rules = image.ruleset();
    let routes = (0..header.routes.get()).filter_map(|route| rules.route(route));
    let highest = routes.flat_map(|(_, targets)| targets).map(|slot| slot.get()).max();
    match highest {
        Some(slot) if slot >= hello.subscribers_max => Err(format!(
            "ruleset: subscriber slot {slot}, this node has {}; raise limits.subscribers_max",
            hello.subscribers_max
        )),
        _ => Ok(Arc::new(image)),
    }
}

#[cfg(test)]
mod tests;
