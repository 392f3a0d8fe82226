//! Entropy for guests: the Arm TRNG firmware interface (DEN0098), served by a generator that the firmware's
//! seed initializes.
//!
//! The generator has forward secrecy. SHA-256 derives from each key both the next key and, separately, the
//! output, and the old key is overwritten. A reader of EL2's memory therefore learns nothing of earlier
//! outputs.

use core::fmt;

use sha2::{Digest, Sha256};
use shared_abi::kvm::trng;
use spin::mutex::TicketMutex;

/// Minimum length of a usable seed, in bytes: the length of a key.
pub const MIN_SEED_BYTES: usize = KEY_BYTES;

const KEY_BYTES: usize = 32;

/// TRNG version 1.0.
const VERSION: u64 = 1 << 16;

/// The result of GET_UUID in w0 to w3: 3a06a1b9-27f1-4e7c-9d55-6e7b1f40c2d8 as little-endian words.
const UUID: [u64; 4] = [0xb9a1_063a, 0x7c4e_f127, 0x7b6e_559d, 0xd8c2_401f];

/// Return codes (DEN0098, section 2.1).
const NOT_SUPPORTED: u64 = (-1_i64).cast_unsigned();
const INVALID_PARAMETERS: u64 = (-2_i64).cast_unsigned();

/// The entropy source, shared by all CPUs.
pub struct Trng {
    /// The generator's key; `None` if there was no usable seed, in which case every call returns
    /// NOT_SUPPORTED.
    key: Option<TicketMutex<[u8; KEY_BYTES]>>,
}

impl fmt::Debug for Trng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trng").field("seeded", &self.key.is_some()).finish_non_exhaustive()
    }
}

impl Trng {
    /// Makes a source from `seed`. A seed shorter than [`MIN_SEED_BYTES`] makes a source that serves no call.
    pub fn new(seed: &[u8]) -> Self {
        let key = (seed.len() >= MIN_SEED_BYTES).then(|| TicketMutex::new(derive(b"cloister trng", seed)));
        Self { key }
    }

    /// Serves a TRNG call and returns x0 to x3.
    pub fn call(&self, function: u32, argument: u64) -> [u64; 4] {
        let Some(key) = &self.key else {
            return [NOT_SUPPORTED, 0, 0, 0];
        };
        match function {
            trng::VERSION => [VERSION, 0, 0, 0],
            // Arguments of a 32-bit call are 32 bits wide.
            trng::FEATURES => match u32::try_from(argument & 0xffff_ffff) {
                Ok(function) if is_trng(function) => [0; 4],
                _ => [NOT_SUPPORTED, 0, 0, 0],
            },
            trng::GET_UUID => UUID,
            trng::RND32 => random(key, argument & 0xffff_ffff, u32::BITS),
            trng::RND64 => random(key, argument, u64::BITS),
            _ => [NOT_SUPPORTED, 0, 0, 0],
        }
    }
}

/// Derives a key or an output from a key, for one purpose.
fn derive(purpose: &[u8], from: &[u8]) -> [u8; KEY_BYTES] {
    let mut hash = Sha256::new();
    hash.update(purpose);
    hash.update(from);
    hash.finalize().into()
}

const fn is_trng(function: u32) -> bool {
    matches!(function, trng::VERSION | trng::FEATURES | trng::GET_UUID | trng::RND32 | trng::RND64)
}

/// Returns x0 to x3 of a call for `bits` bits of entropy: words of `width` bits, the lowest in x3, then x2,
/// then x1. Unused bits are 0.
fn random(key: &TicketMutex<[u8; KEY_BYTES]>, bits: u64, width: u32) -> [u64; 4] {
    let Some(mut left) = u32::try_from(bits).ok().filter(|bits| (1..=width.saturating_mul(3)).contains(bits))
    else {
        return [INVALID_PARAMETERS, 0, 0, 0];
    };
    let answer = {
        let mut key = key.lock();
        let answer = derive(b"answer", &*key);
        *key = derive(b"key", &*key);
        answer
    };
    let mut words = [0; 3];
    for (word, bytes) in words.iter_mut().zip(answer.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    for word in &mut words {
        let here = left.min(width);
        // Clears all but the lowest `here` bits of the word; `here` may be 0.
        *word &= u64::MAX.checked_shr(u64::BITS.saturating_sub(here)).unwrap_or(0);
        left = left.saturating_sub(here);
    }
    let [low, middle, high] = words;
    [0, high, middle, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded() -> Trng {
        Trng::new(&[7; 40])
    }

    #[test]
    fn without_a_seed_there_is_none() {
        for seed in [&[][..], &[1; 8], &[1; MIN_SEED_BYTES - 1]] {
            let trng = Trng::new(seed);
            for function in [trng::VERSION, trng::FEATURES, trng::GET_UUID, trng::RND32, trng::RND64] {
                assert_eq!(trng.call(function, 64), [NOT_SUPPORTED, 0, 0, 0]);
            }
        }
    }

    #[test]
    fn debug_output_hides_the_key() {
        assert_eq!(std::format!("{:?}", seeded()), "Trng { seeded: true, .. }");
    }

    #[test]
    fn version_features_and_uuid() {
        let trng = seeded();
        assert_eq!(trng.call(trng::VERSION, 0), [0x1_0000, 0, 0, 0]);
        for (function, there) in [
            (0x8400_0050, true),
            (0x8400_0051, true),
            (0x8400_0052, true),
            (0x8400_0053, true),
            (0xc400_0053, true),
            (0xc400_0050, false),
            (0x8400_0054, false),
            (0, false),
        ] {
            let answer = if there { 0 } else { NOT_SUPPORTED };
            assert_eq!(trng.call(trng::FEATURES, function), [answer, 0, 0, 0]);
        }
        let uuid = trng.call(trng::GET_UUID, 0);
        assert_ne!(uuid[0] & 0xffff_ffff, 0xffff_ffff, "that would be an error");
        assert_eq!(trng.call(0x8400_0054, 0), [NOT_SUPPORTED, 0, 0, 0]);
    }

    #[test]
    fn only_the_bits_that_were_asked_for() {
        let trng = seeded();
        for (function, width) in [(trng::RND32, 32), (trng::RND64, 64)] {
            for bits in 1..=3 * width {
                // The union of many outputs has every bit that may be set.
                let mut union = [0; 3];
                for _ in 0..64 {
                    let [status, high, middle, low] = trng.call(function, bits);
                    assert_eq!(status, 0);
                    for (all, word) in union.iter_mut().zip([low, middle, high]) {
                        *all |= word;
                    }
                }
                for (index, word) in (0..).zip(union) {
                    let expected = bits.saturating_sub(index * width).min(width);
                    let mask = u64::MAX.checked_shr(64 - expected as u32).unwrap_or(0);
                    assert_eq!(word, mask, "{bits} bits, word {index}");
                }
            }
        }
    }

    #[test]
    fn none_and_too_many_bits_are_refused() {
        let trng = seeded();
        for (function, bits) in [
            (trng::RND32, 0),
            (trng::RND32, 97),
            (trng::RND64, 0),
            (trng::RND64, 193),
            (trng::RND64, u64::MAX),
        ] {
            assert_eq!(trng.call(function, bits), [INVALID_PARAMETERS, 0, 0, 0]);
        }
    }

    #[test]
    fn answers_differ_and_follow_from_the_seed() {
        let (first, second) = (seeded(), seeded());
        let answers = [(); 8].map(|()| first.call(trng::RND64, 192));
        for (index, answer) in answers.iter().enumerate() {
            assert_eq!(second.call(trng::RND64, 192), *answer);
            assert!(!answers[..index].contains(answer));
        }
        let other = Trng::new(&[8; 40]);
        assert_ne!(other.call(trng::RND64, 192), answers[0]);
    }
}
