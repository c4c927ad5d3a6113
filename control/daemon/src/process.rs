//! Whether the process that opened something still runs, from `/proc`.

use crate::record::Process;
use std::fs;

/// The process that now has this number; `None` if there is none, or it is not ours to see.
#[must_use]
pub(crate) fn find(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything, so fields are counted behind it: the
    // 22nd is the start, which makes it the 20th behind the name; the third is the state.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let alive = !matches!(*fields.first()?, "Z" | "X");
    let started = fields.get(19)?.parse().ok()?;
    alive.then_some(Process { pid, started })
}

/// Whether it still runs.
#[must_use]
pub(crate) fn runs(process: Process) -> bool {
    find(process.pid) == Some(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn tells_a_running_process_from_one_that_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = find(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(runs(process));
        assert!(!runs(Process { started: process.started + 1, ..process }), "the same number, another process");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!runs(process));
    }
}
