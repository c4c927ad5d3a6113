//! The calls of the interface: from a request to the state and back.

use crate::{
    apply::Outcome,
    control::Control,
    deny_list::written,
    lanes::{Holder, Told},
    record::Way,
    refusal::Refusal,
    report::{self, Reading},
    sessions::SessionWish,
    state::{Caller, State},
    subscribers::SubscriberWish,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tachyon_config::Diagnostic;
use tachyon_proto::v1::{self, control_server};
use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};

/// Most topics that one answer lists: what a ruleset holds at full speed.
const TOPICS_LISTED: usize = 65_536;
/// Longest rules file: some 100,000 lines. Beyond it something else was given by mistake.
const RULES_BYTES_MAX: usize = 4 << 20;
/// How long a subscriber's removal is waited for.
const REMOVED_PATIENCE: Duration = Duration::from_secs(5);

/// How long a lane is waited for that is being taken down before it can be agreed on again, and the pause between two looks.
const LANE_PATIENCE: Duration = Duration::from_secs(2);
const LANE_PAUSE: Duration = Duration::from_millis(5);

type Answer<T> = Result<Response<T>, Status>;

/// The interface, served to anyone who may open the socket; each call is held against the caller's Unix user.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    control: Arc<Control>,
    started: Instant,
}

impl Service {
    /// Serves `control`.
    #[must_use]
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self { control, started: Instant::now() }
    }

    async fn reading(&self) -> Result<Reading, Refusal> {
        let control = self.control.clone();
        let read = move || {
            let (hello, stats) = {
                let state = control.state();
                let node = state.node()?;
                (node.hello.clone(), node.stats.clone())
            };
            Reading::take(hello, &stats)
        };
        self.control.blocking(read).await
    }

    async fn resolved(
        &self,
        caller: Caller,
        identity: String,
        names: Vec<String>,
    ) -> Result<(Vec<v1::Topic>, u64), Refusal> {
        let topics = names.clone();
        let (ids, change) = self.control.with_state(move |state| state.resolve(caller, &identity, &names)).await?;
        let version = self.control.in_force(change).await?;
        let topic = |(name, topic_id)| v1::Topic { name, topic_id };
        Ok((topics.into_iter().zip(ids).map(topic).collect(), version))
    }
}

#[tonic::async_trait]
impl control_server::Control for Service {
    async fn open_session(&self, request: Request<v1::OpenSessionRequest>) -> Answer<v1::OpenSessionResponse> {
        let caller = caller(&request)?;
        let v1::OpenSessionRequest { identity, publish_topics, tags, pinned_address, detached, lane } =
            request.into_inner();
        let way = way(lane)?;
        let mut topics = Vec::new();
        if !publish_topics.is_empty() {
            let (claimed, names) = (identity.clone(), publish_topics.clone());
            self.control.with_state(move |state| may_publish(state, caller, &claimed, &names)).await?;
            topics = self.resolved(caller, identity.clone(), publish_topics).await?.0;
        }
        let wish = SessionWish { tags, pinned: pinned_address, detached, way };
        let opened = self.control.with_state(move |state| {
            let session = state.open_session(caller, &identity, &wish)?;
            Ok((session, state.node()?.hello.clone(), state.frame_bytes_max(way)?))
        });
        let (session, hello, frame_bytes_max) = opened.await?;
        let epoch = u32::from(hello.boot_number) << 16;
        Ok(Response::new(v1::OpenSessionResponse {
            session_id: session.session_id,
            reply_session_id: session.reply_session_id,
            master_key: session.master.0.to_vec(),
            reply_master_key: session.reply_master.0.to_vec(),
            epoch,
            reply_epoch: epoch,
            shard_count: hello.shard_count.into(),
            base_port: hello.listen.port.get().into(),
            addresses: report::addresses(&hello),
            sender_low: session.sender_low,
            sender_high: session.sender_high,
            class_cap: session.class_cap.into(),
            frame_bytes_max,
            topics,
            system: session.system,
            tag_required: session.tag_required,
        }))
    }

    async fn close_session(&self, request: Request<v1::CloseSessionRequest>) -> Answer<v1::CloseSessionResponse> {
        let caller = caller(&request)?;
        let session_id = request.into_inner().session_id;
        self.control.with_state(move |state| state.close_session(caller, session_id)).await?;
        Ok(Response::new(v1::CloseSessionResponse {}))
    }

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Answer<v1::SubscribeResponse> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let way = way(request.lane)?;
        known::<v1::SlowSubscriber>("slow-subscriber policy", request.slow_subscriber)?;
        let identity = request.identity;
        let wish = SubscriberWish {
            topics: request.topics,
            address: request.address,
            base_port: request.base_port,
            credit: request.credit,
            tagged: request.tagged,
            frame_bytes_max: request.frame_bytes_max,
            detached: request.detached,
            way,
            falls_back: request.fall_back,
        };
        let subscribed = self.control.with_state(move |state| {
            let (subscriber, change) = state.subscribe(caller, &identity, wish)?;
            let topics = state.topics_of(&subscriber);
            Ok((subscriber, change, topics, state.node()?.hello.clone()))
        });
        let (subscriber, change, topics, hello) = subscribed.await?;
        if let Err(refusal) = self.control.in_force(change).await {
            // Nothing is half done: who is told "no" has no subscription.
            let undone = self.control.with_state(move |state| state.unsubscribe(caller, subscriber.slot)).await;
            undone.map(|_| ()).unwrap_or_default();
            return Err(refusal.into());
        }
        let epoch = u32::from(hello.boot_number) << 16;
        let sessions = subscriber.egress.iter().zip(0..).map(|((session_id, master), worker)| v1::EgressSession {
            worker,
            session_id: *session_id,
            master_key: master.0.to_vec(),
            epoch,
        });
        let topics_matched = u32::try_from(topics.len()).unwrap_or(u32::MAX);
        let topic = |(topic_id, name)| v1::Topic { name, topic_id };
        Ok(Response::new(v1::SubscribeResponse {
            subscriber: subscriber.slot,
            sessions: sessions.collect(),
            shard_count: hello.shard_count.into(),
            topics: topics.into_iter().take(TOPICS_LISTED).map(topic).collect(),
            topics_matched,
            frame_bytes_max: subscriber.frame_bytes_max,
            credit: subscriber.credit,
        }))
    }

    async fn unsubscribe(&self, request: Request<v1::UnsubscribeRequest>) -> Answer<v1::UnsubscribeResponse> {
        let caller = caller(&request)?;
        let slot = request.into_inner().subscriber;
        let change = self.control.with_state(move |state| state.unsubscribe(caller, slot)).await?;
        // Without a node it ends when the node comes back; the caller need not wait for that.
        let waited = tokio::time::timeout(REMOVED_PATIENCE, self.control.in_force(change)).await;
        drop(waited);
        Ok(Response::new(v1::UnsubscribeResponse {}))
    }

    async fn resolve_topics(&self, request: Request<v1::ResolveTopicsRequest>) -> Answer<v1::ResolveTopicsResponse> {
        let caller = caller(&request)?;
        let v1::ResolveTopicsRequest { identity, names } = request.into_inner();
        let (topics, ruleset_version) = self.resolved(caller, identity, names).await?;
        Ok(Response::new(v1::ResolveTopicsResponse { topics, ruleset_version }))
    }

    async fn check_rules(&self, request: Request<v1::CheckRulesRequest>) -> Answer<v1::CheckRulesResponse> {
        let v1::CheckRulesRequest { text, file_name } = request.into_inner();
        limit_rules(&text)?;
        let control = self.control.clone();
        let outcome = self.control.blocking(move || control.check_rules(&text, &file_name)).await?;
        let Outcome { problems, warnings, summary, .. } = outcome;
        let (problems, warnings) = (all(&problems), all(&warnings));
        Ok(Response::new(v1::CheckRulesResponse { problems, warnings, summary: Some(summary) }))
    }

    async fn apply_rules(&self, request: Request<v1::ApplyRulesRequest>) -> Answer<v1::ApplyRulesResponse> {
        let caller = caller(&request)?;
        let v1::ApplyRulesRequest { text, file_name } = request.into_inner();
        limit_rules(&text)?;
        let control = self.control.clone();
        let apply = move || {
            if !control.state().is_admin(caller) {
                let text = format!("user {} may not apply rules; add it to admin_uids in the control file", caller.uid);
                return Err(Refusal::Denied(text));
            }
            control.apply_rules(&text, &file_name)
        };
        let Outcome { problems, warnings, summary, version } = self.control.blocking(apply).await?;
        Ok(Response::new(v1::ApplyRulesResponse {
            accepted: problems.is_empty(),
            problems: all(&problems),
            warnings: all(&warnings),
            summary: Some(summary),
            in_force: version > 0,
            version,
        }))
    }

    async fn show_rules(&self, _: Request<v1::ShowRulesRequest>) -> Answer<v1::ShowRulesResponse> {
        let shown = self.control.with_state(|state| {
            let rules = state.in_force.as_ref().map(|rules| rules.text.clone());
            Ok((rules, state.version))
        });
        let (rules, version) = shown.await?;
        let response = rules.map(|rules| v1::ShowRulesResponse {
            text: rules.text,
            file_name: rules.file_name,
            version,
            applied_unix_s: rules.applied_unix_s,
        });
        Ok(Response::new(response.unwrap_or_default()))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let published = self.control.published();
        let mut status = self.control.with_state(|state| Ok(status(state))).await?;
        status.control_uptime_s = self.started.elapsed().as_secs();
        if status.connected {
            status.ruleset_in_force = status.ruleset_in_force.max(published.version);
            status.ruleset_problem = published.problem;
            match self.reading().await {
                Ok(reading) => status.ledgers = Some(reading.ledgers()),
                Err(refusal) => status.degraded.push(refusal.text().to_owned()),
            }
        }
        Ok(Response::new(status))
    }

    async fn drops(&self, _: Request<v1::DropsRequest>) -> Answer<v1::DropsResponse> {
        let reading = self.reading().await?;
        // The node's own counts are worth having where the filters cannot be asked for.
        let filters = self.control.with_state(|state| Ok(state.filters().unwrap_or_default())).await?;
        Ok(Response::new(reading.drops(&filters)))
    }

    async fn stats(&self, _: Request<v1::StatsRequest>) -> Answer<v1::StatsResponse> {
        let reading = self.reading().await?;
        let routes = self.control.with_state(|state| {
            let table = state.routes.clone();
            // Counters are worth having where the lanes cannot be asked for; routes then name what was asked for.
            let seen = state.look_at_lanes(Instant::now()).unwrap_or_default();
            Ok(report::route_names(state, &table, &seen))
        });
        Ok(Response::new(reading.stats(routes.await?)))
    }

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Answer<v1::ListPortsResponse> {
        let listed = self.control.with_state(|state| Ok((state.ports()?, state.node()?.hello.clone())));
        let (ports, hello) = listed.await?;
        let ports = ports.into_iter().map(report::port).collect();
        Ok(Response::new(v1::ListPortsResponse { ports, boot_id: report::boot_id(&hello) }))
    }

    async fn set_port(&self, request: Request<v1::SetPortRequest>) -> Answer<v1::SetPortResponse> {
        let caller = caller(&request)?;
        let v1::SetPortRequest { name, running } = request.into_inner();
        self.control.with_state(move |state| state.set_port(caller, &name, running)).await?;
        Ok(Response::new(v1::SetPortResponse {}))
    }

    async fn connect_lane(&self, request: Request<v1::ConnectLaneRequest>) -> Answer<v1::ConnectLaneResponse> {
        use v1::connect_lane_request::Owner;
        let caller = caller(&request)?;
        let v1::ConnectLaneRequest { owner, worker, details } = request.into_inner();
        let holder = match owner {
            Some(Owner::SessionId(id)) => Holder::Session(id),
            Some(Owner::Subscriber(slot)) => Holder::Subscriber(slot),
            None => return Err(Status::invalid_argument("nobody's lane; name a session_id or a subscriber")),
        };
        let end = Instant::now() + LANE_PATIENCE;
        let (details, workers) = loop {
            let theirs = details.clone();
            let connected = self.control.with_state(move |state| state.connect_lane(caller, holder, worker, &theirs));
            match connected.await {
                Err(Refusal::Busy(_)) if Instant::now() < end => tokio::time::sleep(LANE_PAUSE).await,
                connected => break connected?,
            }
        };
        Ok(Response::new(v1::ConnectLaneResponse { details: details.to_vec(), workers: workers.into() }))
    }

    async fn list_lanes(&self, request: Request<v1::ListLanesRequest>) -> Answer<v1::ListLanesResponse> {
        use v1::list_lanes_request::Owner;
        let caller = caller(&request)?;
        let of = request.into_inner().owner.map(|owner| match owner {
            Owner::SessionId(id) => Holder::Session(id),
            Owner::Subscriber(slot) => Holder::Subscriber(slot),
        });
        let told = self.control.with_state(move |state| state.lanes(caller, of, Instant::now())).await?;
        Ok(Response::new(v1::ListLanesResponse { lanes: told.into_iter().map(lane_status).collect() }))
    }

    async fn list_filters(&self, _: Request<v1::ListFiltersRequest>) -> Answer<v1::ListFiltersResponse> {
        let filters = self.control.with_state(State::filters).await?;
        Ok(Response::new(v1::ListFiltersResponse { filters: filters.iter().map(report::filter).collect() }))
    }

    async fn set_filter(&self, request: Request<v1::SetFilterRequest>) -> Answer<v1::SetFilterResponse> {
        let caller = caller(&request)?;
        let v1::SetFilterRequest { interface, attached } = request.into_inner();
        self.control.with_state(move |state| state.set_filter(caller, &interface, attached)).await?;
        Ok(Response::new(v1::SetFilterResponse {}))
    }

    async fn list_denied(&self, request: Request<v1::ListDeniedRequest>) -> Answer<v1::ListDeniedResponse> {
        let after = request.into_inner().after;
        let page = self.control.with_state(move |state| state.denied(&after)).await?;
        let entry = |(prefix, by_operator, by_rules)| v1::DeniedPrefix { prefix, by_operator, by_rules };
        Ok(Response::new(v1::ListDeniedResponse {
            denied: page.denied.into_iter().map(entry).collect(),
            total: number(page.total),
            more: page.more,
            in_force: page.problem.is_empty(),
            problem: page.problem,
        }))
    }

    async fn change_denied(&self, request: Request<v1::ChangeDeniedRequest>) -> Answer<v1::ChangeDeniedResponse> {
        let caller = caller(&request)?;
        let v1::ChangeDeniedRequest { add, remove } = request.into_inner();
        let told = self.control.with_state(move |state| state.change_denied(caller, &add, &remove)).await?;
        Ok(Response::new(v1::ChangeDeniedResponse {
            added: number(told.changed.added),
            removed: number(told.changed.removed),
            already: told.changed.already.iter().map(written).collect(),
            missing: told.changed.missing.iter().map(written).collect(),
            still_denied: told.still_denied,
            total: number(told.total),
            in_force: told.in_force,
        }))
    }
}

/// Who calls, as the kernel says.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let info = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let credentials = info.ok_or_else(|| Status::unauthenticated("the socket tells no peer credentials"))?;
    Ok(Caller { uid: credentials.uid(), pid: credentials.pid() })
}

/// Refuses values that a later version of the interface may know. Every one that this version knows is supported.
fn known<T: TryFrom<i32>>(what: &str, value: i32) -> Result<(), Refusal> {
    let unknown =
        |_| Refusal::Invalid(format!("this version knows no {what} {value}; see the interface's .proto file"));
    T::try_from(value).map(|_| ()).map_err(unknown)
}

/// The way of a lane that a caller asks for.
fn way(lane: i32) -> Result<Way, Refusal> {
    known::<v1::Lane>("lane", lane)?;
    Ok(match v1::Lane::try_from(lane) {
        Ok(v1::Lane::RdmaDatagram) => Way::Datagram,
        Ok(v1::Lane::RdmaConnection) => Way::Connection,
        Ok(v1::Lane::RdmaRing) => Way::Ring,
        Ok(v1::Lane::Unspecified | v1::Lane::Udp) | Err(_) => Way::Udp,
    })
}

fn lane_status(told: Told) -> v1::LaneStatus {
    use v1::lane_status::Owner;
    let lane = match told.way {
        Way::Udp => v1::Lane::Udp,
        Way::Datagram => v1::Lane::RdmaDatagram,
        Way::Connection => v1::Lane::RdmaConnection,
        Way::Ring => v1::Lane::RdmaRing,
    };
    v1::LaneStatus {
        worker: told.worker.into(),
        owner: told.holder.map(|holder| match holder {
            Holder::Session(id) => Owner::SessionId(id),
            Holder::Subscriber(slot) => Owner::Subscriber(slot),
        }),
        endpoint: told.to.to_string(),
        lane: lane.into(),
        state: told.state.to_owned(),
        why: told.why,
        attempts: told.attempts,
        fell_back: told.fell_back,
    }
}

fn may_publish(state: &State, caller: Caller, identity: &str, names: &[String]) -> Result<(), Refusal> {
    let rules = state.rules()?;
    let claimed = state.claim(caller, &rules, identity)?;
    let denied = names.iter().find(|name| !crate::ruleset::any_matches(&claimed.publish, name));
    let refuse =
        |name| Refusal::Denied(format!("identity `{identity}` may not publish on `{name}`; grant it in the rules"));
    denied.map_or(Ok(()), |name| Err(refuse(name)))
}

fn limit_rules(text: &str) -> Result<(), Refusal> {
    let len = text.len();
    let over = || Refusal::Invalid(format!("a rules file of {len} bytes, at most {RULES_BYTES_MAX}"));
    if len > RULES_BYTES_MAX { Err(over()) } else { Ok(()) }
}

fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn status(state: &State) -> v1::StatusResponse {
    let hello = state.link.as_ref().map(|link| &*link.hello);
    v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        connected: hello.is_some(),
        connection_problem: if hello.is_some() { String::new() } else { state.link_problem.clone() },
        node: hello.map(report::node),
        ruleset_version: state.version,
        ruleset_in_force: hello.map_or(0, |hello| hello.ruleset_version),
        topics: number(state.topics.len()),
        sessions: number(state.sessions.values().filter(|session| !session.ending).count()),
        subscribers: number(state.subscribers.values().filter(|subscriber| !subscriber.ending).count()),
        identities: number(state.in_force.as_ref().map_or(0, |rules| rules.rules.identities.len())),
        log: state.log.as_ref().map(crate::log::Log::status),
        degraded: hello.iter().flat_map(|hello| hello.degraded.clone()).chain(state.denied_degraded()).collect(),
        ..v1::StatusResponse::default()
    }
}

fn all(diagnostics: &[Diagnostic]) -> Vec<v1::Problem> {
    let problem = |diagnostic: &Diagnostic| v1::Problem {
        line: diagnostic.line,
        column: diagnostic.column,
        message: diagnostic.message.clone(),
        help: diagnostic.help.clone(),
        rendered: diagnostic.to_string(),
    };
    diagnostics.iter().map(problem).collect()
}
