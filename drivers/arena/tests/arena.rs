//! What the arena promises, on whatever pages this machine has.

use rustix::{
    fs::{SealFlags, fcntl_get_seals, fstat, ftruncate},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{
    fs::File,
    os::{fd::AsRawFd, unix::fs::FileExt},
};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};

const BUFFER: u32 = 2048;

fn config(buffers: usize) -> ArenaConfig {
    ArenaConfig {
        bytes: buffers * BUFFER as usize,
        buffer_bytes: BUFFER,
        pages: Pages::Ordinary,
        lock: false,
        numa_node: None,
    }
}

#[test]
fn buffers_are_disjoint_in_order_and_inside_the_region() {
    let mut arena = Arena::create(config(64)).unwrap();
    let (base, len) = arena.region();
    let mut buffers = arena.take(40).unwrap();
    buffers.extend(arena.take(24).unwrap());
    for (number, buffer) in buffers.iter_mut().enumerate() {
        assert_eq!(buffer.index() as usize, number);
        assert_eq!(buffer.address().as_ptr() as usize, base.as_ptr() as usize + number * BUFFER as usize);
        assert!((number + 1) * BUFFER as usize <= len);
        assert!(buffer.bytes().iter().all(|byte| *byte == 0), "fresh memory is zero");
        buffer.bytes_mut().fill(u8::try_from(number).unwrap());
    }
    for (number, buffer) in buffers.iter().enumerate() {
        assert!(buffer.bytes().iter().all(|byte| usize::from(*byte) == number), "buffer {number} was overwritten");
    }
}

#[test]
fn exhaustion_says_what_is_left_and_what_to_do_and_hands_out_nothing() {
    let mut arena = Arena::create(config(8)).unwrap();
    arena.take(5).unwrap();
    let error = arena.take(4).unwrap_err().to_string();
    assert!(error.contains("4 buffers of 2048 bytes were asked for and 3 of 8 are left"), "{error}");
    assert!(error.contains("at least 2048 bytes more"), "{error}");
    assert_eq!(arena.left(), 3);
    assert_eq!(arena.take(3).unwrap().len(), 3);
    assert_eq!(arena.take(0).unwrap().len(), 0);
}

#[test]
fn auto_pages_always_give_an_arena_and_say_aloud_when_they_are_ordinary() {
    let arena = Arena::create(ArenaConfig { pages: Pages::Auto, ..config(64) }).unwrap();
    let said = arena.degraded().iter().any(|line| line.contains("ordinary pages") && line.contains("nr_hugepages"));
    assert_eq!(said, arena.page_bytes() == rustix::param::page_size(), "{:?}", arena.degraded());
    assert_eq!(arena.region().1 % arena.page_bytes(), 0);
    assert_eq!(arena.region().0.as_ptr() as usize % arena.page_bytes(), 0);
}

#[test]
fn huge_pages_that_were_demanded_are_there_or_refused_with_the_fix() {
    match Arena::create(ArenaConfig { pages: Pages::Huge2M, ..config(64) }) {
        Ok(arena) => assert_eq!(arena.page_bytes(), 2 << 20),
        Err(error) => assert!(error.0.contains("1 pages of 2 MiB") && error.0.contains("echo 1 >"), "{error}"),
    }
    match Arena::create(ArenaConfig { pages: Pages::Huge1G, ..config(64) }) {
        Ok(arena) => assert_eq!(arena.page_bytes(), 1 << 30),
        Err(error) => assert!(error.0.contains("1 GiB"), "{error}"),
    }
}

#[test]
fn refuses_sizes_that_make_no_sense() {
    for (bytes, buffer_bytes) in [(4096, 0), (4096, 100), (1024, 2048), (0, 2048)] {
        let error = Arena::create(ArenaConfig { bytes, buffer_bytes, ..config(1) }).unwrap_err();
        assert!(error.0.contains(&buffer_bytes.to_string()), "{error}");
    }
}

#[test]
fn nobody_can_resize_the_memory_behind_the_descriptor() {
    let arena = Arena::create(config(64)).unwrap();
    assert!(fcntl_get_seals(arena.fd()).unwrap().contains(SealFlags::SHRINK | SealFlags::GROW));
    assert!(ftruncate(arena.fd(), 0).is_err());
    assert_eq!(usize::try_from(fstat(arena.fd()).unwrap().st_size).unwrap(), arena.region().1);
}

#[test]
fn nobody_can_write_through_the_descriptor_and_buffers_still_can_be_written() {
    let mut arena = Arena::create(config(64)).unwrap();
    assert!(fcntl_get_seals(arena.fd()).unwrap().contains(SealFlags::FUTURE_WRITE | SealFlags::SEAL));
    let path = format!("/proc/self/fd/{}", arena.fd().as_raw_fd());
    let reopened = File::options().read(true).write(true).open(path).unwrap();
    assert!(reopened.write_at(b"x", 0).is_err());
    let mut buffers = arena.take(1).unwrap();
    buffers[0].bytes_mut()[..4].copy_from_slice(b"here");
    let mut seen = [0; 4];
    // Huge pages are not read by this call on every kernel; then only mappings show them.
    if reopened.read_at(&mut seen, 0).is_ok() {
        assert_eq!(&seen, b"here");
    }
}

#[test]
fn a_numa_node_that_is_not_there_is_said_aloud() {
    let arena = Arena::create(ArenaConfig { numa_node: Some(1000), ..config(64) }).unwrap();
    assert!(arena.degraded().iter().any(|line| line.contains("NUMA node 1000")), "{:?}", arena.degraded());
    let arena = Arena::create(ArenaConfig { numa_node: Some(5000), ..config(64) }).unwrap();
    assert!(arena.degraded().iter().any(|line| line.contains("NUMA node 5000")), "{:?}", arena.degraded());
}

#[test]
fn the_node_that_is_always_there_is_taken_silently() {
    let arena = Arena::create(ArenaConfig { numa_node: Some(0), ..config(64) }).unwrap();
    assert!(!arena.degraded().iter().any(|line| line.contains("NUMA")), "{:?}", arena.degraded());
}

#[test]
fn locking_that_is_refused_names_the_limit_and_goes_on() {
    let before = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(0), maximum: before.maximum }).unwrap();
    let arena = Arena::create(ArenaConfig { lock: true, ..config(64) });
    setrlimit(Resource::Memlock, before).unwrap();
    let arena = arena.unwrap();
    // With CAP_IPC_LOCK the limit does not count, and then nothing may be said about locking.
    let locked_kib = std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .unwrap();
    let said = arena.degraded().iter().any(|line| line.contains("RLIMIT_MEMLOCK is 0 KiB"));
    assert_eq!(said, locked_kib == 0, "{locked_kib} KiB are locked, and: {:?}", arena.degraded());
}

#[test]
fn the_memory_outlives_the_arena() {
    let mut arena = Arena::create(config(64)).unwrap();
    let mut buffers = arena.take(1).unwrap();
    drop(arena);
    buffers[0].bytes_mut().fill(7);
    assert!(buffers[0].bytes().iter().all(|byte| *byte == 7));
}

#[test]
fn a_headroom_lies_before_each_buffer_and_belongs_to_nobody_else() {
    let mut arena = Arena::create(config(8)).unwrap();
    let (base, _) = arena.region();
    let buffers = arena.take_behind(128, 3).unwrap();
    for (index, buffer) in buffers.iter().enumerate() {
        assert_eq!(buffer.address().as_ptr().addr(), base.as_ptr().addr() + index * BUFFER as usize + 128);
        assert_eq!(buffer.capacity(), BUFFER - 128);
    }
    assert!(arena.take_behind(100, 1).is_err() && arena.take_behind(BUFFER, 1).is_err());
    assert_eq!(arena.left(), arena.buffers() - 3);
}
