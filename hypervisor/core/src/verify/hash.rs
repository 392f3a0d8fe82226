//! What the records hold, for the search: to tell states apart (split and whole blocks that say the same
//! of every page are different states), and to go back to one.

use core::hash::{Hash, Hasher};
use std::vec::Vec;

use super::Records;
use crate::geometry::{Geometry, pieces};

impl<G: Geometry> Records<'_, G> {
    /// Adds all words that mean something.
    pub(crate) fn shape(&self, hasher: &mut impl Hasher) {
        for region in &self.regions {
            for piece in pieces::<G>(region.pages.first().0, region.pages.len()) {
                let Some(block) = self.block(region, piece.first) else {
                    continue;
                };
                block.0.hash(hasher);
                if block.is_split() {
                    self.page_words(region, piece).hash(hasher);
                }
            }
        }
    }

    /// All words, to go back to.
    pub(crate) fn save(&self) -> Vec<u64> {
        self.words.to_vec()
    }

    /// Goes back.
    pub(crate) fn restore(&mut self, words: &[u64]) {
        self.words.copy_from_slice(words);
    }
}
