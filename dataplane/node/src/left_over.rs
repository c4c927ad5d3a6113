//! Filters that earlier nodes left on interfaces, told by their pins. Nobody tells such a filter of sessions once the node file names
//! its interface no more, so frames of new sessions would die at the device, where no worker counts them.
//!
//! They are said and left alone: nodes may share the folder, and then they are another one's.

use std::{fs, path::Path};

/// The interfaces whose filters are pinned in this folder, sorted; none if it cannot be read, which takes root.
pub(crate) fn interfaces(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    // The pin that holds a filter on its interface is called so by the loader, as is the folder, without dots.
    let pinned = entries.filter(|entry| entry.path().join("link").exists());
    let mut names: Vec<String> = pinned.map(|entry| entry.file_name().to_string_lossy().replace(':', ".")).collect();
    names.sort();
    names
}

/// What there is to say of one of them, and what to do.
pub(crate) fn warning(folder: &Path, interface: &str) -> String {
    let pins = folder.join(interface.replace('.', ":"));
    format!(
        "{interface} has a pre-filter that is not this node's: it knows none of our sessions and drops their frames at the device; \
         unless another node uses the same filter_dir and still runs, take it off: rm -r {}",
        pins.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_a_link_is_a_filter_and_the_warning_names_what_to_remove() {
        let folder = std::env::temp_dir().join(format!("tachyon-left-over-{}", std::process::id()));
        for pin in ["eth0:5/link", "eth0/link", "eth1/sessions"] {
            let pin = folder.join(pin);
            fs::create_dir_all(pin.parent().expect("a folder")).expect("made");
            fs::write(pin, "").expect("written");
        }
        let found = interfaces(&folder);
        fs::remove_dir_all(&folder).expect("removed");
        assert_eq!(found, ["eth0", "eth0.5"]);
        assert!(warning(Path::new("/pins"), "eth0.5").ends_with("rm -r /pins/eth0:5"));
        assert!(interfaces(&folder).is_empty());
    }
}
