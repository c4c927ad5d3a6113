use super::*;
use proptest::prelude::*;
use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
};

/// A folder that is removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tachyon-deny-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn prefix(text: &str) -> Prefix {
    let own: SourcePrefix = text.parse().unwrap();
    Prefix::new(own.ip(), own.bits()).unwrap()
}

fn set(texts: &[&str]) -> BTreeSet<Prefix> {
    texts.iter().map(|text| prefix(text)).collect()
}

fn none() -> BTreeSet<Prefix> {
    BTreeSet::new()
}

#[test]
fn adding_twice_and_removing_nothing_are_told_and_overlaps_are_kept() {
    let folder = Folder::new();
    let mut list = DenyList::open(&folder.0);
    assert!(list.kept().unwrap().is_empty());
    let first = list.change(&set(&["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"]), &none(), &none()).unwrap();
    assert_eq!(first, Changed { added: 3, ..Changed::default() });
    let second = list.change(&set(&["10.9.9.9/8", "::1"]), &set(&["10.1.0.0/16", "10.2.0.0/16"]), &none()).unwrap();
    let expected =
        Changed { added: 1, removed: 1, already: vec![prefix("10.0.0.0/8")], missing: vec![prefix("10.2.0.0/16")] };
    assert_eq!(second, expected);
    assert_eq!(*DenyList::open(&folder.0).kept().unwrap(), set(&["10.0.0.0/8", "2001:db8::/32", "::1"]));
    let both = list.change(&set(&["::2"]), &set(&["::2"]), &none()).unwrap_err();
    assert!(matches!(&both, Refusal::Invalid(text) if text.contains("::2/128")), "{both:?}");
}

#[test]
fn a_damaged_file_is_refused_whatever_is_wrong_with_it() {
    let folder = Folder::new();
    DenyList::open(&folder.0).change(&set(&["10.0.0.0/8", "::/0"]), &none(), &none()).unwrap();
    let path = folder.0.join(FILE);
    let good = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let hashed = |content: &[u8]| [content, blake3::hash(content).as_bytes()].concat();
    let mut wrong: Vec<Vec<u8>> = (0..good.len()).map(flipped).collect();
    wrong.extend((0..good.len()).map(|len| good[..len].to_vec()));
    wrong.push(hashed(b"TYDENY2\n"));
    wrong.push(hashed(&[&MAGIC[..], &[0; 16], &[129]].concat()));
    wrong.push(hashed(&[&MAGIC[..], &[0; 5]].concat()));
    for bytes in wrong {
        fs::write(&path, &bytes).unwrap();
        let mut list = DenyList::open(&folder.0);
        let told = list.kept().unwrap_err();
        assert!(
            matches!(&told, Refusal::Precondition(text) if text.contains("denied.list") && text.contains("remove it"))
        );
        assert_eq!(list.change(&set(&["::1"]), &none(), &none()).unwrap_err(), told);
        assert_eq!(fs::read(&path).unwrap(), bytes, "it is left for whoever looks at it");
    }
    fs::write(&path, hashed(&MAGIC)).unwrap();
    assert!(DenyList::open(&folder.0).kept().unwrap().is_empty());
}

#[test]
fn a_list_that_cannot_be_written_stays_as_it_was() {
    let folder = Folder::new();
    let mut list = DenyList::open(&folder.0);
    list.change(&set(&["::1"]), &none(), &none()).unwrap();
    fs::create_dir(folder.0.join(NEW_FILE)).unwrap();
    let refused = list.change(&set(&["::2"]), &none(), &none()).unwrap_err();
    assert!(matches!(&refused, Refusal::Internal(text) if text.contains("nothing was changed")), "{refused:?}");
    assert_eq!(*list.kept().unwrap(), set(&["::1"]));
    assert_eq!(*DenyList::open(&folder.0).kept().unwrap(), set(&["::1"]));
}

#[test]
fn what_a_filter_holds_is_the_most_with_the_rules_counted_once() {
    let folder = Folder::new();
    let mut list = DenyList::open(&folder.0);
    let host = |number: usize| Prefix::new(IpAddr::from(Ipv6Addr::from_bits(number as u128)), 128).unwrap();
    let full: BTreeSet<Prefix> = (0..DENIED_MAX).map(host).collect();
    let rules = BTreeSet::from([host(0), host(DENIED_MAX)]);
    let over = list.change(&full, &none(), &rules).unwrap_err();
    assert!(matches!(&over, Refusal::Exhausted(text) if text.starts_with("1048577 prefixes")), "{over:?}");
    assert!(list.kept().unwrap().is_empty() && !folder.0.join(FILE).exists(), "nothing was changed");
    assert_eq!(list.change(&full, &none(), &BTreeSet::from([host(0)])).unwrap().added, DENIED_MAX);
    assert!(list.leaves_room(&rules).is_err() && list.leaves_room(&BTreeSet::from([host(1)])).is_ok());
    assert_eq!(*DenyList::open(&folder.0).kept().unwrap(), full);
}

proptest! {
    // Each change is on the disk before it is told, so a few cases are many writes.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Few prefixes, so that they meet again.
    #[test]
    fn changes_in_any_order_come_to_what_a_set_comes_to(
        changes in prop::collection::vec((any::<bool>(), 0..12_u8, 120..=128_u8), 0..16)
    ) {
        let folder = Folder::new();
        let (mut list, mut model) = (DenyList::open(&folder.0), BTreeSet::new());
        for (add, ip, bits) in changes {
            let one = Prefix::new(Ipv6Addr::from_bits(ip.into()).into(), bits).unwrap();
            let only = BTreeSet::from([one]);
            if add {
                let changed = list.change(&only, &none(), &none()).unwrap();
                prop_assert_eq!((changed.added, changed.already.len()), if model.insert(one) { (1, 0) } else { (0, 1) });
            } else {
                let changed = list.change(&none(), &only, &none()).unwrap();
                prop_assert_eq!((changed.removed, changed.missing.len()), if model.remove(&one) { (1, 0) } else { (0, 1) });
            }
        }
        prop_assert_eq!(list.kept().unwrap(), &model);
        let again = DenyList::open(&folder.0);
        prop_assert_eq!(again.kept().unwrap(), &model);
    }
}
