//! Checkpoints as C2SP signed notes (c2sp.org/tlog-checkpoint, c2sp.org/signed-note) with one Ed25519 signature, so that
//! other people's tools can check them; and signatures of tombstones under the same key.

use crate::tree::Hash;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use core::fmt;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// Ed25519 in a signed note's key.
const ALGORITHM: u8 = 1;
/// What a tombstone's signature begins with, so that it is never one of a note.
const TOMBSTONE_DOMAIN: &[u8] = b"tachyon 1 tombstone\n";

/// What a checkpoint says: the first `size` records of `origin` have this root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: by convention a host name and a path, without a scheme. The key has the same name.
    pub origin: String,
    /// Records that it covers.
    pub size: u64,
    /// Root of their tree.
    pub root: Hash,
}

impl Checkpoint {
    /// What a note says, whoever signed it. For whoever has no key, or looks for the right one by the origin.
    #[must_use]
    pub fn unchecked(note: &str) -> Option<Self> {
        let (text, signatures) = note.split_once("\n\n")?;
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let number: u64 = size.parse().ok()?;
        let root = BASE64.decode(root).ok()?.try_into().ok()?;
        let canonical = number.to_string() == size && signatures.ends_with('\n');
        canonical.then(|| Self { origin: origin.to_owned(), size: number, root })
    }
}

/// The key that a log signs its checkpoints and tombstones with.
pub struct Signer {
    name: String,
    key: SigningKey,
}

impl fmt::Debug for Signer {
    /// Names the key; never prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.name)
    }
}

impl Signer {
    /// From a name (no spaces, no plus signs; it becomes the checkpoint's origin) and 32 random bytes.
    #[must_use]
    pub fn new(name: &str, seed: &[u8; 32]) -> Option<Self> {
        let usable = !name.is_empty() && !name.chars().any(|char| char.is_whitespace() || char == '+');
        usable.then(|| Self { name: name.to_owned(), key: SigningKey::from_bytes(seed) })
    }

    /// What others check signatures with.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        Verifier { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// The signed note for a tree.
    #[must_use]
    pub fn checkpoint(&self, size: u64, root: &Hash) -> String {
        let text = format!("{}\n{size}\n{}\n", self.name, BASE64.encode(root));
        let mut signature = self.verifier().id().to_vec();
        signature.extend(self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n\u{2014} {} {}\n", self.name, BASE64.encode(signature))
    }

    pub(crate) fn sign_tombstone(&self, log_id: &[u8; 16], content: &[u8]) -> [u8; 64] {
        self.key.sign(&[TOMBSTONE_DOMAIN, log_id, content].concat()).to_bytes()
    }
}

/// The public half of a [`Signer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    key: VerifyingKey,
}

impl Verifier {
    /// The key's name, which is the origin of its checkpoints.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the text form, `name+id+key`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(3, '+');
        let (name, id, key) = (parts.next()?, parts.next()?, BASE64.decode(parts.next()?).ok()?);
        let key = key.strip_prefix(&[ALGORITHM])?.try_into().ok()?;
        let this = Self { name: name.to_owned(), key: VerifyingKey::from_bytes(&key).ok()? };
        (id == format!("{:08x}", u32::from_be_bytes(this.id()))).then_some(this)
    }

    /// The key's short id: the first bytes of SHA-256 of name, newline, algorithm and key.
    fn id(&self) -> [u8; 4] {
        let digest = Sha256::new().chain_update(&self.name).chain_update([b'\n', ALGORITHM]);
        let hash: Hash = digest.chain_update(self.key.as_bytes()).finalize().into();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Reads a signed note and checks it: our signature, our origin, canonical numbers. Other signatures are passed over.
    #[must_use]
    pub fn checkpoint(&self, note: &str) -> Option<Checkpoint> {
        let (text, signatures) = note.split_once("\n\n").map(|(text, rest)| (format!("{text}\n"), rest))?;
        let prefix = format!("\u{2014} {} ", self.name);
        let signed = signatures.lines().filter_map(|line| line.strip_prefix(&prefix)).any(|signature| {
            let Ok(bytes) = BASE64.decode(signature) else { return false };
            let Some((id, signature)) = bytes.split_first_chunk::<4>() else { return false };
            *id == self.id() && signature.try_into().is_ok_and(|signature| self.signed(text.as_bytes(), &signature))
        });
        Checkpoint::unchecked(note).filter(|checkpoint| signed && checkpoint.origin == self.name)
    }

    pub(crate) fn tombstone(&self, log_id: &[u8; 16], content: &[u8], signature: &[u8; 64]) -> bool {
        self.signed(&[TOMBSTONE_DOMAIN, log_id, content].concat(), signature)
    }

    fn signed(&self, bytes: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for Verifier {
    /// The text form that [`Verifier::parse`] reads, as c2sp.org/signed-note has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[ALGORITHM], self.key.as_bytes().as_slice()].concat();
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id()), BASE64.encode(key))
    }
}

#[cfg(test)]
mod tests {
    use super::{Signer, Verifier};

    #[test]
    fn a_note_holds_under_its_key_alone_and_only_unchanged() {
        let signer = Signer::new("node.example/shard/3", &[7; 32]).expect("a name");
        let note = signer.checkpoint(123, &[9; 32]);
        let verifier = Verifier::parse(&signer.verifier().to_string()).expect("its own text");
        let checkpoint = verifier.checkpoint(&note).expect("a valid note");
        assert_eq!((checkpoint.size, checkpoint.root), (123, [9; 32]));
        for at in 0..note.len() {
            let mut changed = note.clone().into_bytes();
            changed[at] ^= 1;
            // The name before the signature may change only into something that is not ours.
            let held = core::str::from_utf8(&changed).ok().and_then(|note| verifier.checkpoint(note));
            assert_eq!(held, None, "byte {at}");
        }
        let other = Signer::new("node.example/shard/3", &[8; 32]).expect("a name");
        assert_eq!(other.verifier().checkpoint(&note), None);
        assert!(Signer::new("a b", &[0; 32]).is_none());
    }
}
