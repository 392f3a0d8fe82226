//! Digests: of a part of the image, and of a VM at its launch.

use sha2::{Digest as _, Sha256};
use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE};
use shared_abi::record::Digest;

/// The content of a page, in bytes.
pub type PageContent = [u8; PAGE_SIZE as usize];

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The measurement of a VM at its launch: what it consists of before its first instruction.
///
/// SHA-256 over, for each page whose content was kept when it was populated and in the order of
/// population, its page number in the guest (64 bits) and its 4096 bytes; then vCPU 0's entry point
/// and its x0 (64 bits each). Integers are little-endian. The hypervisor computes it as the host
/// populates; the tool computes what it should be.
///
/// A page that is taken back before the start makes it another one: in its place may be anything by then.
/// 64 bits, all ones, which is no page number, come before the entry point in that case.
#[derive(Clone, Debug)]
pub struct LaunchMeasurement {
    hash: Sha256,
    is_void: bool,
}

impl LaunchMeasurement {
    /// Starts with no pages.
    #[must_use]
    pub fn new() -> Self {
        Self { hash: Sha256::new(), is_void: false }
    }

    /// Adds the page that the guest sees at `gfn`.
    pub fn page(&mut self, gfn: Gfn, content: &PageContent) {
        self.hash.update(gfn.0.to_le_bytes());
        self.hash.update(content);
    }

    /// Notes that a page was taken back: what is there at the start need not be what was measured.
    pub const fn void(&mut self) {
        self.is_void = true;
    }

    /// Ends the measurement with where vCPU 0 starts and what it finds in x0.
    #[must_use]
    pub fn finish(mut self, entry: Ipa, argument: u64) -> Digest {
        if self.is_void {
            self.hash.update(u64::MAX.to_le_bytes());
        }
        self.hash.update(entry.0.to_le_bytes());
        self.hash.update(argument.to_le_bytes());
        Digest(self.hash.finalize().into())
    }
}

impl Default for LaunchMeasurement {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(pages: &[(u64, u8)], entry: u64, argument: u64) -> Digest {
        let mut measurement = LaunchMeasurement::new();
        for (gfn, byte) in pages {
            measurement.page(Gfn(*gfn), &[*byte; 4096]);
        }
        measurement.finish(Ipa(entry), argument)
    }

    #[test]
    fn it_is_the_sha256_of_the_documented_bytes() {
        let mut bytes = [0_u8; 8 + 4096 + 16];
        bytes[..8].copy_from_slice(&0x40200_u64.to_le_bytes());
        bytes[8..8 + 4096].fill(0xa5);
        bytes[8 + 4096..][..8].copy_from_slice(&0x4020_0000_u64.to_le_bytes());
        bytes[8 + 4096 + 8..].copy_from_slice(&0x4040_0000_u64.to_le_bytes());
        assert_eq!(measure(&[(0x40200, 0xa5)], 0x4020_0000, 0x4040_0000), Digest(sha256(&bytes)));
    }

    #[test]
    fn everything_counts() {
        let reference = measure(&[(1, 1), (2, 2)], 3, 4);
        let others = [
            measure(&[(2, 2), (1, 1)], 3, 4),
            measure(&[(1, 1), (2, 3)], 3, 4),
            measure(&[(1, 1), (3, 2)], 3, 4),
            measure(&[(1, 1)], 3, 4),
            measure(&[(1, 1), (2, 2)], 4, 4),
            measure(&[(1, 1), (2, 2)], 3, 3),
        ];
        assert!(others.iter().all(|other| *other != reference));
        let mut void = LaunchMeasurement::new();
        void.page(Gfn(1), &[1; 4096]);
        void.page(Gfn(2), &[2; 4096]);
        void.void();
        assert_ne!(void.finish(Ipa(3), 4), reference);
    }
}
