//! The program, loaded but not attached to anything.

use crate::{
    Config, Doing, LoaderError, Result, Session, Tables, TopicBlocks,
    config::Image,
    contract, sys,
    tables::{CONSTANTS, Prefix},
};
use libbpf_rs::{MapType, ObjectBuilder, OpenObject};
use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The reader of object files wants its memory aligned.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/prefilter.bpf.o")));

/// What new tables begin with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Content<'a> {
    /// Sessions that are open.
    pub sessions: &'a [Session],
    /// Denied sources.
    pub deny: &'a [Prefix],
    /// Topics that somebody may publish on; `None` lets all pass, until told otherwise.
    pub topics: Option<&'a TopicBlocks>,
}

/// How the program answers a packet: the kernel's numbers for XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// XDP_DROP.
    Drop,
    /// XDP_PASS.
    Pass,
    /// XDP_REDIRECT.
    Redirect,
}

/// The outcome of a run without a device.
#[derive(Clone, Copy, Debug)]
pub struct TestRun {
    /// The answer.
    pub verdict: Verdict,
    /// Nanoseconds of one run, the mean of all.
    pub run_ns: u32,
}

/// What the kernel says of a loaded program.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The kernel's number for it, as `bpftool prog` shows.
    pub program_id: u32,
    /// Instructions that the verifier went through, on all ways together.
    pub verified_instructions: u32,
    /// Bytes of its instructions after the verifier.
    pub translated_bytes: u32,
    /// Bytes of its machine code.
    pub jited_bytes: u32,
    /// Nanoseconds it ran, while [`RunTimes`] were measured.
    pub run_time_ns: u64,
    /// How often it ran meanwhile.
    pub run_count: u64,
}

/// The kernel measures the run times of all programs for as long as this lives. It costs each run about 20 ns.
pub struct RunTimes {
    _kept: OwnedFd,
}

impl RunTimes {
    /// Begins to measure.
    ///
    /// # Errors
    /// Not allowed to.
    pub fn measure() -> Result<Self> {
        let kept = sys::measure_run_times().doing(|| "run times cannot be measured (run as root)".to_owned())?;
        Ok(Self { _kept: kept })
    }
}

impl fmt::Debug for RunTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunTimes")
    }
}

/// A loaded program and its tables.
pub struct Program {
    fd: OwnedFd,
    tables: Tables,
    image: Image,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl Program {
    /// Loads the program with tables of its own.
    ///
    /// # Errors
    /// A configuration that cannot be kept, or the kernel refuses; the error says what it said.
    pub fn load(config: &Config, content: &Content<'_>) -> Result<Self> {
        let program = Self::load_over(config, None)?;
        program.tables.fill(content)?;
        Ok(program)
    }

    /// Loads the program with the tables of another one of the same layout.
    pub(crate) fn load_over(config: &Config, tables: Option<&Tables>) -> Result<Self> {
        let object = prepared(config, tables)?.load().doing(|| {
            "the kernel refuses the pre-filter (run as root on Linux 6.1 or newer; the verifier's words are above)"
                .to_owned()
        })?;
        let program =
            object.progs().next().ok_or_else(|| LoaderError("the object file holds no program".to_owned()))?;
        let fd = program.as_fd().try_clone_to_owned().doing(|| "the program's descriptor".to_owned())?;
        Self::from_fd(fd)
    }

    /// A program that is loaded already.
    pub(crate) fn from_id(id: u32) -> Result<Self> {
        Self::from_fd(sys::program_by_id(id).doing(|| format!("the program {id} that is attached cannot be opened"))?)
    }

    fn from_fd(fd: OwnedFd) -> Result<Self> {
        let (_, maps) =
            sys::program_info(fd.as_fd()).doing(|| "the kernel does not describe the program".to_owned())?;
        let (tables, image) = Tables::of_maps(&maps)?;
        Ok(Self { fd, tables, image })
    }

    /// Its tables.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Whether this is the program that the configuration asks for, and if not whether its tables would do for that.
    pub(crate) fn compared(&self, config: &Config) -> Result<(bool, bool)> {
        let wanted = config.image(layout(&opened()?, config.generation), build())?;
        Ok((self.image().is_equivalent(&wanted), self.image().layout() == wanted.layout()))
    }

    /// Runs it over a packet that begins with its Ethernet header, `repeat` times, as if it had come on queue 0 of the
    /// loopback device. The ledger counts every run.
    ///
    /// # Errors
    /// The kernel refuses, or the program answers what it never should.
    pub fn test_run(&self, packet: &[u8], repeat: u32) -> Result<TestRun> {
        let run = sys::test_run(self.fd.as_fd(), packet, repeat);
        let (answer, run_ns) = run.doing(|| format!("a packet of {} bytes cannot be tried", packet.len()))?;
        let verdict = match answer {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            4 => Verdict::Redirect,
            other => return Err(LoaderError(format!("the pre-filter answered {other}, which it never should"))),
        };
        Ok(TestRun { verdict, run_ns })
    }

    /// What the kernel says of it.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn facts(&self) -> Result<Facts> {
        let (info, _) = sys::program_info(self.fd.as_fd()).doing(|| "the program cannot be described".to_owned())?;
        Ok(Facts {
            program_id: info.id,
            verified_instructions: info.verified_insns,
            translated_bytes: info.xlated_prog_len,
            jited_bytes: info.jited_prog_len,
            run_time_ns: info.run_time_ns,
            run_count: info.run_cnt,
        })
    }
}

impl AsFd for Program {
    /// The program, to be attached elsewhere or compared with others.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn opened() -> Result<OpenObject> {
    let mut builder = ObjectBuilder::default();
    let named = builder.name("prefilter").doing(|| "the pre-filter's name".to_owned())?;
    named.open_memory(&OBJECT.0).doing(|| "the pre-filter's object file cannot be read".to_owned())
}

/// The object file with its constants filled in, and with these tables in place of new ones.
pub(crate) fn prepared(config: &Config, tables: Option<&Tables>) -> Result<OpenObject> {
    let mut object = opened()?;
    let image = config.image(layout(&object, config.generation), build())?;
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name.ends_with(CONSTANTS) {
            let place = map.initial_value_mut().filter(|place| place.len() == image.0.len());
            let place = place.ok_or_else(|| LoaderError(format!("the program's {name} is not its configuration")))?;
            place.copy_from_slice(&image.0);
        } else if let Some(table) = tables.and_then(|tables| tables.named(&name)) {
            map.reuse_fd(table.as_fd()).doing(|| format!("the program cannot take over the table {name}"))?;
        }
    }
    Ok(object)
}

/// The object file as it was compiled, and what its constants are to be.
pub(crate) fn plain(config: &Config) -> Result<(Vec<u8>, Image)> {
    let image = config.image(layout(&opened()?, config.generation), build())?;
    Ok((OBJECT.0.to_vec(), image))
}

/// FNV-1a: it tells builds apart and protects nothing.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn build() -> u64 {
    fnv(OBJECT.0.iter().copied())
}

/// A hash over everything that must be the same for tables to be taken over: the shape of each, and what its bytes mean.
fn layout(object: &OpenObject, generation: u32) -> u32 {
    let mut shapes = Vec::new();
    for number in [generation, contract::LAYOUT, contract::PREFIXES_MAX, contract::TOPIC_BLOCK, contract::TOPIC_WORDS] {
        shapes.extend(number.to_ne_bytes());
    }
    for map in object.maps().filter(|map| !map.name().to_string_lossy().ends_with(CONSTANTS)) {
        shapes.extend(map.name().as_encoded_bytes());
        let kind = map.map_type();
        for number in [kind.into(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags()] {
            shapes.extend(u32::to_ne_bytes(number));
        }
        debug_assert!(kind != MapType::Unknown);
    }
    let [a, b, c, d, ..] = fnv(shapes).to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}
