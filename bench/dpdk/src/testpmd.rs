//! The peer: DPDK's own forwarding program, started once and let run in turns.

use crate::station::{BUFFERS, DESCRIPTORS};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tachyon_driver_dpdk::Eal;

/// How DPDK names such threads: until 22.11, and since.
const FORWARDING: [&str; 2] = ["rte-worker", "dpdk-worker"];
/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// How it is started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Two devices, as `--vdev` takes them.
    pub(crate) devices: [String; 2],
    /// Most packets of a burst.
    pub(crate) burst: usize,
    /// Bytes of the packets that it makes at the start, without their checksum.
    pub(crate) packet_bytes: u32,
    /// Whether packets come only from what it sends first.
    pub(crate) circulates: bool,
    /// The cores that it may use.
    pub(crate) cores: Vec<usize>,
    /// The one that its forwarding thread runs on: ours, because we take turns.
    pub(crate) core: usize,
}

/// What one turn came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Packets sent.
    pub(crate) packets: u64,
    /// CPU time of the thread that polled.
    pub(crate) cpu: Duration,
}

impl Turn {
    /// Million packets per CPU-second.
    pub(crate) fn mpps(self) -> f64 {
        self.packets as f64 / self.cpu.as_secs_f64() / 1e6
    }
}

/// See the module.
pub(crate) struct Testpmd {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    schedstat: PathBuf,
    /// What starts the next turn.
    start: &'static str,
}

impl Testpmd {
    pub(crate) fn start(eal: Eal, setup: &Setup) -> Result<Self, String> {
        let cores = &setup.cores;
        let cores = cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let pages: &[&str] = if eal.huge_pages() { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
        // Its output is a file to it, which it would fill 4 KiB at a time; stdbuf hands over each line.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "dpdk-testpmd", &format!("--lcores=0@({cores}),1@{}", setup.core), "--no-pci"])
            .args(["--no-telemetry", "--iova-mode=va", "-m", "256"])
            .arg(format!("--file-prefix=tachyon-peer-{}", std::process::id()))
            .args(pages)
            .args(setup.devices.iter().map(|device| format!("--vdev={device}")))
            .args(["--", "-i", "--forward-mode=io", "--nb-cores=1", "--mbcache=256", "--no-flush-rx"])
            .args(["--disable-link-check".to_owned(), format!("--burst={}", setup.burst)])
            .args([format!("--rxd={DESCRIPTORS}"), format!("--txd={DESCRIPTORS}")])
            .args([format!("--total-num-mbufs={BUFFERS}"), format!("--txpkts={}", setup.packet_bytes)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start stdbuf: {error}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("no pipes".to_owned()) };
        let start = if setup.circulates { "start tx_first\n" } else { "start\n" };
        let output = BufReader::new(output);
        let mut peer = Self { child, input, output, schedstat: PathBuf::new(), start };
        peer.await_links()?;
        peer.schedstat = peer.polling_thread()?;
        // A memif's receiver gives its sender room when it first polls: without that, what is sent first would be dropped,
        // and packets would circulate one way only.
        let start = std::mem::replace(&mut peer.start, "start\n");
        peer.turn(Duration::from_millis(20))?;
        peer.start = start;
        Ok(peer)
    }

    fn say(&mut self, words: &str) -> Result<(), String> {
        self.input.write_all(words.as_bytes()).map_err(|error| format!("dpdk-testpmd takes no commands: {error}"))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(1..) => Ok(line),
            _ => Err("dpdk-testpmd ended: is it installed (on Debian: apt install dpdk-dev)?".to_owned()),
        }
    }

    fn await_links(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.say("show port summary all\n")?;
            while !self.line()?.starts_with("Port MAC Address") {}
            let both = [self.line()?, self.line()?];
            if both.iter().all(|line| line.split_whitespace().any(|word| word == "up")) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err("the links of dpdk-testpmd do not come up".to_owned())
    }

    /// Where the kernel counts its forwarding thread's time.
    fn polling_thread(&self) -> Result<PathBuf, String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).map_err(|error| error.to_string())?;
        let mut threads = tasks.flatten().map(|task| task.path());
        let named = |path: &PathBuf| fs::read_to_string(path.join("comm")).unwrap_or_default();
        threads
            .find(|path| FORWARDING.iter().any(|name| named(path).starts_with(name)))
            .map(|path| path.join("schedstat"))
            .ok_or_else(|| "dpdk-testpmd has no forwarding thread".to_owned())
    }

    fn cpu(&self) -> Result<Duration, String> {
        let text = fs::read_to_string(&self.schedstat).map_err(|error| format!("schedstat: {error}"))?;
        let ns = text.split(' ').next().and_then(|text| text.parse().ok()).ok_or("schedstat is no number")?;
        Ok(Duration::from_nanos(ns))
    }

    /// Forwards for a while. The thread sleeps before and after, so its time is up to date.
    pub(crate) fn turn(&mut self, time: Duration) -> Result<Turn, String> {
        let before = self.cpu()?;
        self.say(self.start)?;
        self.start = "start\n"; // what circulates stays in the devices
        thread::sleep(time);
        self.say("stop\n")?;
        while !self.line()?.contains("Accumulated forward statistics") {}
        let packets = loop {
            let line = self.line()?;
            if let Some((_, rest)) = line.split_once("TX-packets:") {
                let numbers: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
                if numbers.get(1) != Some(&0) {
                    return Err(format!("dpdk-testpmd drops packets: {}", line.trim()));
                }
                break numbers.first().copied();
            }
        };
        while !self.line()?.starts_with("Done.") {}
        let packets = packets.ok_or("dpdk-testpmd's statistics have no number")?;
        Ok(Turn { packets, cpu: self.cpu()?.saturating_sub(before) })
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.say("quit\n"); // if it is gone already, that is as good
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
