//! `tachyon routes`: where messages go.

use crate::{
    arguments::Form,
    connection::Connection,
    failure::Failure,
    json, output,
    table::{Paint, Side, Table, count},
};
use serde_json::json;
use tachyon_proto::v1;

/// The last counter of a worker counts every route from this index on.
const SHARED_INDEX: u32 = 255;

pub(crate) async fn run(connection: &mut Connection, form: Form) -> Result<(), Failure> {
    let stats = connection.stats().await?;
    if form.json {
        let routes: Vec<_> = stats.routes.iter().map(json::route).collect();
        output::json(&json!({ "boot_id": stats.boot_id, "routes": routes }));
    } else if stats.routes.is_empty() {
        output::message("There is no route: nobody has subscribed to a topic yet.");
    } else {
        output::data(text(&stats.routes, Paint::detect()));
    }
    Ok(())
}

fn text(routes: &[v1::Route], paint: Paint) -> String {
    let left = ["TOPICS", "SUBSCRIBERS"];
    let headings = ["ROUTE", "TOPICS", "ACCEPTED", "DUE", "GIVEN", "REFUSED", "SUBSCRIBERS"];
    let side = |heading| if left.contains(&heading) { Side::Left } else { Side::Right };
    let mut table = Table::new(&headings.map(|heading| (heading, side(heading))));
    for route in routes {
        table.row(vec![
            name(route),
            topics(route),
            count(route.accepted),
            count(route.due),
            count(route.given),
            count(route.refused),
            if route.endpoints.is_empty() { "none".to_owned() } else { subscribers(route) },
        ]);
    }
    table.show(paint)
}

/// Where each subscriber is, and what carries its copies.
fn subscribers(route: &v1::Route) -> String {
    let lanes = route.lanes.iter().map(String::as_str).chain(std::iter::repeat("udp"));
    let each = route.endpoints.iter().zip(lanes).map(|(endpoint, lane)| format!("{endpoint} {lane}"));
    each.collect::<Vec<_>>().join(", ")
}

/// What its frames carry, or from where on it stands for several.
pub(crate) fn name(route: &v1::Route) -> String {
    if route.index == SHARED_INDEX { format!("{SHARED_INDEX}+") } else { route.route_id.to_string() }
}

/// How many topics take it, and one of them.
pub(crate) fn topics(route: &v1::Route) -> String {
    match (route.topics, route.example_topic.as_str()) {
        (0, _) => "none".to_owned(),
        (1, example) => example.to_owned(),
        (topics, example) => format!("{example} and {} more", count(u64::from(topics - 1))),
    }
}
