//! The virtual machine: runs one job and ends, in time.
//!
//! A job speaks with the host over a second serial port, line by line: `say KEY VALUE` is kept for whoever ran the job,
//! `phase NAME SECONDS` begins a part of it that has its own time limit, `ask link CARD on|off` and `ask remove CARD` are
//! done and answered by `done` or by what went wrong, `exit CODE` is the end. The first port is the console; it only goes
//! to a file, so a message of the kernel cannot land in the middle of a word that counts.

use crate::{bed::Bed, initramfs::Archive, qmp::Qmp};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// The script that the kernel starts; it runs the job, a script at `/job`.
const INIT: &str = include_str!("../init");

/// What the guest script adds to the job's code before it writes it to the exit device, so that no other end looks alike.
const EXIT_BASE: i32 = 16;

/// A machine to be.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// What its console's file is called.
    pub name: &'a str,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB, huge pages included.
    pub memory_mib: u32,
    /// Pages of 2 MiB that the kernel keeps for DPDK.
    pub huge_pages: u32,
    /// Pairs of cards with several queues, wired to each other: `nic0` to `nic1`, `nic2` to `nic3`; at most eight pairs.
    pub wires: u32,
    /// Whether its kernel speaks IPv6, which also means that it speaks on every card without being asked.
    pub ipv6: bool,
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The guest's kernel, as it calls itself.
    pub kernel: String,
    /// The job's exit code.
    pub code: i32,
    /// What it said before its first phase: keys and values, in order.
    pub said: Vec<(String, String)>,
    /// Its phases, in order; a job need not have any.
    pub phases: Vec<Phase>,
    /// From the start of the emulator to the first line of the guest's script.
    pub boot: Duration,
    /// From the start of the emulator to its end.
    pub wall: Duration,
}

/// A part of a job.
#[derive(Debug)]
pub struct Phase {
    /// What the job calls it.
    pub name: String,
    /// What it said in it: keys and values, in order.
    pub said: Vec<(String, String)>,
    /// How long it took.
    pub wall: Duration,
}

/// A phase that goes on.
struct Current {
    phase: Phase,
    began: Instant,
    limit: Duration,
}

impl Current {
    /// Begins what `NAME SECONDS` says.
    fn begin(words: &str) -> Result<Self> {
        let (name, seconds) = words.split_once(' ').context("a phase has a name and a limit in seconds")?;
        let phase = Phase { name: name.to_owned(), said: Vec::new(), wall: Duration::ZERO };
        Ok(Self { phase, began: Instant::now(), limit: Duration::from_secs(seconds.parse()?) })
    }

    fn end(self) -> Phase {
        Phase { wall: self.began.elapsed(), ..self.phase }
    }
}

impl Guest<'_> {
    /// Boots what is in `bed`, runs `job`, an archive with a script at `/job` and what it needs, and ends after `limit` at the latest.
    ///
    /// # Errors
    ///
    /// Says so if the emulator does not start, or if the guest died or hung before it said how its job ended; the
    /// last lines of its console are then part of the message. A job that fails is no error: see [`Outcome::code`].
    pub fn run(&self, bed: &Bed, job: &Archive, limit: Duration) -> Result<Outcome> {
        let folder = Folder::make()?;
        let mut start = Archive::new();
        start.file("/init", INIT.as_bytes().to_vec(), true);
        fs::write(folder.0.join("initrd"), [bed.archive().bytes(), start.bytes(), job.bytes()].concat())?;
        let began = Instant::now();
        let child = self.command(bed, &folder.0)?.spawn().context("cannot start setpriv, of util-linux")?;
        let result = converse(&mut Emulator(child), &folder.0.join("qmp"), began, limit);
        result.with_context(|| bed.last_words(self.name))
    }

    /// The emulator's command line. It runs in `folder`, because the path of a socket may not be long.
    fn command(&self, bed: &Bed, folder: &Path) -> Result<Command> {
        // The emulator ends with us, even if we are killed and cannot end it; setpriv becomes what it starts.
        let emulator = bed.tools().command("/usr/bin/qemu-system-x86_64")?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(emulator.get_program());
        command.envs(emulator.get_envs().filter_map(|(name, value)| Some((name, value?))));
        for data in ["/usr/share/seabios", "/usr/share/qemu"] {
            command.arg("-L").arg(bed.tools().find(data)?);
        }
        let append = format!(
            "console=ttyS0 quiet loglevel=3 panic=-1 tsc=reliable no_timer_check nokaslr mitigations=off \
             random.trust_cpu=on ipv6.disable={} intel_iommu=on iommu=pt hugepagesz=2M hugepages={}",
            u8::from(!self.ipv6),
            self.huge_pages
        );
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(bed.kernel())
            .args(["-initrd", "initrd", "-append", &append])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-qmp", "unix:qmp,server=on,wait=off"])
            // Interrupts are remapped too: vfio refuses a card that could forge them.
            .args(["-device", "intel-iommu,intremap=on,caching-mode=on"])
            .arg("-serial")
            .arg(format!("file:{}", bed.console(self.name).display()))
            .args(["-serial", "stdio"])
            .args((0..self.wires * 2).flat_map(card))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Ok(command)
    }
}

/// The options of one card. Each is behind a port of its own, because cards that share a bus share an IOMMU group and have
/// their virtual functions collide; the port's place, 10h and upwards, is where the guest's script looks for it.
fn card(number: u32) -> [String; 6] {
    let peer = number ^ 1;
    [
        "-device".to_owned(),
        format!("pcie-root-port,id=port{number},bus=pcie.0,addr={:#x},chassis={number},slot={number}", 0x10 + number),
        "-netdev".to_owned(),
        format!(
            "dgram,id=wire{number},local.type=unix,local.path=wire{number},remote.type=unix,remote.path=wire{peer}"
        ),
        "-device".to_owned(),
        format!("igb,id=nic{number},netdev=wire{number},bus=port{number},mac=52:54:00:00:00:{number:02x}"),
    ]
}

/// Takes the guest's lines, does what it asks, and waits for its end.
fn converse(emulator: &mut Emulator, qmp: &Path, began: Instant, limit: Duration) -> Result<Outcome> {
    let mut input = emulator.0.stdin.take().context("the emulator has an input")?;
    let output = emulator.0.stdout.take().context("the emulator has an output")?;
    let (sender, lines) = mpsc::channel();
    // A thread, because reading a pipe has no time limit; it ends with the emulator.
    std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.map(|line| sender.send(line)).all(|sent| sent.is_ok())
    });
    let (mut said, mut phases, mut up, mut code, mut control) = (Vec::new(), Vec::new(), None, None, None);
    let mut current: Option<Current> = None;
    loop {
        let line = match lines.recv_timeout(left(began, limit, current.as_ref())) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("{} and was ended", late(limit, current.as_ref())),
        };
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match word {
            "up" => up = Some((rest.to_owned(), began.elapsed())),
            "say" => {
                let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
                let to = current.as_mut().map_or(&mut said, |current| &mut current.phase.said);
                to.push((key.to_owned(), value.to_owned()));
            }
            "phase" => phases.extend(current.replace(Current::begin(rest)?).map(Current::end)),
            "ask" => answer(&mut input, perform(&mut control, qmp, rest))?,
            "exit" => code = Some(rest.parse::<i32>().with_context(|| format!("the guest ended with {rest}"))?),
            _ => bail!("the guest said what nobody understands: {line:?}"),
        }
    }
    let status = emulator.0.wait()?;
    let code =
        code.with_context(|| format!("the guest died before its job ended; the emulator ended with {status}"))?;
    // isa-debug-exit ends the emulator with 2v + 1 for a written v.
    let expected = 2 * (EXIT_BASE + code) + 1;
    ensure!(status.code() == Some(expected), "the guest said exit {code}, but its emulator ended with {status}");
    let (kernel, boot) = up.context("the guest never said that it was up")?;
    phases.extend(current.map(Current::end));
    Ok(Outcome { kernel, code, said, phases, boot, wall: began.elapsed() })
}

/// How long the guest may still be silent: the whole job's limit and that of its phase both count.
fn left(began: Instant, limit: Duration, current: Option<&Current>) -> Duration {
    let whole = limit.saturating_sub(began.elapsed());
    current.map_or(whole, |current| whole.min(current.limit.saturating_sub(current.began.elapsed())))
}

fn late(limit: Duration, current: Option<&Current>) -> String {
    match current {
        Some(current) if current.began.elapsed() >= current.limit => {
            let words: Vec<_> = current.phase.said.iter().map(|(key, value)| format!("{key} {value}")).collect();
            format!(
                "phase {} was not over after {:?}, having said [{}],",
                current.phase.name,
                current.limit,
                words.join("; ")
            )
        }
        _ => format!("the guest was not done after {limit:?}"),
    }
}

/// Does what the guest asks of the host.
fn perform(control: &mut Option<Qmp>, path: &Path, asked: &str) -> Result<()> {
    let words: Vec<_> = asked.split(' ').collect();
    if !matches!(words[..], ["link", _, "on" | "off"] | ["remove", _]) {
        bail!("the host cannot do {asked:?}");
    }
    let qmp = match control {
        Some(qmp) => qmp,
        None => control.insert(Qmp::connect(path)?),
    };
    match words[..] {
        ["link", card, state] => qmp.set_link(card, state == "on"),
        ["remove", card] => qmp.remove(card),
        _ => Ok(()), // sorted out above
    }
}

fn answer(input: &mut ChildStdin, done: Result<()>) -> Result<()> {
    match done {
        Ok(()) => writeln!(input, "done")?,
        Err(error) => writeln!(input, "{}", format!("{error:#}").replace('\n', " "))?,
    }
    Ok(input.flush()?)
}

/// Ends the emulator however we leave.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// How the folders of running guests are called, before the number of the process that runs them.
const FOLDER: &str = "tachyon-lab-";

/// A folder that goes when we do.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self::sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{FOLDER}{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Removes what runs that were killed have left. That is a tidiness, so what cannot be removed is left too.
    fn sweep() {
        for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(FOLDER)?.split('-').next());
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0)); // what cannot be removed now is in the folder for temporary things
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_wired_in_pairs() {
        assert!(card(2)[3].ends_with("local.path=wire2,remote.type=unix,remote.path=wire3"));
        assert!(card(3)[3].ends_with("local.path=wire3,remote.type=unix,remote.path=wire2"));
        assert!(card(3)[1].contains("addr=0x13,"));
    }

    #[test]
    fn the_shorter_of_both_limits_counts_and_says_so() {
        let began = Instant::now();
        let whole = Duration::from_secs(100);
        assert!(left(began, whole, None) > Duration::from_secs(50));
        let over = Current::begin("links 0").unwrap();
        assert_eq!(left(began, whole, Some(&over)), Duration::ZERO);
        assert!(
            late(whole, Some(&over)).starts_with("phase links was not over after 0ns"),
            "{}",
            late(whole, Some(&over))
        );
        assert_eq!(late(whole, Some(&Current::begin("links 900").unwrap())), "the guest was not done after 100s");
    }

    #[test]
    fn only_known_things_are_done_for_a_guest() {
        let nowhere = Path::new("/nonexistent");
        let why = |asked| perform(&mut None, nowhere, asked).unwrap_err().to_string();
        assert_eq!(why("link nic0 sideways"), "the host cannot do \"link nic0 sideways\"");
        assert_eq!(why("remove"), "the host cannot do \"remove\"");
        assert_eq!(why("link nic0 off"), "no emulator listens at /nonexistent");
    }
}
