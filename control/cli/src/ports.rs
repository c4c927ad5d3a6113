//! `tachyon ports`: the devices of the node, and what may be done about them while it runs.

use crate::{
    arguments::{Form, PortName, Ports, PortsCommand},
    connection::Connection,
    doctor::{
        host::Host,
        nics::{self, Nic},
        rdma::{self, RdmaPort},
    },
    failure::Failure,
    json, output,
    table::{Paint, Side, Table, count},
};
use serde_json::json;
use tachyon_proto::v1;

/// The state in which frames pass.
const READY: &str = "ready";

pub(crate) async fn run(connection: &mut Connection, options: &Ports) -> Result<(), Failure> {
    match &options.change {
        Some(PortsCommand::Stop(port)) => set(connection, port, false).await,
        Some(PortsCommand::Start(port)) => set(connection, port, true).await,
        None => list(connection, options.verbose, options.form).await,
    }
}

async fn set(connection: &mut Connection, port: &PortName, running: bool) -> Result<(), Failure> {
    let PortName { name, form } = port;
    connection.set_port(v1::SetPortRequest { name: name.clone(), running }).await?;
    if form.json {
        output::json(&json!({ "name": name, "running": running }));
    } else {
        output::data(format!("{name}: {}\n", if running { "started" } else { "stopped" }));
    }
    Ok(())
}

async fn list(connection: &mut Connection, verbose: bool, form: Form) -> Result<(), Failure> {
    let answer = connection.list_ports().await?;
    // What this host has and the node does not use, with the reason: control is on the same host, behind a Unix socket.
    let host = Host::at("/");
    let unused: Vec<Nic> = nics::nics(&host)
        .into_iter()
        .filter(|nic| !answer.ports.iter().any(|port| port.device.contains(&nic.address)))
        .collect();
    let unused_rdma: Vec<RdmaPort> = rdma::ports(&host)
        .into_iter()
        .filter(|rdma| !answer.ports.iter().any(|port| rdma.is_named_in(&port.device)))
        .collect();
    if form.json {
        let ports: Vec<_> = answer.ports.iter().map(json::port).collect();
        let unused: Vec<_> = unused.iter().map(Nic::json).collect();
        let rdma: Vec<_> = unused_rdma.iter().map(RdmaPort::json).collect();
        output::json(&json!({ "boot_id": answer.boot_id, "ports": ports, "unused": unused, "unused_rdma": rdma }));
    } else {
        let paint = Paint::detect();
        output::data(text(&answer.ports, verbose, paint));
        output::data(others(&unused, &unused_rdma, paint));
    }
    Ok(())
}

/// Devices of this host that are no port of the node.
fn others(unused: &[Nic], rdma: &[RdmaPort], paint: Paint) -> String {
    let line = |nic: &Nic| {
        let driver = nic.driver.as_deref().unwrap_or("no driver");
        format!("  {}  {driver}: {}; {}\n", nic.address, nic.bypass.name(), nic.why)
    };
    let mut lines: Vec<String> = unused.iter().map(line).collect();
    lines.extend(rdma.iter().map(|port| format!("  {}\n", port.line())));
    if lines.is_empty() {
        return String::new();
    }
    let heading = paint.heading("Not used by the node (`tachyon doctor` shows how each could be)");
    format!("\n{heading}\n{}", lines.concat())
}

fn text(ports: &[v1::Port], verbose: bool, paint: Paint) -> String {
    let headings =
        ["PORT", "STATE", "DRIVER", "DEVICE", "MAC", "MBIT/S", "MTU", "NODE", "QUEUES", "STEERING", "ADDRESSES"];
    let right = ["MBIT/S", "MTU", "NODE", "QUEUES"];
    let side = |heading| if right.contains(&heading) { Side::Right } else { Side::Left };
    let mut table = Table::new(&headings.map(|heading| (heading, side(heading))));
    let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    for port in ports {
        table.row(vec![
            port.name.clone(),
            port.state.clone(),
            port.driver.clone(),
            port.device.clone(),
            if port.mac.is_empty() { "-".to_owned() } else { port.mac.clone() },
            number(port.speed_mbps),
            number(port.mtu),
            number(port.numa_node),
            port.queues.to_string(),
            port.steering.clone(),
            port.addresses.join(" "),
        ]);
    }
    let mut text = table.show(paint);
    for port in ports.iter().filter(|port| !port.why.is_empty()) {
        text.push_str(&format!("\n{}: {}\n", port.name, paint.bad(&port.why)));
    }
    if verbose {
        text.extend(ports.iter().map(|port| counters(port, paint)));
    }
    text
}

/// Everything that a port counts, under its name.
fn counters(port: &v1::Port, paint: Paint) -> String {
    let mut text = format!("\n{}\n", paint.heading(&port.name));
    let width = port.counters.iter().map(|counter| count(counter.value).len()).max().unwrap_or(0);
    for counter in &port.counters {
        text.push_str(&format!("  {:>width$}  {}\n", count(counter.value), counter.name));
    }
    let told = u32::try_from(port.counters.len()).unwrap_or(u32::MAX);
    match port.counters_total.saturating_sub(told) {
        0 if told == 0 => text.push_str("  it counts nothing\n"),
        0 => {}
        more => text.push_str(&format!("  and {} more, which one answer has no room for\n", count(more.into()))),
    }
    text
}

/// One line for `tachyon status`.
pub(crate) fn line(port: &v1::Port, paint: Paint) -> String {
    let state = if port.state == READY { paint.good(&port.state) } else { paint.bad(&port.state) };
    let why = if port.why.is_empty() { String::new() } else { format!(": {}", port.why) };
    format!("{}, {} {}, {state}{why}", port.name, port.driver, port.device)
}
