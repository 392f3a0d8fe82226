//! The encoding of a block's word.

use crate::ownership::page_state::{PageState, STATE_BITS};

/// The word of a block: a page state, or for a split block a base and a count.
///
/// | bits | meaning |
/// | --- | --- |
/// | 39:0 | the page state, or the base |
/// | 62:52 | split blocks only: pages that deviate from the base |
/// | 63 | split |
#[derive(Clone, Copy)]
pub(crate) struct BlockState(pub(crate) u64);

const SPLIT: u64 = 1 << 63;
const DEVIATING_SHIFT: u32 = 52;
const DEVIATING_MASK: u64 = 0x7ff;

impl BlockState {
    pub(crate) const fn is_split(self) -> bool {
        self.0 & SPLIT != 0
    }

    pub(crate) const fn base(self) -> PageState {
        PageState(self.0 & STATE_BITS)
    }

    pub(crate) const fn deviating(self) -> u64 {
        (self.0 >> DEVIATING_SHIFT) & DEVIATING_MASK
    }

    pub(crate) const fn split(base: PageState, deviating: u64) -> Self {
        Self(SPLIT | (deviating << DEVIATING_SHIFT) | base.0)
    }

    /// Returns the state of the block's first page, if the block is uniform.
    pub(crate) const fn uniform(self) -> Option<PageState> {
        if self.deviating() == 0 { Some(self.base()) } else { None }
    }
}
