//! A small XDP program that redirects our UDP ports into sockets, written as instructions so that no compiler for it is needed.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
};

/// Commands, types and flags of linux/bpf.h and linux/if_link.h.
const MAP_CREATE: i64 = 0;
const PROGRAM_LOAD: i64 = 5;
const LINK_CREATE: i64 = 28;
const TYPE_XSKMAP: u32 = 17;
const TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const HAS_FRAGMENTS: u32 = 1 << 5;
const IN_DRIVER: u32 = 1 << 2;
const REDIRECT_MAP: i32 = 51;
const DROP: i32 = 1;
const PASS: i32 = 2;

/// What is redirected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Redirected {
    /// UDP over IPv4 (options included) and IPv6, behind a priority tag or none, to this port and so many after it.
    Ports(u16, u16),
    /// Everything.
    All,
    /// Nothing: what goes to this port and so many after it is thrown away.
    Dropped(u16, u16),
}

/// A program on an interface with its map; both gone with this value.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub(crate) map: Arc<OwnedFd>,
    _link: OwnedFd,
}

fn bpf<const WORDS: usize>(command: i64, attributes: [u64; WORDS]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes, and what they point to, live through the call, and the length is the one passed.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(&attributes)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) })
}

fn words(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Redirect {
    /// Puts the program onto the interface with this index.
    pub(crate) fn new(interface: u32, what: Redirected) -> io::Result<Self> {
        let map = Arc::new(bpf(MAP_CREATE, [words(TYPE_XSKMAP, 4), words(4, 64), 0])?);
        Self::attach(interface, what, map)
    }

    /// Puts another one that uses the same map and the usual ports onto an interface.
    pub(crate) fn with_map(interface: u32, other: &Self) -> io::Result<Self> {
        Self::attach(interface, Redirected::Ports(super::BASE_PORT, 16), other.map.clone())
    }

    fn attach(interface: u32, what: Redirected, map: Arc<OwnedFd>) -> io::Result<Self> {
        let code = program(what, map.as_raw_fd());
        let licence = c"Apache-2.0";
        let mut log = vec![0u8; 1 << 16];
        let attributes = [
            words(TYPE_XDP, u32::try_from(code.len()).unwrap()),
            code.as_ptr().expose_provenance() as u64,
            licence.as_ptr().expose_provenance() as u64,
            words(1, u32::try_from(log.len()).unwrap()),
            log.as_mut_ptr().expose_provenance() as u64,
            words(0, HAS_FRAGMENTS),
            0,
            0,
            words(0, ATTACH_XDP),
        ];
        let loaded = bpf(PROGRAM_LOAD, attributes).inspect_err(|_| {
            eprintln!("{}", String::from_utf8_lossy(&log).trim_end_matches('\0'));
        })?;
        let program = loaded.as_raw_fd().cast_unsigned();
        // A program that was just taken off stays until no child of another test holds it, between its fork and its exec.
        let mut tries = 0;
        let link = loop {
            match bpf(LINK_CREATE, [words(program, interface), words(ATTACH_XDP, IN_DRIVER)]) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < 1_000 => tries += 1,
                link => break link?,
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        Ok(Self { map, _link: link })
    }
}

/// Instructions, with jumps to labels that are found at the end.
#[derive(Default)]
struct Assembler {
    code: Vec<u64>,
    jumps: Vec<(usize, &'static str)>,
    labels: Vec<(&'static str, usize)>,
}

impl Assembler {
    fn op(&mut self, code: u8, to: u8, from: u8, offset: i16, value: i32) -> &mut Self {
        let [o0, o1] = offset.to_le_bytes();
        let [v0, v1, v2, v3] = value.to_le_bytes();
        self.code.push(u64::from_le_bytes([code, to | from << 4, o0, o1, v0, v1, v2, v3]));
        self
    }
    fn mov(&mut self, to: u8, from: u8) -> &mut Self {
        self.op(0xbf, to, from, 0, 0)
    }
    fn set(&mut self, to: u8, value: i32) -> &mut Self {
        self.op(0xb7, to, 0, 0, value)
    }
    fn add(&mut self, to: u8, value: i32) -> &mut Self {
        self.op(0x07, to, 0, 0, value)
    }
    fn load(&mut self, bytes: u8, to: u8, from: u8, offset: i16) -> &mut Self {
        let code = match bytes {
            1 => 0x71,
            2 => 0x69,
            _ => 0x61,
        };
        self.op(code, to, from, offset, 0)
    }
    fn jump(&mut self, code: u8, left: u8, right: u8, value: i32, label: &'static str) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.op(code, left, right, 0, value)
    }
    /// Passes the packet unless so many bytes lie behind register 7; register 3 is its end.
    fn need(&mut self, bytes: i32) -> &mut Self {
        self.mov(4, 7).add(4, bytes).jump(0x2d, 4, 3, 0, "pass")
    }
    fn label(&mut self, name: &'static str) -> &mut Self {
        self.labels.push((name, self.code.len()));
        self
    }
    fn finish(mut self) -> Vec<u64> {
        for (at, label) in self.jumps {
            let (_, target) = self.labels.iter().find(|(name, _)| *name == label).unwrap();
            let offset = i16::try_from(*target).unwrap() - i16::try_from(at).unwrap() - 1;
            self.code[at] |= u64::from(offset.cast_unsigned()) << 16;
        }
        self.code
    }
}

fn program(what: Redirected, map: i32) -> Vec<u64> {
    let [equal, not_equal, at_least, always] = [0x15, 0x55, 0x35, 0x05];
    let mut p = Assembler::default();
    p.mov(6, 1);
    if let Redirected::Ports(base, count) | Redirected::Dropped(base, count) = what {
        p.load(4, 7, 1, 0).load(4, 3, 1, 4); // start and end of the packet
        p.need(14).load(2, 5, 7, 12).add(7, 14);
        p.jump(not_equal, 5, 0, 0x0081, "untagged").need(4).load(2, 5, 7, 2).add(7, 4);
        p.label("untagged")
            .jump(equal, 5, 0, 0x0008, "v4")
            .jump(equal, 5, 0, 0xdd86, "v6")
            .jump(always, 0, 0, 0, "pass");
        p.label("v6")
            .need(40)
            .load(1, 5, 7, 6)
            .jump(not_equal, 5, 0, 17, "pass")
            .add(7, 40)
            .jump(always, 0, 0, 0, "udp");
        p.label("v4").need(20).load(1, 5, 7, 9).jump(not_equal, 5, 0, 17, "pass");
        p.load(1, 5, 7, 0).op(0x57, 5, 0, 0, 15).op(0x67, 5, 0, 0, 2).op(0x0f, 7, 5, 0, 0); // options
        p.label("udp").need(8).load(2, 5, 7, 2).op(0xdc, 5, 0, 0, 16);
        p.add(5, -i32::from(base)).jump(at_least, 5, 0, i32::from(count), "pass");
    }
    if matches!(what, Redirected::Dropped(..)) {
        p.set(0, DROP).op(0x95, 0, 0, 0, 0).label("pass").set(0, PASS).op(0x95, 0, 0, 0, 0);
        return p.finish();
    }
    p.load(4, 2, 6, 16).op(0x18, 1, 1, 0, map).op(0, 0, 0, 0, 0).set(3, PASS);
    p.op(0x85, 0, 0, 0, REDIRECT_MAP).op(0x95, 0, 0, 0, 0);
    if matches!(what, Redirected::Ports(..)) {
        p.label("pass").set(0, PASS).op(0x95, 0, 0, 0, 0); // which would be dead code otherwise, and that is refused
    }
    p.finish()
}
