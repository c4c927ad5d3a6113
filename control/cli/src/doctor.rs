//! `tachyon doctor`: whether this machine has what a node needs, and the exact lines that give it. Needs no node and changes
//! nothing.
//!
//! Every check is a function from what was read to what is said about it; all reading goes through [`host::Host`].

mod cpu;
mod finding;
pub(crate) mod host;
mod iommu;
mod kernel;
mod limits;
mod need;
pub(crate) mod nics;
mod pages;
pub(crate) mod rdma;
#[cfg(test)]
mod tests;
mod xdp;

use crate::{
    arguments::Doctor,
    output,
    table::{Paint, plural, wrap},
};
use finding::{Finding, State};
use host::Host;
use need::Need;
use nics::{Bypass, Nic};
use rdma::RdmaPort;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, io::ErrorKind, path::Path, process::ExitCode};
use tachyon_config::{NodeFile, Source};

/// Where `tachyond` looks for its node file when it is told of none.
const NODE_FILE: &str = "/etc/tachyon/node.toml";

/// Ends with 0 if nothing is in the way, 1 if something makes the node fail, 2 if something only makes it worse.
pub(crate) fn run(options: &Doctor) -> ExitCode {
    let (file, about_file) = node_file(options.config.as_deref());
    let host = Host::at(&options.root);
    let (nics, rdma) = (nics::nics(&host), rdma::ports(&host));
    let mut findings = vec![about_file];
    findings.extend(examine(&host, &Need::of(&file), &nics));
    let worst = worst(&findings);
    if options.form.json {
        output::json(&json!({
            "state": worst.name(),
            "findings": findings.iter().map(Finding::json).collect::<Value>(),
            "nics": nics.iter().map(Nic::json).collect::<Value>(),
            "rdma": rdma.iter().map(RdmaPort::json).collect::<Value>(),
        }));
    } else {
        output::data(text(&findings, &nics, &rdma, Paint::detect()));
    }
    ExitCode::from(exit_code(worst))
}

fn worst(findings: &[Finding]) -> State {
    findings.iter().map(|finding| finding.state).max().unwrap_or(State::Fine)
}

const fn exit_code(worst: State) -> u8 {
    match worst {
        State::Fine | State::Note => 0,
        State::Fails => 1,
        State::Degraded => 2,
    }
}

/// The node file to hold the machine against, and what is to be said about it. Where there is none, or it is wrong, its
/// defaults stand in, so that the rest is checked all the same.
fn node_file(named: Option<&Path>) -> (NodeFile, Finding) {
    const CHECK: &str = "node_file";
    let path = named.unwrap_or(Path::new(NODE_FILE));
    let name = path.display().to_string();
    let wrong = |found: String, help: &str| {
        (
            NodeFile::default(),
            Finding::new(CHECK, State::Fails, found).help(format!("{help}; its defaults are checked below")),
        )
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => {
            let found = format!("there is no {name}; its defaults are checked");
            let finding = Finding::new(CHECK, State::Note, found).help("--config names another");
            return (
                NodeFile::default(),
                finding.command(format!("mkdir -p /etc/tachyon && tachyond --print-default-config > {name}")),
            );
        }
        Err(error) => return wrong(format!("{name} cannot be read: {error}"), "name a file that this user may read"),
    };
    let source = Source { name: &name, text: &text, manual: "tachyond --print-default-config" };
    match NodeFile::parse(&source) {
        Ok(file) => (file, Finding::fine(CHECK, name)),
        Err(diagnostic) => {
            let what = format!("{name} is wrong: {}", diagnostic.message);
            wrong(what, &format!("`tachyond --check --config {name}` shows the place"))
        }
    }
}

/// Everything that can be said about the machine, in the order in which one would set it up.
fn examine(host: &Host, need: &Need, nics: &[Nic]) -> Vec<Finding> {
    let cpus = cpu::Cpus::read(host);
    let limits = limits::Limits::read(host);
    let nodes: BTreeSet<u32> = cpus.numa_nodes.values().copied().collect();
    let arenas = pages::arenas(need, &cpus.numa_nodes, nodes.len());
    let mut findings = pages::findings(&pages::Memory::read(host), need, &arenas);
    findings.extend(limits::findings(&limits, need));
    findings.extend(cpu::findings(&cpus, need));
    findings.extend(kernel::findings(&kernel::Kernel::read(host), need, &limits.rights));
    findings.extend(xdp::findings(&xdp::Xdp::read(host, &need.xdp), need, &limits));
    findings.extend(iommu::findings(&iommu::Iommu::read(host), &cpus, need));
    findings.extend(nics::findings(nics, need));
    findings
}

/// A line for each finding, then what to do about those that are not fine, then the devices.
fn text(findings: &[Finding], nics: &[Nic], rdma: &[RdmaPort], paint: Paint) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = paint.heading(&format!("{:<8}  {:<width$}  FOUND", "STATE", "CHECK"));
    text.push('\n');
    for finding in findings {
        let state = painted(finding.state, paint);
        text.push_str(&format!("{state}  {:<width$}  {}\n", finding.check, finding.found));
    }
    for finding in findings.iter().filter(|finding| finding.state > State::Fine && !finding.help.is_empty()) {
        text.push_str(&format!(
            "\n{}  {}: {}\n",
            painted(finding.state, paint),
            paint.heading(finding.check),
            finding.found
        ));
        text.push_str(&wrap(&finding.help, 10));
        finding.commands.iter().for_each(|command| text.push_str(&format!("            # {command}\n")));
    }
    for nic in nics {
        text.push_str(&device(nic, paint));
    }
    if !rdma.is_empty() {
        text.push_str(&format!("\n{}\n", paint.heading("RDMA devices")));
        rdma.iter().for_each(|port| text.push_str(&wrap(&port.line(), 2)));
    }
    text.push_str(&summary(findings));
    text
}

fn painted(state: State, paint: Paint) -> String {
    let word = format!("{:<8}", state.name());
    match state {
        State::Fine => paint.good(&word),
        State::Note => word,
        State::Degraded | State::Fails => paint.bad(&word),
    }
}

/// A PCI Ethernet device with all that is known about it.
fn device(nic: &Nic, paint: Paint) -> String {
    let mut facts = vec![nic.id.clone(), nic.driver.clone().unwrap_or_else(|| "no driver".to_owned())];
    facts.extend(nic.numa_node.map(|node| format!("NUMA node {node}")));
    facts.push(
        nic.iommu_group.as_ref().map_or_else(|| "no IOMMU group".to_owned(), |group| format!("IOMMU group {group}")),
    );
    if !nic.group_others.is_empty() {
        facts.push(format!("with {}", nic.group_others.join(" ")));
    }
    for interface in &nic.interfaces {
        let mut words = vec![interface.name.clone()];
        words.extend(interface.addresses.iter().map(ToString::to_string));
        words.extend(interface.has_default_route.then(|| "default route".to_owned()));
        words.extend(interface.master.as_ref().map(|master| format!("part of {master}")));
        facts.push(words.join(" "));
    }
    let mut text = format!("\n{}  {}\n", paint.heading(&nic.address), facts.join(", "));
    text.push_str(&wrap(&format!("Kernel bypass: {}; {}.", nic.bypass.name(), nic.why), 10));
    if let Bypass::AfterBinding { bind, give_back } = &nic.bypass {
        for (heading, commands) in [("To bind it:", bind), ("To give it back:", give_back)] {
            text.push_str(&format!("          {heading}\n"));
            commands.iter().for_each(|command| text.push_str(&format!("            # {command}\n")));
        }
    }
    text
}

fn summary(findings: &[Finding]) -> String {
    let count = |state: State| findings.iter().filter(|finding| finding.state == state).count() as u64;
    let (fails, degraded) = (count(State::Fails), count(State::Degraded));
    match worst(findings) {
        State::Fine | State::Note => "\nThis machine is fine.\n".to_owned(),
        State::Degraded => format!("\nA node works here, with {}.\n", plural(degraded, "weakness", "weaknesses")),
        State::Fails => {
            let weak = plural(degraded, "weakness", "weaknesses");
            format!("\nA node fails here: {}, and {weak}.\n", plural(fails, "cause", "causes"))
        }
    }
}
