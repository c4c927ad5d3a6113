//! The command line, as types that are checked before anything is opened.

use crate::{lanes::Fabric, plan::Choice, schedule::Rate};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf};
use tachyon_driver_ether::Mac;
use tachyon_wire::{
    LINE,
    ack::{CLASS_ADMITTED, CLASS_DURABLE, CLASS_LOGGED},
    frame::MESSAGES_MAX,
    message::INLINE_MAX,
};

/// Offers load to a Tachyon node and proves what became of it.
#[derive(Debug, Parser)]
#[command(name = "tachyon-load", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Verb,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Publishes and subscribes at once, then reports.
    Run(Box<RunArgs>),
}

/// Which threads the work is spread over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Threads {
    /// Apart where this process may use three cores or more, else together.
    Auto,
    /// Publishers and subscribers take turns in one thread.
    Together,
    /// Each publisher in a thread of its own, all subscribers in another.
    Apart,
}

/// When a frame is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Class {
    /// It was judged.
    Admitted,
    /// What the truth log takes of it is written.
    Logged,
    /// What of it has to be on stable storage is there.
    Durable,
}

impl Class {
    /// Its number in acks.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Admitted => CLASS_ADMITTED,
            Self::Logged => CLASS_LOGGED,
            Self::Durable => CLASS_DURABLE,
        }
    }
}

/// What frames from the node carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Egress {
    /// The same as the publishers' frames.
    Same,
    /// Tags.
    Tag,
    /// A crc32c.
    Crc,
}

/// One run.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Unix socket of `tachyon-control`.
    #[arg(long, value_name = "SOCKET", required_unless_present = "relay", conflicts_with = "relay")]
    pub control: Option<PathBuf>,
    /// Instead of a node: a relay that receives shard n at this port + n, and sends every frame as it is to
    /// --listen-port + n. There are no rules, sessions or ledgers then.
    #[arg(long, value_name = "IP:PORT", conflicts_with_all = ["node", "egress"])]
    pub relay: Option<SocketAddr>,
    /// Shards of the relay; a node tells its own.
    #[arg(long, default_value_t = 16, requires = "relay", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// How long to wait for a control process that is away or restarts, in seconds.
    #[arg(long, default_value_t = 15.0, value_parser = seconds)]
    pub patience: f64,
    /// Address of the node's lane, for a node that does not tell it.
    #[arg(long, value_name = "IP")]
    pub node: Option<std::net::IpAddr>,
    /// What carries the frames, both ways.
    #[arg(long, value_enum, default_value_t = Fabric::Udp, conflicts_with_all = ["relay", "write"])]
    pub fabric: Fabric,
    /// Our IP address on the RDMA device; subscribers are there.
    #[arg(long, value_name = "IP", required_if_eq_any = [
        ("fabric", "rdma-datagram"), ("fabric", "rdma-connection"), ("fabric", "rdma-ring"),
    ])]
    pub fabric_address: Option<std::net::IpAddr>,
    /// Have the node send copies by UDP once a lane has failed for good, and take them there as well.
    #[arg(long, requires = "fabric_address")]
    pub fabric_fall_back: bool,
    /// Identity under which publishing sessions are opened.
    #[arg(long, default_value = "load")]
    pub identity: String,
    /// Identity under which subscribers are opened; the same one if left out.
    #[arg(long)]
    pub subscriber_identity: Option<String>,
    /// How long each phase offers load, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// Messages per second over all publishers (such as 250000, 250k or 2.5M), or `max`.
    #[arg(long, default_value = "100k", value_parser = rate)]
    pub rate: Rate,
    /// Messages in a frame; as many as fit if left out.
    #[arg(long, value_name = "N")]
    pub messages_per_frame: Option<u32>,
    /// Largest frame in bytes, header included (1472 fills an Ethernet packet over IPv4). On RDMA, where a frame is at most
    /// one packet, the path MTU counts unless something else than the default is given.
    #[arg(long, default_value_t = FRAME_BYTES_DEFAULT)]
    pub frame_bytes: u32,
    /// Frames handed over together, the unit of arrival; follows from the rate if left out.
    #[arg(long, value_name = "N")]
    pub frames_per_run: Option<u32>,
    /// Topics to publish on: PREFIX0 … PREFIX(N-1).
    #[arg(long, default_value_t = 1024)]
    pub topics: u32,
    /// What topic names start with.
    #[arg(long, default_value = "load.")]
    pub topic_prefix: String,
    /// How topics are chosen.
    #[arg(long, value_enum, default_value_t = Choice::Uniform)]
    pub choice: Choice,
    /// Senders of each session that are used, from the start of its range.
    #[arg(long, default_value_t = 16)]
    pub senders: u32,
    /// Publishing sessions.
    #[arg(long, default_value_t = 4)]
    pub sessions: u32,
    /// Publisher threads, each with a part of the sessions and of the rate.
    #[arg(long, default_value_t = 1)]
    pub publishers: u32,
    /// Subscribers, each on a run of ports of its own.
    #[arg(long, default_value_t = 1)]
    pub subscribers: u32,
    /// Topic pattern to subscribe to; PREFIX followed by `*` if left out.
    #[arg(long)]
    pub subscribe: Option<String>,
    /// Address that subscribers listen on.
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub listen: std::net::IpAddr,
    /// First port to try for subscribers.
    #[arg(long, default_value_t = 26_640)]
    pub listen_port: u16,
    /// Instead of sockets: write what publishers send into this file, as Ethernet packets in a pcap file that has its name
    /// once the load is over. The node reads it then.
    #[arg(long, value_name = "IN.pcap", conflicts_with = "relay")]
    pub write: Option<PathBuf>,
    /// The pcap file that the node writes what it sends into; subscribers read it while it grows.
    #[arg(long, value_name = "OUT.pcap", requires = "write")]
    pub read: Option<PathBuf>,
    /// IP address of this end in written packets, and where subscribers are; --listen if that is no loopback address, else
    /// the one beside the node's.
    #[arg(long, value_name = "IP", requires = "write")]
    pub write_from: Option<std::net::IpAddr>,
    /// IP address of the node in written packets; the one that it tells if left out.
    #[arg(long, value_name = "IP", requires = "write")]
    pub write_to: Option<std::net::IpAddr>,
    /// Ethernet address of this end in written packets.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:01", value_parser = mac)]
    pub write_from_mac: Mac,
    /// Ethernet address of the node in written packets; if left out, the one that DPDK gives its first pcap device.
    #[arg(long, value_name = "MAC", default_value = "02:70:63:61:70:00", value_parser = mac)]
    pub write_to_mac: Mac,
    /// VLAN that written packets, and those that are read, are tagged with.
    #[arg(long, value_name = "ID", requires = "write", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,
    /// How long the node may take to begin or to go on reading the written file, in seconds.
    #[arg(long, default_value_t = 30.0, requires = "write", value_parser = seconds)]
    pub write_patience: f64,
    /// Buffers that may be queued towards each subscriber (credit); the node's default if 0.
    #[arg(long, default_value_t = 0)]
    pub credit: u32,
    /// Authenticate frames with tags (the default).
    #[arg(long, conflicts_with = "crc")]
    pub tagged: bool,
    /// Protect frames by crc32c alone, where the node allows it.
    #[arg(long)]
    pub crc: bool,
    /// What the node's frames to subscribers carry.
    #[arg(long, value_enum, default_value_t = Egress::Same)]
    pub egress: Egress,
    /// Ask for acks and nacks, and count them.
    #[arg(long)]
    pub ack: bool,
    /// Keep each frame until the node has settled it at this class, and send it again while no word of that comes. Counts as --ack.
    #[arg(long, value_enum, value_name = "CLASS", conflicts_with_all = ["relay", "write"])]
    pub until: Option<Class>,
    /// Bytes of inline payload; the first 16 carry the intended time and a sequence number.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u8).range(0..=48))]
    pub payload_bytes: u8,
    /// Class of all messages, 0 (kept first) to 3.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub class: u8,
    /// Share of frames that are forged, as a fraction (0.01) or as 1/N.
    #[arg(long, default_value = "0", value_parser = share)]
    pub forged_share: f64,
    /// Share of frames that repeat an earlier frame's bytes, likewise.
    #[arg(long, default_value = "0", value_parser = share)]
    pub replayed_share: f64,
    /// Sender, as its place in the session's range, that sends far more than the others.
    #[arg(long, value_name = "N")]
    pub flood_sender: Option<u32>,
    /// Share of messages that the flooding sender sends on top.
    #[arg(long, default_value = "0.5", value_parser = share)]
    pub flood_share: f64,
    /// Topic name that gets a share of messages on top, such as one with a low rate in the rules.
    #[arg(long, value_name = "NAME")]
    pub hot_topic: Option<String>,
    /// Share of messages that the hot topic gets on top.
    #[arg(long, default_value = "0.5", value_parser = share)]
    pub hot_share: f64,
    /// A phase, instead of a single one: KEY=VALUE,… with name, seconds, rate, forged, replayed, flood-sender,
    /// flood-share, hot-topic, hot-share; what is left out is as given for the whole run. Repeat for more phases.
    #[arg(long = "phase", value_name = "KEY=VALUE,…")]
    pub phases: Vec<String>,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Cores to pin threads to, in order, such as 2,3 or 2-5.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub cpu: Option<CpuList>,
    /// Which threads the work is spread over.
    #[arg(long, value_enum, default_value_t = Threads::Auto)]
    pub threads: Threads,
    /// Buffers of 64 KiB for each publisher and each subscriber.
    #[arg(long, default_value_t = 256)]
    pub buffers: u32,
    /// Print one JSON line several times a second while running.
    #[arg(long)]
    pub progress: bool,
    /// Print the report as one line of JSON, the last line.
    #[arg(long)]
    pub json: bool,
}

/// Cores, in the order in which threads take them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// One phase, every value settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// What the report calls it.
    pub name: String,
    /// How long it offers load, in seconds.
    pub seconds: f64,
    /// Messages per second over all publishers.
    pub rate: Rate,
    /// Share of frames that are forged.
    pub forged: f64,
    /// Share of frames that repeat an earlier one.
    pub replayed: f64,
    /// Place of the flooding sender in the session's range, and its share.
    pub flood: Option<(u32, f64)>,
    /// Name of the hot topic, and its share.
    pub hot: Option<(String, f64)>,
}

impl RunArgs {
    /// Most messages that a frame holds.
    #[must_use]
    pub fn frame_messages_max(&self) -> u32 {
        (self.frame_bytes / LINE_BYTES).saturating_sub(1).min(u32::from(MESSAGES_MAX_PER_FRAME))
    }

    /// Messages in each frame.
    ///
    /// # Errors
    /// If a frame of that many messages is longer than `--frame-bytes`, or is none.
    pub fn frame_messages(&self) -> Result<u32, String> {
        let fit = self.frame_messages_max();
        let count = self.messages_per_frame.unwrap_or(fit);
        if count == 0 || count > fit {
            return Err(format!(
                "a frame of {} bytes holds {fit} messages, not {count}; give --frame-bytes {} or fewer messages",
                self.frame_bytes,
                LINE_BYTES * (count.max(1) + 1)
            ));
        }
        Ok(count)
    }

    /// The arguments, for a fabric and a node whose frames have at most this many bytes.
    ///
    /// # Errors
    /// `--frame-bytes` asks for more.
    pub fn on_fabric(&self, bytes_max: u32) -> Result<Self, String> {
        let most = bytes_max / LINE_BYTES * LINE_BYTES;
        let frame_bytes = if self.frame_bytes == FRAME_BYTES_DEFAULT { most } else { self.frame_bytes };
        if frame_bytes > most {
            return Err(format!(
                "a frame of {frame_bytes} bytes does not fit: packets here and the node's frames have at most {bytes_max}; \
                 give --frame-bytes {most} or less, or raise the MTU of both interfaces (4200 gives packets of 4096) and \
                 frame_bytes_max in the node file"
            ));
        }
        Ok(Self { frame_bytes, listen: self.fabric_address.unwrap_or(self.listen), ..self.clone() })
    }

    /// What to do, in order.
    ///
    /// # Errors
    /// A `--phase` with an unknown key or a value that cannot be read: which, and what is possible.
    pub fn settled_phases(&self) -> Result<Vec<Phase>, String> {
        let phases: Vec<Phase> = if self.phases.is_empty() {
            vec![self.phase("run", "")?]
        } else {
            let named = self.phases.iter().enumerate();
            named.map(|(index, text)| self.phase(&format!("phase {}", index + 1), text)).collect::<Result<_, _>>()?
        };
        match phases.iter().find(|phase| phase.forged + phase.replayed > 1.0) {
            Some(phase) => Err(format!("phase `{}`: forged and replayed share are more than 1 together", phase.name)),
            // The number of a forged frame is never settled, so what follows it would wait for ever.
            None => match phases.iter().find(|phase| self.until.is_some() && phase.forged > 0.0) {
                Some(phase) => {
                    Err(format!("phase `{}`: forged frames are never settled; leave --until out", phase.name))
                }
                None => Ok(phases),
            },
        }
    }

    fn phase(&self, name: &str, text: &str) -> Result<Phase, String> {
        let mut phase = Phase {
            name: name.to_owned(),
            seconds: self.seconds,
            rate: self.rate,
            forged: self.forged_share,
            replayed: self.replayed_share,
            flood: self.flood_sender.map(|sender| (sender, self.flood_share)),
            hot: self.hot_topic.clone().map(|topic| (topic, self.hot_share)),
        };
        let (mut flood_share, mut hot_share) = (self.flood_share, self.hot_share);
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| format!("--phase: `{pair}` is not of the form KEY=VALUE"))?;
            let value = value.trim();
            match key.trim() {
                "name" => value.clone_into(&mut phase.name),
                "seconds" => phase.seconds = seconds(value)?,
                "rate" => phase.rate = rate(value)?,
                "forged" => phase.forged = share(value)?,
                "replayed" => phase.replayed = share(value)?,
                "flood-sender" => {
                    let sender = value.parse().map_err(|_| format!("--phase: `{value}` is not a sender's place"))?;
                    phase.flood = Some((sender, flood_share));
                }
                "flood-share" => flood_share = share(value)?,
                "hot-topic" => phase.hot = Some((value.to_owned(), hot_share)),
                "hot-share" => hot_share = share(value)?,
                other => {
                    return Err(format!(
                        "--phase: unknown key `{other}`; known are name, seconds, rate, forged, replayed, flood-sender, \
                         flood-share, hot-topic, hot-share"
                    ));
                }
            }
        }
        phase.flood = phase.flood.map(|(sender, _)| (sender, flood_share));
        phase.hot = phase.hot.map(|(topic, _)| (topic, hot_share));
        Ok(phase)
    }

    /// Whether the node's frames to subscribers shall carry tags.
    #[must_use]
    pub fn egress_tagged(&self) -> bool {
        match self.egress {
            Egress::Same => !self.crc,
            Egress::Tag => true,
            Egress::Crc => false,
        }
    }

    /// Whether the payload has room for the intended time, without which there is no end-to-end latency.
    #[must_use]
    pub const fn carries_time(&self) -> bool {
        self.payload_bytes as usize >= TIME_BYTES && self.payload_bytes as usize <= INLINE_MAX
    }
}

/// What fills an Ethernet packet over IPv4: 1,500 − 20 (IP) − 8 (UDP).
const FRAME_BYTES_DEFAULT: u32 = 1_472;
/// One line, in the type of `--frame-bytes`.
const LINE_BYTES: u32 = 64;
/// Most messages of a frame, in a type that converts without loss.
const MESSAGES_MAX_PER_FRAME: u16 = 256;
const _: () = assert!(LINE == LINE_BYTES as usize && MESSAGES_MAX == MESSAGES_MAX_PER_FRAME as usize);

/// Bytes of the intended time at the start of the payload.
pub const TIME_BYTES: usize = 8;

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // A day: longer runs are several runs, and frame numbers stay far below 2^31.
        Ok(value) if value > 0.0 && value <= 86_400.0 => Ok(value),
        _ => Err(format!("`{text}` is not a number of seconds above 0 and up to 86400")),
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    match digits.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(Rate::PerSecond(value * factor)),
        _ => Err(format!("`{text}` is not a rate; write 250000, 250k, 2.5M or max")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let value = match text.split_once('/') {
        Some((over, under)) => match (over.parse::<f64>(), under.parse::<f64>()) {
            (Ok(over), Ok(under)) if under > 0.0 => Some(over / under),
            _ => None,
        },
        None => text.parse().ok(),
    };
    value
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is not a share; write 0.01 or 1/100"))
}

/// An Ethernet address of one device; a group's would be a broadcast of the load.
fn mac(text: &str) -> Result<Mac, String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+')))
        .collect();
    let mac = bytes.and_then(|bytes| Mac::try_from(bytes).ok());
    mac.filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6])
        .ok_or_else(|| format!("`{text}` is not the Ethernet address of a device; write 02:00:00:00:00:01"))
}

fn cpu_list(text: &str) -> Result<CpuList, String> {
    let mut cores = Vec::new();
    let wrong = || format!("`{text}` is not a list of cores; write 2,3 or 2-5");
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let low: usize = low.trim().parse().map_err(|_| wrong())?;
        let high: usize = high.trim().parse().map_err(|_| wrong())?;
        // 1024: what the kernel's CPU set of fixed size holds.
        if low > high || high >= 1024 {
            return Err(wrong());
        }
        cores.extend(low..=high);
    }
    Ok(CpuList(cores))
}

#[cfg(test)]
mod tests {
    use super::{Cli, CpuList, Phase, Rate, RunArgs, Verb, cpu_list, mac, rate, share};
    use clap::Parser;

    fn args(more: &[&str]) -> RunArgs {
        let line = ["tachyon-load", "run", "--control", "/run/x.sock"].iter().chain(more);
        let Verb::Run(args) = Cli::try_parse_from(line).unwrap().command;
        *args
    }

    #[test]
    fn shares_rates_and_cores_are_read_in_every_form() {
        assert_eq!(share("1/100"), Ok(0.01));
        assert_eq!(share("0.25"), Ok(0.25));
        assert!(share("1/0").is_err() && share("2").is_err() && share("-1").is_err());
        assert_eq!(rate("2.5M"), Ok(Rate::PerSecond(2_500_000.0)));
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert!(rate("fast").is_err() && rate("").is_err());
        assert_eq!(cpu_list("0,2-4"), Ok(CpuList(vec![0, 2, 3, 4])));
        assert!(cpu_list("4-2").is_err());
    }

    #[test]
    fn an_ethernet_address_is_that_of_one_device() {
        assert_eq!(mac("02:70:63:61:70:0f"), Ok([0x02, 0x70, 0x63, 0x61, 0x70, 0x0f]));
        for wrong in
            ["", "02:70:63:61:70", "02:70:63:61:70:00:00", "ff:ff:ff:ff:ff:ff", "2:70:63:61:70:0", "00:00:00:00:00:00"]
        {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
        assert!(mac("02:+1:63:61:70:00").is_err());
    }

    #[test]
    fn a_frame_holds_what_fits_and_more_is_refused() {
        assert_eq!(args(&[]).frame_messages(), Ok(22));
        assert_eq!(args(&["--messages-per-frame", "1"]).frame_messages(), Ok(1));
        assert!(args(&["--messages-per-frame", "23"]).frame_messages().is_err());
        assert!(args(&["--frame-bytes", "100"]).frame_messages().is_err());
    }

    #[test]
    fn frames_on_a_fabric_are_as_long_as_its_packets() {
        let fabric = ["--fabric", "rdma-ring", "--fabric-address", "10.0.0.2"];
        let messages = |mtu_bytes| args(&fabric).on_fabric(mtu_bytes).unwrap().frame_messages();
        assert_eq!((messages(1_024), messages(4_096)), (Ok(15), Ok(63)));
        assert_eq!(args(&fabric).on_fabric(1_024).unwrap().listen.to_string(), "10.0.0.2");
        let asked = |bytes| args(&[&fabric[..], &["--frame-bytes", bytes]].concat()).on_fabric(1_024);
        assert_eq!(asked("512").unwrap().frame_messages(), Ok(7));
        assert!(asked("1088").unwrap_err().contains("--frame-bytes 1024"));
        let line = ["tachyon-load", "run", "--control", "/run/x.sock", "--fabric", "rdma-ring"];
        assert!(Cli::try_parse_from(line).is_err(), "an address is needed");
    }

    #[test]
    fn a_phase_inherits_what_it_does_not_say() {
        let args = args(&["--rate", "1M", "--phase", "name=flood,flood-sender=3,flood-share=1/4,seconds=0.5"]);
        let expected = Phase {
            name: "flood".into(),
            seconds: 0.5,
            rate: Rate::PerSecond(1e6),
            forged: 0.0,
            replayed: 0.0,
            flood: Some((3, 0.25)),
            hot: None,
        };
        assert_eq!(args.settled_phases(), Ok(vec![expected]));
    }

    #[test]
    fn a_phase_with_an_unknown_key_is_refused() {
        assert!(args(&["--phase", "speed=3"]).settled_phases().unwrap_err().contains("unknown key `speed`"));
        assert!(args(&["--phase", "forged=0.6,replayed=0.6"]).settled_phases().is_err());
    }
}
