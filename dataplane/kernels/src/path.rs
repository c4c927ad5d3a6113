//! Which instructions the kernels may use on this machine.

/// A set of instructions that this CPU has. [`Path::detect`] and its sisters are the only way to one above
/// [`Path::SCALAR`], so to hold a path is proof that its instructions run here; that is what makes the kernels sound.
/// It is found once, at the start, and passed on: the kernels themselves never ask the CPU.
///
/// Beside the level stands whether there are instructions for SHA-256. They came to servers with Zen and Ice Lake, in the
/// middle of a level, so they make none of their own; no path is named after them, and the scalar one never has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path(pub(crate) Level, pub(crate) bool);

/// What stands behind a [`Path`]. From low to high, each with everything that is below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// No instructions of our own. The crates underneath may still choose some by themselves.
    Scalar,
    /// AVX2, AES-NI, PCLMULQDQ, SSE4.2: every x86 server since 2013.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Avx2,
    /// AVX-512 F, BW, DQ, VL with VAES and VPCLMULQDQ: Intel since Ice Lake, AMD since Zen 4.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Avx512,
}

/// All levels, best first.
const LEVELS: &[Level] = &[
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Level::Avx512,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Level::Avx2,
    Level::Scalar,
];

impl Path {
    /// The path that every machine has, and the reference for all others.
    pub const SCALAR: Self = Self(Level::Scalar, false);

    /// The best path that this CPU has.
    #[must_use]
    pub fn detect() -> Self {
        Self::all().next().unwrap_or(Self::SCALAR)
    }

    /// Every path that this CPU has, best first; the last one is [`Path::SCALAR`].
    pub fn all() -> impl Iterator<Item = Self> {
        LEVELS.iter().copied().filter(|level| level.is_here()).map(|level| Self(level, level.has_sha()))
    }

    /// What operators call this path: `avx512`, `avx2` or `scalar`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Level::Avx2 => "avx2",
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Level::Avx512 => "avx512",
        }
    }

    /// The path of that name, if this CPU has it: for an operator who wants a lower one than the best.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|path| path.name() == name)
    }
}

impl Level {
    fn is_here(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Avx2 => avx2::get(),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Avx512 => avx2::get() && avx512::get(),
        }
    }

    fn has_sha(self) -> bool {
        match self {
            Self::Scalar => false,
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Avx2 | Self::Avx512 => sha::get(),
        }
    }
}

// All ask whether the operating system saves the registers, too. Kernels enable at most what stands here.
#[cfg(all(target_arch = "x86_64", not(miri)))]
cpufeatures::new!(avx2, "avx2", "bmi1", "bmi2", "popcnt", "sse4.2", "aes", "pclmulqdq");
#[cfg(all(target_arch = "x86_64", not(miri)))]
cpufeatures::new!(avx512, "avx512f", "avx512bw", "avx512dq", "avx512vl", "vaes", "vpclmulqdq");
#[cfg(all(target_arch = "x86_64", not(miri)))]
cpufeatures::new!(sha, "sha", "ssse3", "sse4.1");

#[cfg(test)]
mod tests {
    use super::Path;

    #[test]
    fn knows_its_own_names_and_no_others() {
        for path in Path::all() {
            assert_eq!(Path::parse(path.name()), Some(path));
        }
        assert_eq!(Path::all().next(), Some(Path::detect()));
        assert_eq!(Path::all().last(), Some(Path::SCALAR));
        assert_eq!(Path::parse("avx1024"), None);
        assert_eq!(Path::parse(""), None);
    }
}
