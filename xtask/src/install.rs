//! What has to be on the machine, and how it gets there.

use anyhow::{Result, bail};
use std::{
    io::{IsTerminal, Write},
    process::{Command, Stdio},
};

/// A thing that must or may be there: what shows that it is, the Debian packages that bring it, and what it is for.
struct Need {
    shows: &'static [&'static str],
    packages: &'static [&'static str],
    why: &'static str,
    required: bool,
}

const NEEDS: &[Need] = &[
    Need {
        shows: &["cc", "--version"],
        packages: &["build-essential"],
        why: "a C compiler and linker: the tag and hash crates carry C and assembly",
        required: true,
    },
    Need {
        shows: &["pkg-config", "--exists", "hwloc", "libudev"],
        packages: &["pkg-config", "libhwloc-dev", "libudev-dev"],
        why: "hwloc: workers are then placed by the machine's real topology",
        required: false,
    },
    Need {
        shows: &["pkg-config", "--exists", "libdpdk"],
        packages: &["pkg-config", "libdpdk-dev", "libclang-dev"],
        why: "DPDK: workers can then own network cards",
        required: false,
    },
    Need {
        shows: &["pkg-config", "--exists", "libibverbs"],
        packages: &["pkg-config", "libibverbs-dev", "libclang-dev"],
        why: "verbs: workers can then own RoCE v2 queue pairs",
        required: false,
    },
    Need {
        shows: &["pkg-config", "--exists", "libbpf"],
        packages: &["pkg-config", "libbpf-dev"],
        why: "libbpf: interfaces that stay with the kernel can then be filtered at the device",
        required: false,
    },
    Need {
        shows: &["clang", "--version"],
        packages: &["clang"],
        why: "clang: it compiles that filter",
        required: false,
    },
    Need {
        shows: &["sh", "-c", "command -v xdp-filter"],
        packages: &["xdp-tools"],
        why: "xdp-tools: the filter can then be compared with xdp-filter",
        required: false,
    },
];

/// Only the models need it, so nobody else is asked for it.
const JAVA: Need = Need {
    shows: &["java", "-version"],
    packages: &["default-jre-headless"],
    why: "Java: it runs the model checker",
    required: false,
};

/// Installs what is missing, after asking on a terminal unless `yes`. Returns what stays degraded.
pub(crate) fn ensure(yes: bool) -> Result<Vec<String>> {
    let mut degraded = Vec::new();
    for need in NEEDS {
        let packages = need.packages.join(" ");
        match (bring(need, yes)?, need.required) {
            (true, _) => {}
            (false, true) => bail!("{} is needed; as root: apt-get install {packages}", need.why),
            (false, false) => degraded.push(format!("without {}; apt-get install {packages} brings it", need.why)),
        }
    }
    Ok(degraded)
}

/// Whether there is Java, which root gets without being asked.
pub(crate) fn ensure_java() -> Result<bool> {
    bring(&JAVA, is_root())
}

/// Whether this is there, or is now.
fn bring(need: &Need, yes: bool) -> Result<bool> {
    if is_there(need.shows) {
        return Ok(true);
    }
    let question = format!("Missing: {}. Install {}?", need.why, need.packages.join(" "));
    Ok(agreed(yes, &question)? && install(need.packages) && is_there(need.shows))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

/// Whether hwloc can be linked.
pub(crate) fn has_hwloc() -> bool {
    is_there(&["pkg-config", "--exists", "hwloc", "libudev"])
}

/// Whether DPDK can be linked.
pub(crate) fn has_dpdk() -> bool {
    is_there(&["pkg-config", "--exists", "libdpdk"])
}

/// Whether verbs can be linked.
pub(crate) fn has_verbs() -> bool {
    is_there(&["pkg-config", "--exists", "libibverbs"])
}

/// Whether the pre-filter can be compiled and its loader linked.
pub(crate) fn has_bpf() -> bool {
    is_there(&["pkg-config", "--exists", "libbpf"]) && is_there(&["clang", "--version"])
}

/// Whether there is a NATS server; Debian puts it where only root's shell looks.
pub(crate) fn has_nats() -> bool {
    is_there(&["nats-server", "--version"]) || is_there(&["/usr/sbin/nats-server", "--version"])
}

/// Whether a filter can be shown: root, who may attach one, and what makes interfaces for it.
pub(crate) fn can_filter() -> bool {
    is_root() && has_bpf() && is_there(&["ip", "-V"]) && is_there(&["ethtool", "--version"])
}

/// Whether this command runs and ends well.
pub(crate) fn is_there(command: &[&str]) -> bool {
    let status = Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn agreed(yes: bool, question: &str) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn install(packages: &[&str]) -> bool {
    let root = is_root();
    let apt = |args: &[&str]| {
        let (program, first) = if root { ("apt-get", None) } else { ("sudo", Some("apt-get")) };
        Command::new(program).args(first).args(args).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    apt(&["update", "-q"]) && apt(&[&["install", "-yq", "--no-install-recommends"], packages].concat())
}
