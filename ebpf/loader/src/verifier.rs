//! What the kernel's verifier says of its work on the program: how much there was, and how far it is from the limits.

use crate::{Config, Doing, LoaderError, Result, program};
use libbpf_rs::{PrintLevel, set_print};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `BPF_LOG_STATS` of the kernel's linux/bpf_verifier.h: statistics alone.
const STATISTICS: u32 = 4;

/// The verifier's work, as it counted it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Instructions that it went through, on all ways together; a million are the most that it does.
    pub instructions: u32,
    /// States of registers and stack that it kept to compare with.
    pub states: u32,
    /// The most that it kept at once.
    pub states_peak: u32,
    /// The most for one instruction.
    pub states_per_instruction_max: u32,
    /// Bytes of stack; of programs with functions one number for each, joined by `+`. At most 512 together.
    pub stack_bytes: String,
    /// How long it took in µs.
    pub micros: u32,
}

/// What libbpf said while it loaded. It hands its words to a function without a place of its own to keep them.
static SAID: Mutex<String> = Mutex::new(String::new());

fn said() -> MutexGuard<'static, String> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner) // a text is whole whoever panicked
}

fn keep(_level: PrintLevel, text: String) {
    said().push_str(&text);
}

impl Effort {
    /// Has the program verified once more, as it would be loaded with this configuration, and forgets it. What libbpf says
    /// meanwhile, in this process, is not shown.
    ///
    /// # Errors
    /// The kernel refuses the program, in its own words, or says nothing about it.
    pub fn of(config: &Config) -> Result<Self> {
        let mut object = program::prepared(config, None)?;
        for mut program in object.progs_mut() {
            program.set_log_level(STATISTICS);
        }
        said().clear();
        let before = set_print(Some((PrintLevel::Debug, keep)));
        let loaded = object.load();
        set_print(before);
        let said = std::mem::take(&mut *said());
        loaded.doing(|| format!("the kernel refuses the pre-filter; its verifier says: {said}"))?;
        Self::read(&said).ok_or_else(|| LoaderError("the kernel's verifier gave no statistics".to_owned()))
    }

    /// Finds the statistics in a log.
    fn read(log: &str) -> Option<Self> {
        let mut effort = Self::default();
        let mut found = false;
        for line in log.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |word: &str| {
                let at = words.iter().position(|other| *other == word)?;
                words.get(at + 1)?.parse().ok()
            };
            match words.as_slice() {
                ["verification", "time", micros, "usec"] => effort.micros = micros.parse().ok()?,
                ["stack", "depth", depth, ..] => (*depth).clone_into(&mut effort.stack_bytes),
                ["processed", ..] => {
                    effort.instructions = after("processed")?;
                    effort.states = after("total_states")?;
                    effort.states_peak = after("peak_states")?;
                    effort.states_per_instruction_max = after("max_states_per_insn")?;
                    found = true;
                }
                _ => {}
            }
        }
        found.then_some(effort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_found_among_other_words() {
        let log = "libbpf: prog 'tachyon_prefilter': -- BEGIN PROG LOAD LOG --\nverification time 4711 usec\n\
                   stack depth 96+0\nprocessed 3530 insns (limit 1000000) max_states_per_insn 12 total_states 212 \
                   peak_states 150 mark_read 21\n-- END PROG LOAD LOG --\n";
        let effort = Effort::read(log).expect("statistics");
        assert_eq!((effort.instructions, effort.states, effort.states_peak), (3_530, 212, 150));
        assert_eq!(
            (effort.states_per_instruction_max, effort.micros, effort.stack_bytes.as_str()),
            (12, 4_711, "96+0")
        );
        assert_eq!(Effort::read("libbpf: nothing of that\n"), None);
        assert_eq!(Effort::read("processed many insns\n"), None);
    }
}
