//! Proofs that travel without the log, in the text forms that other people's tools read.
//!
//! That a record is in the log is a [tlog-proof](https://c2sp.org/tlog-proof): a line that names the form, the record itself
//! as `extra` data, its index, its audit path, and the checkpoint. That one checkpoint is the beginning of another is what a
//! [witness](https://c2sp.org/tlog-witness) is sent: the old size, the proof, and the newer checkpoint.

use crate::{
    note::{Checkpoint, Verifier},
    tree::{self, Hash},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use core::fmt;

/// First line of a proof of inclusion.
const INCLUSION: &str = "c2sp.org/tlog-proof@v1";
/// Most hashes of a proof: the tree has at most 2⁶³ leaves.
const PATH_MAX: usize = 63;

/// That a record is in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// The record's bytes (header and body), so that whoever has the proof knows what it proves; it is what its hash says.
    pub record: Option<Vec<u8>>,
    /// The record's sequence.
    pub index: u64,
    /// Its audit path, from the leaf up.
    pub path: Vec<Hash>,
    /// The signed note, as it was issued.
    pub checkpoint: String,
}

/// That a tree is the beginning of a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    /// Records of the older tree.
    pub old_size: u64,
    /// The proof, as RFC 6962 orders it.
    pub proof: Vec<Hash>,
    /// The signed note of the newer one, as it was issued.
    pub checkpoint: String,
}

/// Why a proof does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The text keeps neither form.
    Form,
    /// The checkpoint is not signed by this key, or not one of its origin.
    Signature,
    /// The hashes do not lead to the checkpoint's root.
    Hashes,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "the text is no proof, or was changed; both forms are described at c2sp.org",
            Self::Signature => "the checkpoint is not signed by this key; check which log's key it is",
            Self::Hashes => "the hashes do not lead to the root of the checkpoint: this was not proved",
        })
    }
}

impl core::error::Error for Wrong {}

impl Inclusion {
    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// [`Wrong::Form`].
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let rest = text.strip_prefix(INCLUSION).and_then(|rest| rest.strip_prefix('\n')).ok_or(Wrong::Form)?;
        let (record, rest) = match rest.strip_prefix("extra ") {
            None => (None, rest),
            Some(rest) => {
                let (extra, rest) = rest.split_once('\n').ok_or(Wrong::Form)?;
                (Some(BASE64.decode(extra).map_err(|_| Wrong::Form)?), rest)
            }
        };
        let rest = rest.strip_prefix("index ").ok_or(Wrong::Form)?;
        let (index, path, checkpoint) = numbered(rest)?;
        Ok(Self { record, index, path, checkpoint })
    }

    /// Whether the checkpoint is this key's and covers the record with this leaf hash. Returns the checkpoint.
    ///
    /// # Errors
    ///
    /// What does not hold.
    pub fn check(&self, leaf: &Hash, verifier: &Verifier) -> Result<Checkpoint, Wrong> {
        let checkpoint = verifier.checkpoint(&self.checkpoint).ok_or(Wrong::Signature)?;
        let held = tree::verify_inclusion(leaf, self.index, checkpoint.size, &self.path, &checkpoint.root);
        if held { Ok(checkpoint) } else { Err(Wrong::Hashes) }
    }
}

impl fmt::Display for Inclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{INCLUSION}")?;
        if let Some(record) = &self.record {
            writeln!(f, "extra {}", BASE64.encode(record))?;
        }
        writeln!(f, "index {}", self.index)?;
        write_hashes(f, &self.path)?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl Consistency {
    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// [`Wrong::Form`].
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let (old_size, proof, checkpoint) = numbered(text.strip_prefix("old ").ok_or(Wrong::Form)?)?;
        Ok(Self { old_size, proof, checkpoint })
    }

    /// Whether the checkpoint is this key's and its tree begins with the one that has `old_root`. Returns the checkpoint.
    ///
    /// # Errors
    ///
    /// What does not hold.
    pub fn check(&self, old_root: &Hash, verifier: &Verifier) -> Result<Checkpoint, Wrong> {
        let checkpoint = verifier.checkpoint(&self.checkpoint).ok_or(Wrong::Signature)?;
        let held = tree::verify_consistency(self.old_size, old_root, checkpoint.size, &checkpoint.root, &self.proof);
        if held { Ok(checkpoint) } else { Err(Wrong::Hashes) }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        write_hashes(f, &self.proof)?;
        write!(f, "\n{}", self.checkpoint)
    }
}

fn write_hashes(f: &mut fmt::Formatter<'_>, hashes: &[Hash]) -> fmt::Result {
    hashes.iter().try_for_each(|hash| writeln!(f, "{}", BASE64.encode(hash)))
}

/// A number without leading zeros, hashes a line each, an empty line, and the note.
fn numbered(text: &str) -> Result<(u64, Vec<Hash>, String), Wrong> {
    let (digits, mut rest) = text.split_once('\n').ok_or(Wrong::Form)?;
    let number: u64 = digits.parse().map_err(|_| Wrong::Form)?;
    if number.to_string() != digits {
        return Err(Wrong::Form);
    }
    let mut hashes = Vec::new();
    loop {
        let (line, behind) = rest.split_once('\n').ok_or(Wrong::Form)?;
        rest = behind;
        if line.is_empty() {
            return Ok((number, hashes, rest.to_owned()));
        }
        let hash = BASE64.decode(line).ok().and_then(|bytes| bytes.try_into().ok());
        hashes.push(hash.filter(|_| hashes.len() < PATH_MAX).ok_or(Wrong::Form)?);
    }
}

#[cfg(test)]
mod tests {
    use super::{Consistency, Inclusion, Wrong};
    use crate::{
        note::Signer,
        tree::{Edge, Hash, Leaves, leaf},
    };

    fn tree(count: u64) -> Leaves {
        let leaves: Vec<Hash> = (0..count).map(|index| leaf(&index.to_le_bytes())).collect();
        Leaves::new(Edge::default(), leaves)
    }

    #[test]
    fn a_proof_comes_back_from_its_text_and_holds_only_unchanged() {
        let (tree, signer) = (tree(21), Signer::new("node.example/log", &[1; 32]).expect("a name"));
        let (verifier, note) = (signer.verifier(), signer.checkpoint(21, &tree.root(21).expect("there")));
        let path = tree.inclusion(13, 21).expect("there");
        let record = Some(13_u64.to_le_bytes().to_vec());
        let proof = Inclusion { record, index: 13, path, checkpoint: note.clone() };
        let hash = leaf(&13_u64.to_le_bytes());
        assert_eq!(Inclusion::parse(&proof.to_string()).as_ref(), Ok(&proof));
        assert_eq!(proof.check(&hash, &verifier).map(|checkpoint| checkpoint.size), Ok(21));
        assert_eq!(proof.check(&leaf(b"another"), &verifier), Err(Wrong::Hashes));
        let other = Signer::new("node.example/log", &[2; 32]).expect("a name").verifier();
        assert_eq!(proof.check(&hash, &other), Err(Wrong::Signature));

        let (old, old_root) = (8, tree.root(8).expect("there"));
        let proof = tree.consistency(old, 21).expect("there");
        let proof = Consistency { old_size: old, proof, checkpoint: note };
        assert_eq!(Consistency::parse(&proof.to_string()).as_ref(), Ok(&proof));
        assert!(proof.check(&old_root, &verifier).is_ok());
        assert_eq!(proof.check(&[0; 32], &verifier), Err(Wrong::Hashes));
    }

    #[test]
    fn a_text_that_breaks_the_form_is_refused() {
        for text in ["", "c2sp.org/tlog-proof@v1\n", "c2sp.org/tlog-proof@v1\nindex 01\n\n", "index 1\n\nnote\n"] {
            assert_eq!(Inclusion::parse(text), Err(Wrong::Form), "{text:?}");
        }
        let long = format!("old 1\n{}\nnote\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n".repeat(64));
        for text in ["old 1\nAAAA\n\nnote\n", "old 1\n", "old x\n\nnote\n", &long] {
            assert_eq!(Consistency::parse(text), Err(Wrong::Form), "{text:?}");
        }
    }
}
