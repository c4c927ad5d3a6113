//! `tachyon lanes`: the RDMA lanes, worker by worker.

use crate::{
    arguments::Form,
    connection::Connection,
    failure::Failure,
    json, output,
    table::{Paint, Side, Table, count},
};
use serde_json::json;
use tachyon_proto::v1::{self, lane_status::Owner};

/// The state in which frames pass.
const CONNECTED: &str = "connected";

pub(crate) async fn run(connection: &mut Connection, form: Form) -> Result<(), Failure> {
    let lanes = connection.list_lanes().await?.lanes;
    if form.json {
        output::json(&json!({ "lanes": lanes.iter().map(json::lane).collect::<Vec<_>>() }));
    } else if lanes.is_empty() {
        output::message("There is no RDMA lane: nobody has agreed on one with the node yet.");
    } else {
        output::data(text(&lanes, Paint::detect()));
    }
    Ok(())
}

fn text(lanes: &[v1::LaneStatus], paint: Paint) -> String {
    let headings = ["WORKER", "WHOSE", "ENDPOINT", "LANE", "STATE", "ATTEMPTS"];
    let right = ["WORKER", "ATTEMPTS"];
    let side = |heading| if right.contains(&heading) { Side::Right } else { Side::Left };
    let mut table = Table::new(&headings.map(|heading| (heading, side(heading))));
    for lane in lanes {
        let fell_back = if lane.fell_back { " (fell back to udp)" } else { "" };
        table.row(vec![
            lane.worker.to_string(),
            whose(lane),
            lane.endpoint.clone(),
            carrier(lane).to_owned(),
            format!("{}{fell_back}", lane.state),
            count(lane.attempts.into()),
        ]);
    }
    let mut text = table.show(paint);
    for lane in lanes.iter().filter(|lane| !lane.why.is_empty()) {
        // A lane that stands again says what it failed of before.
        let why = if lane.state == CONNECTED { format!("before: {}", lane.why) } else { paint.bad(&lane.why) };
        text.push_str(&format!("\nworker {}, {}: {why}\n", lane.worker, lane.endpoint));
    }
    text
}

fn whose(lane: &v1::LaneStatus) -> String {
    match lane.owner {
        Some(Owner::SessionId(id)) => format!("session {id}"),
        Some(Owner::Subscriber(slot)) => format!("subscriber {slot}"),
        None => "nobody known".to_owned(),
    }
}

/// What carries its frames, as routes name it.
pub(crate) fn carrier(lane: &v1::LaneStatus) -> &'static str {
    match lane.lane() {
        v1::Lane::Unspecified | v1::Lane::Udp => "udp",
        v1::Lane::RdmaDatagram => "rdma_datagram",
        v1::Lane::RdmaConnection => "rdma_connection",
        v1::Lane::RdmaRing => "rdma_ring",
    }
}
