use super::*;
use crate::{log::tests::Folder, registry::Registry};
use redb::{StorageBackend, backends::InMemoryBackend};
use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use tachyon_config::ControlFile;
use tachyon_policy::verify;
use tachyon_segment::{
    SealedImage, StatsSegment,
    handover::{Accepted, Connection, Hello, Incoming, Listener, Reply, Request},
};
use tachyon_wire::Endpoint;

/// A disk in memory that takes nothing more once it is told so.
#[derive(Debug)]
struct Disk(InMemoryBackend, Arc<AtomicBool>);

impl Disk {
    fn works(&self) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.works().and_then(|()| self.0.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.works().and_then(|()| self.0.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.works().and_then(|()| self.0.write(offset, data))
    }
}

fn hello() -> Hello {
    Hello {
        boot_id: [1; 16],
        boot_number: 1,
        workers: 1,
        shard_count: 1,
        listen: Endpoint::NONE,
        frame_bytes_max: 1_472,
        sessions_max: 64,
        subscribers_max: 4,
        topics_max: 64,
        senders_max: 64,
        targets_max: 64,
        ruleset_version: 0,
        driver: "none".into(),
        degraded: Vec::new(),
    }
}

/// A node that takes everything and keeps the sender slots of each ruleset. With the one after the next the disk is full, if that
/// is asked for.
fn serve(listener: &Listener, seen: &Mutex<Vec<u32>>, fills: &AtomicBool, full: &AtomicBool, end: &AtomicBool) {
    let segment = StatsSegment::create(1, [1; 16]).unwrap();
    let mut connection: Option<Connection> = None;
    while !end.load(Ordering::SeqCst) {
        if let Some(new) = listener.accept().unwrap() {
            new.send_hello(&hello(), segment.reader_fd()).unwrap();
            connection = Some(new);
        }
        let Some(Ok(Incoming::Request(number, request))) = connection.as_ref().map(Connection::receive) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        if let Request::Ruleset(fd) = request {
            let image = verify(SealedImage::adopt(&fd).unwrap(), 1).unwrap();
            let knows = |sender: &u32| image.ruleset().sender(*sender).is_some();
            seen.lock().unwrap().push((0..64).filter(knows).count().try_into().unwrap());
            full.store(fills.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        let reply = Reply { number, accepted: Accepted::Yes, text: String::new() };
        connection.as_ref().unwrap().reply(&reply).unwrap();
    }
}

/// Has the node end, however the test does.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn rules_that_cannot_be_stored_are_taken_back() {
    let folder = Folder::new("apply");
    let listener = Listener::bind(&folder.0.join("tachyond.sock"), &[rustix::process::geteuid().as_raw()]).unwrap();
    let [fills, full, end] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
    let seen = Mutex::new(Vec::new());
    let config = ControlFile { state_dir: folder.0.clone(), ..ControlFile::default() };
    let (registry, stored) = Registry::on(Disk(InMemoryBackend::new(), full.clone()));
    let control = Control::new(State::new(config, 0, registry, stored).unwrap());
    let rules = |senders| {
        format!("[[topic]]\nmatch = \"a\"\n[[identity]]\nname = \"i\"\npublish = [\"a\"]\nsenders = \"{senders}\"\n")
    };
    thread::scope(|scope| {
        let _ending = Ending(&end);
        scope.spawn(|| serve(&listener, &seen, &fills, &full, &end));
        control.connect(&folder.0.join("tachyond.sock")).unwrap();
        assert_eq!(control.apply_rules(&rules("1-2"), "rules.toml").unwrap().version, 1);
        fills.store(true, Ordering::SeqCst);
        let refusal = control.apply_rules(&rules("1-9"), "rules.toml").unwrap_err();
        assert!(refusal.text().contains("in force again, as version 3"), "{refusal:?}");
    });
    assert_eq!(*seen.lock().unwrap(), [2, 9, 2]);
    assert_eq!(control.published().version, 3);
    assert_eq!(control.state().in_force.as_ref().unwrap().text.text, rules("1-2"));
}
