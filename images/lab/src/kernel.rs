//! A Debian kernel, made ready: an ELF image and modules with all that they need.

use crate::fetch::{KernelFiles, Tools};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

/// Takes the ELF image out of a bzImage and writes it to `target`, unless it is there.
///
/// An emulator starts it directly (PVH); unpacking it inside the emulated machine takes four seconds longer, each time.
///
/// # Errors
///
/// Says what of the image was not as the boot protocol has it.
pub fn write_elf(tools: &Tools, files: &KernelFiles, target: &Path) -> Result<()> {
    if target.exists() {
        return Ok(());
    }
    let image = fs::read(&files.image).with_context(|| format!("cannot read {}", files.image.display()))?;
    let payload = payload(&image).with_context(|| format!("{} is no bzImage", files.image.display()))?;
    // The kernel's build appends the unpacked size to whatever the compressor wrote.
    let (packed, size) = payload.split_last_chunk::<4>().context("an empty kernel")?;
    let elf = unpacked(tools, packed)?;
    ensure!(elf.len() == u32::from_le_bytes(*size) as usize, "{} is damaged", files.image.display());
    ensure!(elf.starts_with(b"\x7fELF"), "{} does not hold an ELF image", files.image.display());
    let part = target.with_extension("part");
    fs::write(&part, elf)?;
    fs::rename(part, target)?;
    Ok(())
}

/// The compressed kernel in a bzImage; offsets are those of the kernel's `Documentation/x86/boot.rst`.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match image[0x1f1] {
        0 => 4, // what 0 stands for, says the protocol
        count => usize::from(count),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    image.get(start..start + word(0x24c)?)
}

/// Modules of one kernel.
#[derive(Debug)]
pub struct Modules<'a> {
    tools: &'a Tools,
    /// By name, with underscores.
    files: BTreeMap<String, PathBuf>,
    /// Names of what is not a module because it is in the kernel.
    builtin: Vec<String>,
}

/// A module.
#[derive(Debug)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The uncompressed file.
    pub bytes: Vec<u8>,
}

impl<'a> Modules<'a> {
    /// Looks at what is there. Debian's packages leave it to the machine to write `modules.dep`, so that is not used.
    ///
    /// # Errors
    ///
    /// Says which folder cannot be read.
    pub fn open(tools: &'a Tools, files: &KernelFiles) -> Result<Self> {
        let mut found = BTreeMap::new();
        let mut folders = vec![files.modules.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if let Some(name) = module_name(&entry.file_name().to_string_lossy()) {
                    found.insert(name, entry.path());
                }
            }
        }
        let builtin = fs::read_to_string(files.modules.join("modules.builtin"))?;
        let builtin = builtin.lines().filter_map(|line| module_name(line.rsplit('/').next()?)).collect();
        Ok(Self { tools, files: found, builtin })
    }

    /// The named module and all that it needs, in an order in which they can be loaded. What is built in is not among them.
    ///
    /// # Errors
    ///
    /// Names a module that this kernel has neither as a file nor built in.
    pub fn in_order(&self, name: &str) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        self.add(name, &mut order)?;
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<Module>) -> Result<()> {
        let name = name.replace('-', "_");
        if order.iter().any(|module| module.name == name) || self.builtin.contains(&name) {
            return Ok(());
        }
        let path = self.files.get(&name).with_context(|| format!("this kernel has no module {name}"))?;
        let mut bytes = fs::read(path)?;
        if path.extension().is_some_and(|extension| extension != "ko") {
            bytes = unpacked(self.tools, &bytes)?;
        }
        for needed in information(&bytes, "depends").split(',').filter(|name| !name.is_empty()) {
            self.add(needed, order)?;
        }
        order.push(Module { name, bytes });
        Ok(())
    }
}

/// `vfio-pci.ko.xz` is `vfio_pci`.
fn module_name(file: &str) -> Option<String> {
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst").then(|| name.replace('-', "_"))
}

/// What a module says of itself under `key`: its section of such facts is text, `key=value`, each ended by a zero.
fn information(module: &[u8], key: &str) -> String {
    let start = format!("\0{key}=");
    let at = module.windows(start.len()).position(|window| window == start.as_bytes());
    let value = at.map_or(&[][..], |at| &module[at + start.len()..]);
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// Unpacks what xz or zstd packed.
fn unpacked(tools: &Tools, packed: &[u8]) -> Result<Vec<u8>> {
    let program = match packed {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "/usr/bin/xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "/usr/bin/zstd",
        _ => bail!("neither xz nor zstd packed this kernel"),
    };
    let mut command = tools.command(program)?;
    let mut child = command.arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("the program has an input")?;
    let output = std::thread::scope(|scope| {
        // A thread of its own, or both sides would wait for each other once the pipes are full.
        scope.spawn(move || input.write_all(packed));
        child.wait_with_output()
    })?;
    ensure!(output.status.success(), "{program} -dc ended with {}", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_found_by_the_header() {
        let mut image = vec![0_u8; 0x800];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&8_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&4_u32.to_le_bytes());
        image[1024 + 8..1024 + 12].copy_from_slice(b"here");
        assert_eq!(payload(&image), Some(&b"here"[..]));
        assert_eq!(payload(&image[..1030]), None);
        image[0x202] = 0;
        assert_eq!(payload(&image), None);
    }

    #[test]
    fn modules_say_what_they_need() {
        let module = b"\x7fELF...\0license=GPL\0depends=dca,i2c-algo-bit\0name=igb\0";
        assert_eq!(information(module, "depends"), "dca,i2c-algo-bit");
        assert_eq!(information(module, "softdep"), "");
        assert_eq!(module_name("vfio-pci.ko.xz").as_deref(), Some("vfio_pci"));
        assert_eq!(module_name("modules.builtin"), None);
    }
}
