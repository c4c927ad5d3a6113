//! Classic pcap files: written whole or not at all, and read while somebody else still writes them.
//!
//! The format is 24 bytes in front of the file and 16 in front of each packet (libpcap's pcap-savefile(5)), so no crate
//! is needed for it. Only Ethernet is known.

use std::{
    fmt::Display,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Magic numbers of files whose times are in microseconds and in nanoseconds.
const MAGIC_US: u32 = 0xa1b2_c3d4;
const MAGIC_NS: u32 = 0xa1b2_3c4d;
/// The one version there is, 2.4, as two `u16`.
const VERSION: [u16; 2] = [2, 4];
/// Link type Ethernet. The bits above the low 28 tell of frame check sequences and are not the type's.
const ETHERNET: u32 = 1;
const LINK_TYPE_BITS: u32 = 0x0fff_ffff;
/// Longest packet of any file, libpcap's own limit; a longer record is no record.
const PACKET_BYTES_MAX: u32 = 262_144;
/// Bytes in front of the file and of each packet.
const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;
/// Bytes read at once: the longest packet, and room for many ordinary ones.
const WINDOW_BYTES: usize = 1 << 20;
const _: () = assert!(WINDOW_BYTES > PACKET_BYTES_MAX as usize + RECORD_HEADER_BYTES);
/// Bytes written at once.
const WRITE_BYTES: usize = 1 << 18;

/// A file being written. It has another name until it is finished, so that whoever waits for it never sees a part; what is
/// not finished is removed.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl Writer {
    /// Begins the file that will be at `path`, replacing what is there only once it is finished.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut file = BufWriter::with_capacity(WRITE_BYTES, File::create(&partial)?);
        file.write_all(&file_header())?;
        Ok(Self { file, partial, path: path.to_owned(), finished: false })
    }

    /// Adds a packet, given in two parts, that was sent at this time (Unix nanoseconds).
    ///
    /// # Errors
    /// The disk is full or fails; the file is of no use then.
    pub fn write(&mut self, time_ns: u64, head: &[u8], tail: &[u8]) -> io::Result<()> {
        let too_large =
            |_| io::Error::new(io::ErrorKind::InvalidInput, "a packet or a time is larger than pcap has room for");
        let length = u32::try_from(head.len() + tail.len()).map_err(too_large)?;
        let seconds = u32::try_from(time_ns / 1_000_000_000).map_err(too_large)?;
        let rest_ns = u32::try_from(time_ns % 1_000_000_000).map_err(too_large)?;
        let fields = [seconds, rest_ns, length, length].map(u32::to_le_bytes);
        self.file.write_all(fields.as_flattened())?;
        self.file.write_all(head)?;
        self.file.write_all(tail)
    }

    /// Puts what was written so far where it can be read, still under the other name.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    /// The name it has until it is finished.
    #[must_use]
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// What was still to be written, or the renaming, failed.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        fs::rename(&self.partial, &self.path)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // There is nobody left to tell; a part that stays behind has a name that says so.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// The header of a file with times in nanoseconds: no time zone, no accuracy, packets in full.
fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC_NS.to_le_bytes());
    header[4..6].copy_from_slice(&VERSION[0].to_le_bytes());
    header[6..8].copy_from_slice(&VERSION[1].to_le_bytes());
    header[16..20].copy_from_slice(&PACKET_BYTES_MAX.to_le_bytes());
    header[20..24].copy_from_slice(&ETHERNET.to_le_bytes());
    header
}

/// Reads a file that may not be there yet, grows while it is read, and may be begun anew. A record that is not there in
/// full is waited for.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    open: Option<Open>,
    window: Box<[u8]>,
    /// What of the window was read from the file and is not consumed yet.
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    /// Bytes read from it.
    position: u64,
    /// The order it is written in, once its header was read.
    order: Option<Order>,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Little,
    Big,
}

impl Follower {
    /// Follows the file at `path` from where it ends now: what is in it already was meant for others.
    ///
    /// # Errors
    /// There is a file, and it is none that can be followed.
    pub fn new(path: &Path) -> Result<Self, String> {
        let window = vec![0; WINDOW_BYTES].into_boxed_slice();
        let mut follower = Self { path: path.to_owned(), open: None, window, start: 0, end: 0 };
        while follower.packet()?.is_some() {}
        Ok(follower)
    }

    /// The next packet from its Ethernet header on, in the order of the file; `None` if there is none yet.
    ///
    /// # Errors
    /// The file cannot be read, or is no pcap file of Ethernet packets: where, and what is wrong.
    pub fn packet(&mut self) -> Result<Option<&[u8]>, String> {
        loop {
            if let Some(packet) = self.take_record()? {
                return Ok(Some(&self.window[packet]));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Consumes the next record that is in the window in full: where its packet is.
    fn take_record(&mut self) -> Result<Option<Range<usize>>, String> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let order = match open.order {
            Some(order) => order,
            None => {
                let ready = &self.window[self.start..self.end];
                let Some(header) = ready.first_chunk::<FILE_HEADER_BYTES>() else { return Ok(None) };
                let order = order_of(header).map_err(|what| fault(&self.path, what))?;
                self.start += FILE_HEADER_BYTES;
                *open.order.insert(order)
            }
        };
        let ready = &self.window[self.start..self.end];
        let Some(header) = ready.first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
        let length = order.number([header[8], header[9], header[10], header[11]]);
        if length > PACKET_BYTES_MAX {
            return Err(fault(&self.path, format!("a record of {length} bytes; the file is damaged")));
        }
        let packet = self.start + RECORD_HEADER_BYTES..self.start + RECORD_HEADER_BYTES + length as usize;
        if packet.end > self.end {
            return Ok(None);
        }
        self.start = packet.end;
        Ok(Some(packet))
    }

    /// Reads on; false if there is nothing more now.
    fn fill(&mut self) -> Result<bool, String> {
        self.window.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let Some(open) = &mut self.open else { return self.begin() };
        // There is room: an incomplete record is shorter than the window.
        let count = open.file.read(&mut self.window[self.end..]).map_err(|error| fault(&self.path, error))?;
        self.end += count;
        open.position += count as u64;
        if count > 0 {
            return Ok(true);
        }
        match fs::metadata(&self.path) {
            // A writer that starts again empties the file, or puts another one in its place.
            Ok(now) if now.ino() != open.inode || now.len() < open.position => self.begin(),
            _ => Ok(false),
        }
    }

    /// Begins at the start of the file; false if there is none.
    fn begin(&mut self) -> Result<bool, String> {
        (self.start, self.end, self.open) = (0, 0, None);
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(fault(&self.path, error)),
        };
        let inode = file.metadata().map_err(|error| fault(&self.path, error))?.ino();
        self.open = Some(Open { file, inode, position: 0, order: None });
        Ok(true)
    }
}

impl Order {
    const fn number(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// The order that a file is written in; its packets' times do not matter to us, so neither does their unit.
fn order_of(header: &[u8; FILE_HEADER_BYTES]) -> Result<Order, String> {
    let magic = [header[0], header[1], header[2], header[3]];
    let is_known = |order: &Order| [MAGIC_US, MAGIC_NS].contains(&order.number(magic));
    let order = [Order::Little, Order::Big].into_iter().find(is_known);
    let order = order.ok_or("it is no pcap file (pcapng is another format); give the file that the node writes")?;
    let link_type = order.number([header[20], header[21], header[22], header[23]]) & LINK_TYPE_BITS;
    if link_type != ETHERNET {
        return Err(format!("its link type is {link_type} and not 1, Ethernet; record on an Ethernet device"));
    }
    Ok(order)
}

fn fault(path: &Path, what: impl Display) -> String {
    format!("cannot read {}: {what}", path.display())
}

#[cfg(test)]
mod tests {
    use super::{Follower, Writer};
    use std::{
        fs::{self, OpenOptions},
        io::Write,
        path::PathBuf,
    };

    /// A path of its own for each test; nothing is there.
    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tachyon-load-pcap-{name}-{}.pcap", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    fn next(follower: &mut Follower) -> Option<Vec<u8>> {
        follower.packet().unwrap().map(<[u8]>::to_vec)
    }

    /// A file header as another program would write it.
    fn header(magic: u32, link_type: u32, number: fn(u32) -> [u8; 4]) -> Vec<u8> {
        [number(magic).as_slice(), &[0; 16], &number(link_type)].concat()
    }

    fn record(bytes: &[u8], number: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let length = number(u32::try_from(bytes.len()).unwrap());
        [&[0; 8], &length[..], &length, bytes].concat()
    }

    #[test]
    fn what_is_written_is_read_and_only_once_it_is_finished() {
        let path = path("whole");
        let mut follower = Follower::new(&path).unwrap();
        let mut writer = Writer::create(&path).unwrap();
        for number in 0..3000u32 {
            writer.write(u64::from(number) * 999_999_999, &number.to_le_bytes(), &[7; 1468]).unwrap();
        }
        writer.flush().unwrap();
        assert_eq!(next(&mut follower), None, "nobody sees a part");
        let partial = writer.partial().to_owned();
        writer.finish().unwrap();
        for number in 0..3000u32 {
            assert_eq!(next(&mut follower).unwrap(), [&number.to_le_bytes()[..], &[7; 1468]].concat());
        }
        assert_eq!(next(&mut follower), None);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0], "nanoseconds, little endian, version 2.4");
        // The third packet's time: 2 × 0.999999999 s.
        let third = 24 + 2 * (16 + 1472);
        assert_eq!(bytes[third..third + 8], [1u32.to_le_bytes(), 999_999_998u32.to_le_bytes()].concat());
        assert!(!partial.exists());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_not_finished_leaves_nothing_behind() {
        let path = path("dropped");
        let writer = Writer::create(&path).unwrap();
        let partial = writer.partial().to_owned();
        assert!(partial.exists());
        drop(writer);
        assert!(!partial.exists() && !path.exists());
    }

    #[test]
    fn a_growing_file_is_read_record_by_record_in_every_dialect() {
        for (magic, big) in [(0xa1b2_c3d4, false), (0xa1b2_3c4d, false), (0xa1b2_c3d4, true), (0xa1b2_3c4d, true)] {
            let number = if big { u32::to_be_bytes } else { u32::to_le_bytes };
            let path = path("growing");
            let mut follower = Follower::new(&path).unwrap();
            let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
            let whole = [header(magic, 1, number), record(&[1; 60], number), record(&[2; 61], number)].concat();
            let mut seen = Vec::new();
            // One byte at a time is every place at which a writer can have stopped.
            for byte in whole {
                file.write_all(&[byte]).unwrap();
                seen.extend(next(&mut follower));
            }
            assert_eq!(seen, [vec![1; 60], vec![2; 61]]);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_was_there_before_is_passed_over_and_a_new_beginning_is_noticed() {
        let path = path("anew");
        let old = [header(0xa1b2_3c4d, 1, u32::to_le_bytes), record(&[1; 60], u32::to_le_bytes)].concat();
        fs::write(&path, &old).unwrap();
        let mut follower = Follower::new(&path).unwrap();
        assert_eq!(next(&mut follower), None);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&record(&[2; 60], u32::to_le_bytes)).unwrap();
        assert_eq!(next(&mut follower), Some(vec![2; 60]));
        fs::write(&path, &old[..24]).unwrap();
        assert_eq!(next(&mut follower), None);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&record(&[3; 60], u32::to_le_bytes)).unwrap();
        assert_eq!(next(&mut follower), Some(vec![3; 60]));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_capture_of_ethernet_is_refused() {
        let path = path("refused");
        let number = u32::to_le_bytes;
        let refused = [
            (vec![0x0a; 24], "no pcap file"),
            (header(0xa1b2_3c4d, 101, number), "link type is 101"),
            ([header(0xa1b2_3c4d, 1, number), [[0; 4], [0; 4], [0xff; 4], [0xff; 4]].concat()].concat(), "damaged"),
        ];
        for (bytes, expected) in refused {
            fs::write(&path, &bytes).unwrap();
            let error = Follower::new(&path).unwrap_err();
            assert!(error.contains(expected) && error.contains("refused"), "{error}");
        }
        fs::remove_file(&path).unwrap();
    }
}
