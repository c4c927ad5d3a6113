//! The program on an interface.

use crate::{Config, Content, Doing, Facts, LoaderError, Program, Result, Tables, place, sys};
use libbpf_rs::{Link, MapCore, MapHandle, Xdp, XdpFlags, libbpf_sys, query::LinkTypeInfo};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
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

/// The pre-filter of one interface. It stays there when this is dropped; only [`Prefilter::take_off`] takes it off.
#[derive(Debug)]
pub struct Prefilter {
    interface: String,
    ifindex: u32,
    config: Config,
    program: Program,
    /// What holds the program on the interface. Kept open, because opening it again from its pin takes rights that whoever
    /// keeps a filter for long would rather give up.
    link: Option<OwnedFd>,
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
        let Some((link, program)) = attached(&folder.join(LINK), ifindex)? else {
            let mut new = Self::load(interface, config, content)?;
            new.put_on()?;
            return Ok(new);
        };
        let (program, found) = adopt(&link, program, config, content)?;
        name_tables(program.tables(), &folder)?;
        let link = Some(held(&link)?);
        Ok(Self {
            interface: interface.to_owned(),
            ifindex,
            config: config.clone(),
            program,
            link,
            found,
            why_generic: None,
        })
    }

    /// Loads the program and puts it nowhere yet: its tables can be kept, for [`Prefilter::put_on`] later.
    ///
    /// # Errors
    /// A configuration that cannot be kept, no file system for pins, or the kernel refuses.
    pub fn load(interface: &str, config: &Config, content: &Content<'_>) -> Result<Self> {
        place::make_folder(&config.pins, interface)?;
        let (program, interface) = (Program::load(config, content)?, interface.to_owned());
        let (config, found) = (config.clone(), Found::Nothing);
        Ok(Self { interface, ifindex: 0, config, program, link: None, found, why_generic: None })
    }

    /// Looks at what is attached, for tools; `None` if nothing of ours is.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn open(interface: &str, pins: &Path) -> Result<Option<Self>> {
        let ifindex = place::index_of(interface)?;
        let folder = place::folder(pins, interface);
        let Some((link, program)) = attached(&folder.join(LINK), ifindex)? else { return Ok(None) };
        let (interface, link) = (interface.to_owned(), Some(held(&link)?));
        let config = Config { pins: pins.to_owned(), ..Config::default() };
        Ok(Some(Self { interface, ifindex, config, program, link, found: Found::Same, why_generic: None }))
    }

    /// A program that somebody else put onto an interface.
    pub(crate) fn of_others(interface: &str, ifindex: u32, config: &Config, program: Program) -> Self {
        let (interface, config, found) = (interface.to_owned(), config.clone(), Found::Same);
        Self { interface, ifindex, config, program, link: None, found, why_generic: None }
    }

    /// Takes a program off that somebody else put there, see [`Prefilter::beside`]; nothing happens if it is gone already. Needs
    /// CAP_NET_ADMIN alone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take_off_beside(&self) -> Result<()> {
        if self.status().is_err() {
            return Ok(());
        }
        let ifindex = i32::try_from(self.ifindex).doing(|| "the interface's number".to_owned())?;
        let off = Xdp::new(self.program.as_fd()).detach(ifindex, XdpFlags::NONE);
        off.doing(|| format!("the program of {} cannot be taken off", self.interface))
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
        let program = self.program.facts()?;
        if ![asked.prog_id, asked.drv_prog_id, asked.skb_prog_id, asked.hw_prog_id].contains(&program.program_id) {
            return Err(LoaderError(format!(
                "{} has an XDP program that is not this one; attach anew",
                self.interface
            )));
        }
        Ok(Status { mode, program })
    }

    /// What the kernel says of the program, whether it is on the interface or not.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn facts(&self) -> Result<Facts> {
        self.program.facts()
    }

    /// Puts the program, with its tables as they are, onto the interface again: after [`Prefilter::take_off`], or when the
    /// interface went away and came back. Needs no more than CAP_BPF and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// As with [`Prefilter::attach`].
    pub fn put_on(&mut self) -> Result<()> {
        let ifindex = place::index_of(&self.interface)?;
        let folder = place::make_folder(&self.config.pins, &self.interface)?;
        let pin = folder.join(LINK);
        let link = match pinned(&pin, ifindex)? {
            Some(link) => {
                sys::link_update(link.as_fd(), self.program.as_fd())
                    .doing(|| "the attached program cannot be replaced and goes on".to_owned())?;
                held(&link)?
            }
            None => {
                let (link, why_generic) = create_link(&self.program, &self.interface, ifindex, &self.config)?;
                sys::pin(link.as_fd(), &pin).doing(|| format!("the link cannot be pinned in {}", folder.display()))?;
                self.why_generic = why_generic;
                link
            }
        };
        (self.ifindex, self.link) = (ifindex, Some(link));
        name_tables(self.program.tables(), &folder)
    }

    /// Takes the program off the interface and removes all pins; the program and its tables stay with this value. Packets
    /// go to the kernel from then on.
    ///
    /// # Errors
    /// The kernel refuses, or a pin cannot be removed.
    pub fn take_off(&mut self) -> Result<()> {
        let folder = place::folder(&self.config.pins, &self.interface);
        // Removing the pin alone would end the link too, but at a later time of the kernel's choice.
        if let Some(link) = self.link.take()
            && let Err(error) = sys::link_detach(link.as_fd())
        {
            let text = format!("the program cannot be taken off {}: {error}", self.interface);
            self.link = Some(link);
            return Err(LoaderError(text));
        }
        // A loader that dies from here on leaves names of nothing, which the next one removes or gives anew.
        for name in self.tables().all().map(|(name, _)| name).into_iter().chain([LINK]) {
            remove(&folder.join(name))?;
        }
        match fs::remove_dir(&folder) {
            // It was off already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.doing(|| format!("{} cannot be removed", folder.display())),
        }
    }

    /// Takes the program off, as [`Prefilter::take_off`], for good.
    ///
    /// # Errors
    /// As there.
    pub fn detach(mut self) -> Result<()> {
        self.take_off()
    }

    /// Gives the pins and their folders to a user, for a process that goes on as that user. Links are not followed: the folders
    /// may be that user's already, who could have what is not its own given away.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn give_pins_to(&self, uid: u32, gid: u32) -> Result<()> {
        let names: Vec<&str> = self.tables().all().map(|(name, _)| name).into_iter().chain([LINK]).collect();
        place::give_to(&self.config.pins, &self.interface, &names, (uid, gid))
    }
}

/// The descriptor of a link, for as long as it is wanted.
fn held(link: &Link) -> Result<OwnedFd> {
    link.as_fd().try_clone_to_owned().doing(|| "the link's descriptor".to_owned())
}

/// The link that is pinned for this interface, and its program.
fn attached(pin: &Path, ifindex: u32) -> Result<Option<(Link, Program)>> {
    let Some(link) = pinned(pin, ifindex)? else { return Ok(None) };
    let info = link.info().doing(|| format!("the link {} cannot be described", pin.display()))?;
    let program = Program::from_id(info.prog_id)?;
    Ok(Some((link, program)))
}

/// The link that is pinned for this interface. A pin that outlived its interface is removed.
fn pinned(pin: &Path, ifindex: u32) -> Result<Option<Link>> {
    if !pin.exists() {
        return Ok(None);
    }
    let link = Link::open(pin).doing(|| format!("{} is no link that can be opened", pin.display()))?;
    let info = link.info().doing(|| format!("the link {} cannot be described", pin.display()))?;
    match info.info {
        LinkTypeInfo::Xdp(xdp) if xdp.ifindex == ifindex => {
            ensure_here(pin, &link, ifindex, info.prog_id)?;
            Ok(Some(link))
        }
        _ => {
            remove(pin)?;
            Ok(None)
        }
    }
}

/// Names and numbers of interfaces repeat between network namespaces that share a folder of pins, and a link does not say
/// which namespace it is in: so the interface itself is asked.
fn ensure_here(pin: &Path, link: &Link, ifindex: u32, program_id: u32) -> Result<()> {
    let number = i32::try_from(ifindex).doing(|| "the interface's number".to_owned())?;
    let here = Xdp::new(link.as_fd()).query_id(number, XdpFlags::NONE);
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

/// The link, and why it is generic if it is and need not be.
fn create_link(program: &Program, interface: &str, ifindex: u32, config: &Config) -> Result<(OwnedFd, Option<String>)> {
    let attempt = |flags| match sys::link_create(program.as_fd(), ifindex, flags) {
        Ok(link) => Ok(Ok(link)),
        Err(error) if is_taken(&error) => Err(taken(interface)),
        Err(error) => Ok(Err(error)),
    };
    let mut why = None;
    if config.native_allowed {
        let error = match attempt(libbpf_sys::XDP_FLAGS_DRV_MODE)? {
            Ok(link) => return Ok((link, None)),
            Err(error) => error,
        };
        why = Some(format!("the driver of {interface} takes no XDP program ({error})"));
        if !config.generic_allowed {
            let why = why.unwrap_or_default();
            return Err(LoaderError(format!("{why}; lower its MTU, or allow generic XDP")));
        }
    }
    match attempt(libbpf_sys::XDP_FLAGS_SKB_MODE)? {
        Ok(link) => Ok((link, why)),
        Err(error) => {
            let why = why.map_or_else(|| interface.to_owned(), |why| format!("{why}, and"));
            Err(LoaderError(format!("{why}: the kernel refuses generic XDP: {error}")))
        }
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
