//! The fake machine's pages. Copying all of them is cheap: copies share a page until one of them writes it.

#![expect(clippy::indexing_slicing, reason = "a harness: the vector was made long enough in the line above")]

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::vec::Vec;

/// A page's content.
pub(super) type Page = [u8; 4096];

/// Pages below this number are in a vector; pages above it are in a map.
const LOW: usize = 4096;

/// The pages. A page that was never written is zero.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeMemory {
    low: Vec<Option<Arc<Page>>>,
    high: HashMap<u64, Arc<Page>>,
}

/// The page that is filled with `byte`. All pages with this content share it until they are written.
fn uniform(byte: u8) -> Arc<Page> {
    static PAGES: OnceLock<Vec<Arc<Page>>> = OnceLock::new();
    let pages = PAGES.get_or_init(|| (0..=u8::MAX).map(|byte| Arc::new([byte; 4096])).collect());
    pages[usize::from(byte)].clone()
}

impl FakeMemory {
    fn get(&self, page: u64) -> Option<&Page> {
        match usize::try_from(page) {
            Ok(index) if index < LOW => self.low.get(index)?.as_deref(),
            _ => self.high.get(&page).map(AsRef::as_ref),
        }
    }

    fn slot(&mut self, page: u64) -> &mut Arc<Page> {
        match usize::try_from(page) {
            Ok(index) if index < LOW => {
                if self.low.len() <= index {
                    self.low.resize(index.saturating_add(1), None);
                }
                self.low[index].get_or_insert_with(|| uniform(0))
            }
            _ => self.high.entry(page).or_insert_with(|| uniform(0)),
        }
    }

    /// Returns the page for writing.
    pub(super) fn page(&mut self, page: u64) -> &mut Page {
        Arc::make_mut(self.slot(page))
    }

    /// Fills a page with a byte.
    pub(super) fn fill(&mut self, page: u64, byte: u8) {
        *self.slot(page) = uniform(byte);
    }

    /// Returns the byte that fills the page, or `None` if its bytes differ.
    pub(super) fn uniform_byte(&self, page: u64) -> Option<u8> {
        let Some(bytes) = self.get(page) else {
            return Some(0);
        };
        let first = *bytes.first()?;
        let expected = uniform(first);
        (core::ptr::eq(bytes, &*expected) || *bytes == *expected).then_some(first)
    }

    /// Returns true if the page was ever written.
    pub(super) fn exists(&self, page: u64) -> bool {
        self.get(page).is_some()
    }

    /// Returns the 64-bit word `index` of a page.
    pub(super) fn entry(&self, page: u64, index: usize) -> u64 {
        self.get(page).map_or(0, |bytes| {
            let (entries, _) = bytes.as_chunks::<8>();
            entries.get(index).map_or(0, |bytes| u64::from_le_bytes(*bytes))
        })
    }
}
