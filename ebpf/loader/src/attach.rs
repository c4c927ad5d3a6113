//! The program on an interface.

use crate::{Config, Content, Doing, Facts, LoaderError, Program, Result, Tables, place, sys};
use libbpf_rs::{Link, MapCore, MapHandle, Xdp, XdpFlags, libbpf_sys, query::LinkTypeInfo};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// What was on the interface before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing of ours; the tables are new and hold what was given.
    Nothing,
    /// The same program; it and its tables were left alone.
    Same,
    /// Another program with the same layout; it was replaced, and its tables were kept.
    OtherProgram,
    /// A program with another layout; both were replaced, and the tables hold what was given.
    OtherLayout,
}

/// How the device runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before any memory is spent on the packet.
    Native,
    /// In the kernel, once the driver made a packet of it.
    Generic,
    /// In the device itself.
    Offloaded,
}

/// How an interface is filtered.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// How the device runs the program.
    pub mode: Mode,
    /// What the kernel says of it.
    pub program: Facts,
}

/// The pre-filter of one interface. It stays there when this is dropped; only [`Prefilter::detach`] takes it off.
#[derive(Debug)]
pub struct Prefilter {
    interface: String,
    ifindex: u32,
    folder: PathBuf,
    program: Program,
    found: Found,
    why_generic: Option<String>,
}

const LINK: &str = "link";

impl Prefilter {
    /// Attaches the program to an interface, or adopts what an earlier loader left there. Native XDP is tried first, and
    /// generic where the configuration allows it and the driver has none.
    ///
    /// # Errors
    /// No such interface, somebody else's program on it, or the kernel refuses; what was attached goes on.
    pub fn attach(interface: &str, config: &Config, content: &Content<'_>) -> Result<Self> {
        let ifindex = place::index_of(interface)?;
        let folder = place::make_folder(&config.pins, interface)?;
        let (program, found, why_generic) = match attached(&folder.join(LINK), ifindex)? {
            Some((link, program)) => {
                let (program, found) = adopt(&link, program, config, content)?;
                (program, found, None)
            }
            None => {
                let program = Program::load(config, content)?;
                let (link, why_generic) = create_link(&program, interface, ifindex, config.generic_allowed)?;
                sys::pin(link.as_fd(), &folder.join(LINK))
                    .doing(|| format!("the link cannot be pinned in {}", folder.display()))?;
                (program, Found::Nothing, why_generic)
            }
        };
        name_tables(program.tables(), &folder)?;
        Ok(Self { interface: interface.to_owned(), ifindex, folder, program, found, why_generic })
    }

    /// Looks at what is attached, for tools; `None` if nothing of ours is.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn open(interface: &str, pins: &Path) -> Result<Option<Self>> {
        let ifindex = place::index_of(interface)?;
        let folder = place::folder(pins, interface);
        let Some((_, program)) = attached(&folder.join(LINK), ifindex)? else { return Ok(None) };
        let interface = interface.to_owned();
        Ok(Some(Self { interface, ifindex, folder, program, found: Found::Same, why_generic: None }))
    }

    /// What was on the interface before.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found
    }

    /// Why this call fell back to generic XDP, if it did.
    #[must_use]
    pub fn why_generic(&self) -> Option<&str> {
        self.why_generic.as_deref()
    }

    /// The tables, to change and to read.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        self.program.tables()
    }

    /// How the interface is filtered.
    ///
    /// # Errors
    /// The kernel refuses, or somebody took the program off.
    pub fn status(&self) -> Result<Status> {
        let ifindex = i32::try_from(self.ifindex).doing(|| "the interface's number".to_owned())?;
        let asked = Xdp::new(self.program.as_fd()).query(ifindex, XdpFlags::NONE);
        let asked = asked.doing(|| format!("{} cannot be asked for its XDP program", self.interface))?;
        let mode = match u32::from(asked.attach_mode) {
            libbpf_sys::XDP_ATTACHED_DRV => Mode::Native,
            libbpf_sys::XDP_ATTACHED_SKB => Mode::Generic,
            libbpf_sys::XDP_ATTACHED_HW => Mode::Offloaded,
            _ => return Err(LoaderError(format!("{} has no XDP program any more; attach anew", self.interface))),
        };
        Ok(Status { mode, program: self.program.facts()? })
    }

    /// Takes the program off the interface and removes all pins. Packets go to the kernel from then on.
    ///
    /// # Errors
    /// The kernel refuses, or a pin cannot be removed.
    pub fn detach(self) -> Result<()> {
        // Removing the pin alone would end the link too, but at a later time of the kernel's choice.
        if let Some((link, _)) = attached(&self.folder.join(LINK), self.ifindex)? {
            link.detach().doing(|| format!("the program cannot be taken off {}", self.interface))?;
        }
        // A loader that dies from here on leaves names of nothing, which the next one removes or gives anew.
        for name in self.tables().all().map(|(name, _)| name).into_iter().chain([LINK]) {
            remove(&self.folder.join(name))?;
        }
        fs::remove_dir(&self.folder).doing(|| format!("{} cannot be removed", self.folder.display()))
    }
}

/// The link that is pinned for this interface, and its program. A pin that outlived its interface is removed.
fn attached(pin: &Path, ifindex: u32) -> Result<Option<(Link, Program)>> {
    if !pin.exists() {
        return Ok(None);
    }
    let link = Link::open(pin).doing(|| format!("{} is no link that can be opened", pin.display()))?;
    let info = link.info().doing(|| format!("the link {} cannot be described", pin.display()))?;
    match info.info {
        LinkTypeInfo::Xdp(xdp) if xdp.ifindex == ifindex => {
            let program = Program::from_id(info.prog_id)?;
            ensure_here(pin, &program, ifindex, info.prog_id)?;
            Ok(Some((link, program)))
        }
        _ => {
            remove(pin)?;
            Ok(None)
        }
    }
}

/// Names and numbers of interfaces repeat between network namespaces that share a folder of pins, and a link does not say
/// which namespace it is in: so the interface itself is asked.
fn ensure_here(pin: &Path, program: &Program, ifindex: u32, program_id: u32) -> Result<()> {
    let number = i32::try_from(ifindex).doing(|| "the interface's number".to_owned())?;
    let here = Xdp::new(program.as_fd()).query_id(number, XdpFlags::NONE);
    let here = here.doing(|| format!("interface {ifindex} cannot be asked for its XDP program"))?;
    if here == program_id {
        return Ok(());
    }
    Err(LoaderError(format!(
        "{} is of an interface of another network namespace, or was just replaced; give each namespace a folder of \
         its own for pins, or try again",
        pin.display()
    )))
}

/// Makes the attached program the one that is asked for, if it is not.
fn adopt(link: &Link, attached: Program, config: &Config, content: &Content<'_>) -> Result<(Program, Found)> {
    let (program, found) = match attached.compared(config)? {
        (true, _) => return Ok((attached, Found::Same)),
        (false, true) => (Program::load_over(config, Some(attached.tables()))?, Found::OtherProgram),
        (false, false) => (Program::load(config, content)?, Found::OtherLayout),
    };
    sys::link_update(link.as_fd(), program.as_fd())
        .doing(|| "the attached program cannot be replaced and goes on".to_owned())?;
    Ok((program, found))
}

/// The link, and why it is generic if it is.
fn create_link(program: &Program, interface: &str, ifindex: u32, generic: bool) -> Result<(OwnedFd, Option<String>)> {
    let native = match sys::link_create(program.as_fd(), ifindex, libbpf_sys::XDP_FLAGS_DRV_MODE) {
        Ok(link) => return Ok((link, None)),
        Err(error) if is_taken(&error) => return Err(taken(interface)),
        Err(error) => error,
    };
    let why = format!("the driver of {interface} takes no XDP program ({native})");
    if !generic {
        return Err(LoaderError(format!("{why}; lower its MTU, or allow generic XDP")));
    }
    match sys::link_create(program.as_fd(), ifindex, libbpf_sys::XDP_FLAGS_SKB_MODE) {
        Ok(link) => Ok((link, Some(why))),
        Err(error) if is_taken(&error) => Err(taken(interface)),
        Err(error) => Err(LoaderError(format!("{why}, and the kernel refuses generic XDP: {error}"))),
    }
}

/// Which of both the kernel says, and at which of the two attempts, differs between 6.1 and later ones.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::AlreadyExists)
}

fn taken(interface: &str) -> LoaderError {
    LoaderError(format!(
        "{interface} has an XDP program of somebody else's; take it off (`ip link set dev {interface} xdp off`, or \
         `xdp-loader unload {interface} --all`)"
    ))
}

/// Gives the tables names beside the link. They are for people and tools; the program itself keeps the tables.
fn name_tables(tables: &Tables, folder: &Path) -> Result<()> {
    for (name, table) in tables.all() {
        let path = folder.join(name);
        let id = |map: &MapHandle| map.info().map(|info| info.info.id).ok();
        let named = MapHandle::from_pinned_path(&path).ok().as_ref().and_then(id);
        if named.is_some() && named == id(table) {
            continue;
        }
        remove(&path)?;
        sys::pin(table.as_fd(), &path)
            .doing(|| format!("the table {name} cannot be pinned in {}", folder.display()))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LoaderError(format!("{} cannot be removed: {error}", path.display())))
        }
        _ => Ok(()),
    }
}
