//! The state, and what happens around it by itself: rulesets are published, the connection is kept up.
//!
//! Many changes that come together become one ruleset: whoever changes something waits until a ruleset that includes it
//! is in force, and the publisher takes all changes that are there when it starts.

use crate::{
    refusal::Refusal,
    registry::Change,
    routes::RouteTable,
    ruleset::{Limits, Plan},
    state::State,
};
use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tachyon_policy::{compile::compile, verify};
use tachyon_segment::{
    handover::{ControlEnd, Request},
    seal_image,
};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

/// How long changes are collected before a ruleset is compiled: what a person does not notice, and long enough for calls
/// that were sent together.
const COLLECT: Duration = Duration::from_millis(2);
/// Longest wait for a ruleset to come into force: a million topics compile in a few seconds.
const IN_FORCE_PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait for one reply of `tachyond`, which verifies up to 128 MiB before it answers, or fills a table of a million
/// denied prefixes for each of its filters.
const REPLY_PATIENCE: Duration = Duration::from_secs(15);
/// First and longest pause between attempts to connect.
const BACKOFF: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// How often the connection is looked at: a restarted node has its sessions again this much later.
const LOOK: Duration = Duration::from_millis(50);
/// How often ended processes are looked for.
const REAP: Duration = Duration::from_secs(1);

/// How far publishing has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// Changes up to this one were tried.
    pub(crate) change: u64,
    /// Version that `tachyond` accepted last; 0 = none.
    pub(crate) version: u64,
    /// Why the last attempt did not succeed; empty if it did.
    pub(crate) problem: String,
    /// Whether what stood against it may be over without anything being changed here.
    pub(crate) may_pass: bool,
}

/// The whole of control, shared by all calls.
#[derive(Debug)]
pub(crate) struct Control {
    state: Mutex<State>,
    /// Held while a ruleset is compiled and offered, so that versions come into force in their order.
    publishing: Mutex<()>,
    changed: Notify,
    published: watch::Sender<Published>,
}

impl Control {
    /// Nothing runs yet: see [`Control::run`].
    #[must_use]
    pub(crate) fn new(state: State) -> Arc<Self> {
        let published = watch::Sender::new(Published::default());
        Arc::new(Self { state: Mutex::new(state), publishing: Mutex::new(()), changed: Notify::new(), published })
    }

    /// The state. Each change of it is whole, so that a call that panicked leaves nothing half done behind its lock.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far publishing has come.
    #[must_use]
    pub(crate) fn published(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Runs `work` on the state, on a thread that may block.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) async fn with_state<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut State) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let control = self.clone();
        self.blocking(move || work(&mut control.state())).await
    }

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let broken = |error| Refusal::Internal(format!("the call ended unexpectedly: {error}; see the log"));
        spawn_blocking(work).await.map_err(broken)?
    }

    /// Waits until a ruleset that includes this change is in force; gives its version.
    ///
    /// # Errors
    /// `tachyond` is not there, did not take it, or takes too long.
    pub(crate) async fn in_force(&self, change: u64) -> Result<u64, Refusal> {
        let mut published = self.published.subscribe();
        self.changed.notify_one();
        let waited = timeout(IN_FORCE_PATIENCE, published.wait_for(|published| published.change >= change)).await;
        match waited {
            Ok(Ok(published)) if published.problem.is_empty() => Ok(published.version),
            Ok(Ok(published)) => Err(Refusal::Unavailable(published.problem.clone())),
            Ok(Err(_)) | Err(_) => {
                Err(Refusal::Unavailable("no ruleset came into force in time; see `tachyon status`".to_owned()))
            }
        }
    }

    /// Ends what has a thread of its own: the truth log, in good order.
    pub(crate) fn end(&self) {
        let log = self.state().log.take();
        drop(log);
    }

    /// Keeps the connection up and rulesets published. Ends only with its runtime.
    pub(crate) async fn run(self: Arc<Self>, socket: PathBuf) {
        tokio::join!(self.clone().keep_connected(socket), self.clone().keep_published(), self.keep_clean());
    }

    async fn keep_published(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            sleep(COLLECT).await;
            let control = self.clone();
            if let Err(error) = spawn_blocking(move || control.publish()).await {
                warn!("publishing ended unexpectedly: {error}");
            }
        }
    }

    async fn keep_clean(self: Arc<Self>) {
        loop {
            sleep(REAP).await;
            let reaped = self.with_state(|state| state.reap().map(|()| (state.change, state.link.is_some()))).await;
            let published = self.published();
            match reaped {
                Ok((change, linked)) if change > published.change || (published.may_pass && linked) => {
                    self.changed.notify_one();
                }
                Ok(_) => {}
                Err(refusal) => warn!("{}", refusal.text()),
            }
        }
    }

    async fn keep_connected(self: Arc<Self>, socket: PathBuf) {
        let mut pause = BACKOFF[0];
        loop {
            let (control, path) = (self.clone(), socket.clone());
            let attached = self.blocking(move || control.connect(&path)).await;
            match attached {
                Ok(()) => {
                    pause = BACKOFF[0];
                    self.changed.notify_one();
                    while self.with_state(|state| Ok(state.look_after_link())).await == Ok(true) {
                        sleep(LOOK).await;
                    }
                }
                Err(refusal) => {
                    debug!("{}", refusal.text());
                    sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF[1]);
                }
            }
        }
    }

    pub(crate) fn connect(&self, socket: &std::path::Path) -> Result<(), Refusal> {
        let node_uids = self.state().config.node_uids.clone();
        let connected = ControlEnd::connect(socket, &node_uids, REPLY_PATIENCE);
        let (end, hello, stats) = connected.map_err(|error| {
            let problem = format!("{}: {error}", socket.display());
            self.state().set_link_problem(problem.clone());
            Refusal::Unavailable(problem)
        })?;
        // A ruleset may be offered on the way, and versions come into force in their order.
        let _publishing = self.hold_publishing();
        let mut state = self.state();
        let offered = state.attach(end, hello, stats).inspect_err(|refusal| state.lose(refusal.text()))?;
        match offered {
            Some(version) => self.tell(state.change, Ok(version)),
            // Whatever an earlier start had in force.
            None => {
                let version = state.node()?.hello.ruleset_version;
                self.published.send_modify(|published| published.version = version);
            }
        }
        Ok(())
    }

    /// Compiles and offers a ruleset with all changes so far, and tells those who wait.
    fn publish(&self) {
        let _publishing = self.hold_publishing();
        let change = self.state().change;
        let before = self.published();
        if change > before.change || !before.problem.is_empty() {
            self.tell(change, self.try_publish());
        }
    }

    fn try_publish(&self) -> Result<u64, Refusal> {
        let (plan, ending) = {
            let state = self.state();
            state.node()?;
            if state.in_force.is_none() {
                return Ok(0);
            }
            let ending: Vec<u32> = state.subscribers.values().filter(|s| s.ending).map(|s| s.slot).collect();
            (state.plan()?, ending)
        };
        let version = self.offer(plan)?;
        self.state().remove_subscribers(&ending)?;
        Ok(version)
    }

    /// Has the publisher look whether there is something to publish.
    pub(crate) fn poke(&self) {
        self.changed.notify_one();
    }

    /// Held by whoever compiles and offers.
    pub(crate) fn hold_publishing(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, change: u64, outcome: Result<u64, Refusal>) {
        self.published.send_modify(|published| {
            published.change = published.change.max(change);
            match outcome {
                Ok(version) => {
                    published.version = version;
                    published.problem.clear();
                    published.may_pass = false;
                }
                Err(refusal) => {
                    if published.problem != refusal.text() {
                        warn!("no new ruleset: {}", refusal.text());
                    }
                    published.problem = refusal.text().to_owned();
                    published.may_pass =
                        matches!(refusal, Refusal::Busy(_) | Refusal::Unavailable(_) | Refusal::Internal(_));
                }
            }
        });
    }

    /// Gives a plan the next version, compiles it and offers it. The caller holds `publishing`.
    pub(crate) fn offer(&self, plan: Plan) -> Result<u64, Refusal> {
        let numbered = self.state().next_version()?;
        let offer = Offer::new(plan, numbered)?;
        self.state().put_in_force(offer)
    }
}

/// A compiled ruleset that was not offered yet.
pub(crate) struct Offer {
    version: u64,
    topics: usize,
    image: Vec<u8>,
    sealed: OwnedFd,
    routes: RouteTable,
}

impl Offer {
    /// Compiles a plan, which takes seconds where there are a million topics.
    ///
    /// # Errors
    /// It breaks the limits, or there is no memory for it.
    pub(crate) fn new(mut plan: Plan, (version, limits): (u64, Limits)) -> Result<Self, Refusal> {
        plan.check(limits).map_err(Refusal::Exhausted)?;
        plan.source.version = version;
        let (image, routes) = image_of(&plan)?;
        let sealed =
            seal_image(&image).map_err(|error| Refusal::Internal(format!("no memory for the image: {error}")))?;
        Ok(Self { version, topics: plan.source.topics.len(), image, sealed, routes })
    }
}

impl State {
    /// The next version, which is never given out again, and the limits that its ruleset has to keep.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub(crate) fn next_version(&mut self) -> Result<(u64, Limits), Refusal> {
        let version = self.version + 1;
        self.registry.commit(&[Change::Version(version)])?;
        self.version = version;
        Ok((version, Limits::of(self.link.as_ref().map(|link| &*link.hello))))
    }

    /// Hands a ruleset to the log and to `tachyond`; gives its version. Versions only rise, so nobody else may be between
    /// [`State::next_version`] and this call.
    ///
    /// # Errors
    /// `tachyond` is not there, or does not take it.
    pub(crate) fn put_in_force(&mut self, offer: Offer) -> Result<u64, Refusal> {
        let Offer { version, topics, image, sealed, routes } = offer;
        if let Some(log) = &self.log {
            log.ruleset(version, &image);
        }
        self.call(&Request::Ruleset(sealed))?;
        self.routes = Arc::new(routes);
        info!(version, topics, bytes = image.len(), "ruleset in force");
        Ok(version)
    }
}

/// Compiles, and reads back what was compiled, so that nothing is offered that a node would refuse.
pub(crate) fn image_of(plan: &Plan) -> Result<(Vec<u8>, RouteTable), Refusal> {
    let image =
        compile(&plan.source).map_err(|error| Refusal::Exhausted(format!("the rules do not compile: {error}")))?;
    let verified = verify(&image, plan.source.shard_count)
        .map_err(|error| Refusal::Internal(format!("the compiled image is not valid: {error:?}")))?;
    let routes = RouteTable::new(&verified.ruleset());
    Ok((image, routes))
}
