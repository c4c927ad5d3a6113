//! SHA-256 of many inputs at once, each behind a byte that says what it is: the leaves of a Merkle tree.
//!
//! Within one input each round waits for the one before, so a core that hashes one input at a time stands idle for most of
//! it. Two inputs take turns at the SHA instructions; sixteen fill the words of 512-bit registers. Of sixteen, each has a
//! lane, and the next input takes the lane of one that has ended, so that lengths may differ; when too few lanes are left
//! with work, what remains goes on in pairs.
//!
//! The byte in front moves every block by one, so blocks other than the first and the last are read where they lie, one
//! byte before a multiple of 64.
//!
//! A byte of records of 1,536 bytes takes 2.2 cycles alone, 1.6 in pairs and 1.05 among sixteen; of 160 bytes 3.2, 2.4 and
//! 1.3 (Sapphire Rapids; `examples/kernels_cost.rs` measures the same in time).

use crate::path::{Level, Path};

/// Bytes of a block.
const BLOCK: usize = 64;
/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;

/// Eight words: what a hash is while it is made.
type State = [u32; 8];

/// The state before the first block (FIPS 180-4, 5.3.3).
const START: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The constants of the rounds (FIPS 180-4, 4.2.2).
#[rustfmt::skip]
static K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// An expression for `I` from 0 to 15, written out: only then do arrays of words stay in registers.
macro_rules! sixteen_times {
    ($i:ident => $body:expr) => { sixteen_times!(@ $i $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) };
    (@ $i:ident $body:expr; $($number:literal)*) => { $({ const $i: usize = $number; $body; })* };
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod pairs;

/// For each input the SHA-256 of `prefix` and the input behind it. Any number of inputs of any lengths is taken; sixteen or
/// more cost least.
///
/// # Panics
/// If `hashes` is shorter than `inputs`.
#[inline]
pub fn hashes(path: Path, prefix: u8, inputs: &[&[u8]], hashes: &mut [[u8; HASH_BYTES]]) {
    let hashes = &mut hashes[..inputs.len()];
    let jobs = (0..).zip(inputs).map(|(place, input)| Job { prefix, input, place, at: 0, state: START });
    match path {
        Path(Level::Scalar, _) => scalar(jobs, hashes),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a path of this level proves that the CPU has what the function enables.
        Path(Level::Avx512, true) if inputs.len() >= avx512::LEAST => unsafe {
            let left = avx512::by_sixteens(prefix, jobs, avx512::LEAST, hashes);
            pairs::by_pairs(left, hashes);
        },
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a path that says so proves that the CPU has the SHA instructions and all below them.
        Path(Level::Avx2 | Level::Avx512, true) => unsafe { pairs::by_pairs(jobs, hashes) },
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Path(Level::Avx512, false) if inputs.len() >= avx512::LEAST_WITHOUT_SHA => {
            // SAFETY: as at the first.
            let left = unsafe { avx512::by_sixteens(prefix, jobs, avx512::LEAST_WITHOUT_SHA, hashes) };
            scalar(left, hashes);
        }
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Path(Level::Avx2 | Level::Avx512, false) => scalar(jobs, hashes),
    }
}

/// An input on its way to its hash.
struct Job<'a> {
    prefix: u8,
    input: &'a [u8],
    /// Which of the inputs it is.
    place: usize,
    /// Bytes in `state`, the prefix among them; a multiple of a block.
    at: usize,
    state: State,
}

impl Job<'_> {
    /// Bytes to hash: prefix, input, a byte 0x80, zeros, and eight bytes for how many bits the first two are.
    #[inline]
    fn padded_bytes(&self) -> usize {
        (self.input.len() + 1 + 8) / BLOCK * BLOCK + BLOCK
    }

    #[inline]
    fn is_done(&self) -> bool {
        self.at == self.padded_bytes()
    }

    /// The next blocks that lie one behind the other: either in the input, or the one that is put together in `edge`. None
    /// are left when the job is done.
    #[inline]
    fn blocks<'b>(&'b self, edge: &'b mut [u8; BLOCK]) -> &'b [[u8; BLOCK]] {
        let whole = match self.at {
            0 => &[],
            at => self.input.get(at - 1..).unwrap_or_default().as_chunks().0,
        };
        if !whole.is_empty() {
            return whole;
        }
        if self.is_done() {
            return &[];
        }
        self.edge(edge);
        core::slice::from_ref(edge)
    }

    /// The next block, if not all of it is input.
    #[inline]
    fn edge(&self, block: &mut [u8; BLOCK]) {
        let first = usize::from(self.at == 0);
        block[0] = self.prefix;
        if let (1, Some(start)) = (first, self.input.first_chunk::<{ BLOCK - 1 }>()) {
            // So begin most inputs, and a copy of a known length needs no call.
            block[1..].copy_from_slice(start);
            return;
        }
        block[first..].fill(0);
        let rest = self.input.get(self.at.saturating_sub(1)..).unwrap_or_default();
        block[first..first + rest.len()].copy_from_slice(rest);
        let end = (self.input.len() + 1).checked_sub(self.at);
        if let Some(byte) = end.and_then(|end| block.get_mut(end)) {
            *byte = 0x80;
        }
        if self.at + BLOCK == self.padded_bytes() {
            block[BLOCK - 8..].copy_from_slice(&self.bits().to_be_bytes());
        }
    }

    /// Bits of prefix and input.
    #[inline]
    fn bits(&self) -> u64 {
        (self.input.len() as u64 + 1) * 8
    }
}

/// What is published of a state.
#[inline]
fn bytes(state: &State) -> [u8; HASH_BYTES] {
    let mut bytes = [0; HASH_BYTES];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    bytes
}

/// The scalar twin: FIPS 180-4, 6.2.2, with the last sixteen words alone.
fn scalar<'a>(jobs: impl Iterator<Item = Job<'a>>, hashes: &mut [[u8; HASH_BYTES]]) {
    let mut edge = [0; BLOCK];
    for mut job in jobs {
        while !job.is_done() {
            let (mut state, mut bytes) = (job.state, 0);
            for block in job.blocks(&mut edge) {
                compress(&mut state, block);
                bytes += BLOCK;
            }
            (job.state, job.at) = (state, job.at + bytes);
        }
        hashes[job.place] = bytes(&job.state);
    }
}

fn compress(state: &mut State, block: &[u8; BLOCK]) {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    let mut new = *state;
    for (turn, k) in K.as_chunks::<16>().0.iter().enumerate() {
        sixteen_times!(I => {
            if turn > 0 {
                let [far, middle, near] = [1, 9, 14].map(|after| words[(I + after) % 16]);
                let far = far.rotate_right(7) ^ far.rotate_right(18) ^ far >> 3;
                let near = near.rotate_right(17) ^ near.rotate_right(19) ^ near >> 10;
                words[I] = near.wrapping_add(middle).wrapping_add(far).wrapping_add(words[I]);
            }
            new = round(new, words[I].wrapping_add(k[I]));
        });
    }
    for (word, new) in state.iter_mut().zip(new) {
        *word = word.wrapping_add(new);
    }
}

#[inline]
fn round([a, b, c, d, e, f, g, h]: State, word: u32) -> State {
    let sum = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
    let first = h.wrapping_add(sum).wrapping_add(e & f ^ !e & g).wrapping_add(word);
    let sum = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
    let second = sum.wrapping_add(a & b ^ a & c ^ b & c);
    [first.wrapping_add(second), a, b, c, d.wrapping_add(first), e, f, g]
}

#[cfg(test)]
mod tests {
    use super::{HASH_BYTES, Path, hashes};

    #[test]
    fn machines_without_sha_instructions_say_the_same() {
        let bytes: [u8; 512] = core::array::from_fn(|index| ((index * 167) >> 3).to_le_bytes()[0]);
        let inputs: [&[u8]; 40] = core::array::from_fn(|index| &bytes[index..][..index * 37 % 400]);
        let of = |path| {
            let mut out = [[0; HASH_BYTES]; 40];
            hashes(path, 7, &inputs, &mut out);
            out
        };
        for path in Path::all() {
            assert_eq!(of(Path(path.0, false)), of(Path::SCALAR), "{}", path.name());
        }
    }
}
