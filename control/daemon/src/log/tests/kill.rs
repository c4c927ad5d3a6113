//! Real processes, killed with SIGKILL while they write under load: what was said to be stable is there, and nothing is there
//! twice. `TACHYON_LOG_KILLS` says how many; 25 if it is not set.

use super::{BOOT, Cursors, Folder, Now, Player, Script, check, read, settings, writer};
use crate::log::folders::OnDisk;
use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Duration,
};
use tachyon_log::{ReadOnly, Verifier, fault::Random, verify::verify};

const FOLDER: &str = "TACHYON_LOG_WRITER_FOLDER";

fn script() -> Script {
    Script::new(2, &[4, 5, 6], 1 << 24)
}

/// Not a test: what the killed process runs.
#[test]
#[ignore = "the process that `killed_writers_lose_nothing_that_was_stable` starts and kills"]
fn child() {
    let Some(path) = env::var_os(FOLDER) else { return };
    let folder = Folder(path.into());
    let file = OpenOptions::new().read(true).write(true).open(folder.0.join("stable")).expect("a cursor");
    let mut stable = [0; 8];
    file.read_exact_at(&mut stable, 0).expect("a cursor");
    let stable = AtomicU64::new(u64::from_le_bytes(stable));
    let cursors = Arc::new(Cursors { stable, file: Some(file), ..Cursors::default() });
    let mut writer = writer(&folder, OnDisk::new(&folder.0.join("log")), settings());
    writer.attach(Now::read(), BOOT, vec![Player::new(&script(), &cursors)]);
    loop {
        writer.step(Now::read());
    }
}

fn stable(path: &Path) -> u64 {
    let bytes = fs::read(path.join("stable")).expect("a cursor");
    u64::from_le_bytes(bytes.try_into().expect("eight bytes")) / super::STEP
}

#[test]
fn killed_writers_lose_nothing_that_was_stable() {
    let kills: u64 = env::var("TACHYON_LOG_KILLS").map_or(25, |count| count.parse().expect("a number"));
    let folder = Folder::new("log-kill");
    fs::write(folder.0.join("stable"), [0; 8]).expect("a cursor");
    fs::create_dir(folder.0.join("log")).expect("a folder");
    let (mut random, mut advanced) = (Random::new(5), 0);
    for _ in 0..kills {
        let before = stable(&folder.0);
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "log::tests::kill::child", "--nocapture"])
            .env(FOLDER, &folder.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        // Most are killed somewhere in their work, some while they still open the logs.
        if !random.one_in(5) {
            for _ in 0..2_000 {
                if stable(&folder.0) > before {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        thread::sleep(Duration::from_micros(random.below(60_000)));
        let ended = child.try_wait().expect("our own child");
        assert_eq!(ended, None, "the child ended by itself");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        advanced += u64::from(stable(&folder.0) > before);
    }
    let told = stable(&folder.0);
    let script = Script { turns: told + 600, ..script() };
    let mut logs = BTreeMap::new();
    for shard in &script.shards {
        let path = folder.0.join(format!("log/shard-{shard:05}"));
        // Opening it cuts what the last kill tore, as the next start would.
        let report = verify(&mut ReadOnly::new(&path), None, &[]).expect("readable");
        assert!(report.is_sound(), "shard {shard}: {:?}", report.findings);
        logs.insert(*shard, read(&mut ReadOnly::new(&path)));
    }
    check(&script, &logs, told);
    let keys = fs::read_to_string(folder.0.join("log/log.pub")).expect("public keys");
    assert!(keys.lines().count() == 3 && keys.lines().all(|key| Verifier::parse(key).is_some()), "{keys}");
    assert!(logs.values().all(|log| log.gaps.is_empty()), "something counts as lost");
    assert!(advanced > kills / 2, "only {advanced} of {kills} children wrote anything, {told} turns in all");
}
