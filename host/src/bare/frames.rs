//! Which page frames are free: one bit for each.

use core::ops::Range;

use shared_abi::addr::{PAGE_SIZE, PageRange, Pfn};

/// Frames that one word of the bitmap stands for.
const FRAMES_PER_WORD: u64 = u64::BITS as u64;

/// A bitmap over a run of frames, in which a set bit is a free frame.
///
/// First fit from below, for runs that are contiguous and aligned as asked for. It never touches the
/// frames themselves.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    first: u64,
    end: u64,
    /// No frame below it is free.
    lowest: u64,
    free: &'a mut [u64],
}

impl<'a> Frames<'a> {
    /// How many words the bitmap of so many bytes of address space needs.
    pub(crate) const fn words(bytes: u64) -> u64 {
        bytes.div_ceil(PAGE_SIZE).div_ceil(FRAMES_PER_WORD)
    }

    /// A map of the address range in which nothing is free; `None` if the bitmap is too small.
    pub(crate) fn new(addresses: Range<u64>, bitmap: &'a mut [u64]) -> Option<Self> {
        let bytes = addresses.end.checked_sub(addresses.start)?;
        if Self::words(bytes) > bitmap.len() as u64 {
            return None;
        }
        bitmap.fill(0);
        Some(Self {
            first: addresses.start / PAGE_SIZE,
            end: addresses.end / PAGE_SIZE,
            lowest: addresses.start / PAGE_SIZE,
            free: bitmap,
        })
    }

    /// Makes every frame that lies wholly in the address range free, as far as the map goes.
    pub(crate) fn add(&mut self, addresses: Range<u64>) {
        let frames = addresses.start.div_ceil(PAGE_SIZE)..addresses.end / PAGE_SIZE;
        self.mark(frames, true);
    }

    /// Makes every frame that the address range touches unavailable.
    pub(crate) fn remove(&mut self, addresses: Range<u64>) {
        let frames = addresses.start / PAGE_SIZE..addresses.end.div_ceil(PAGE_SIZE);
        self.mark(frames, false);
    }

    /// Takes `pages` contiguous frames, the first on a multiple of `alignment` pages (a power of
    /// two). `None` if there is no such run, or nothing was asked for.
    #[inline(always)] // as `next`; into the one caller that is called again and again
    pub(crate) fn allocate(&mut self, pages: u64, alignment: u64) -> Option<PageRange<Pfn>> {
        let below = alignment - 1;
        let align = |frame: u64| Some(frame.checked_add(below)? & !below);
        self.lowest = self.next(self.lowest..self.end, true);
        // A frame alone, which is what a guest mostly asks for, is found by that.
        if (pages, alignment) == (1, 1) && self.lowest < self.end {
            let (word, bit) = self.place(self.lowest);
            self.free[word] &= !(1 << bit);
            return PageRange::<Pfn>::new(Pfn(self.lowest), 1);
        }
        let mut start = align(self.lowest)?;
        loop {
            let end = start.checked_add(pages).filter(|end| *end <= self.end)?;
            let taken = self.next(start..end, false);
            if taken == end {
                let range = PageRange::<Pfn>::new(Pfn(start), pages)?;
                self.mark(start..end, false);
                return Some(range);
            }
            start = align(self.next(taken..self.end, true))?;
        }
    }

    /// Gives frames back; the caller holds them.
    pub(crate) fn release(&mut self, range: PageRange<Pfn>) {
        self.mark(range.first().0..range.end().0, true);
    }

    /// Free frames.
    #[cfg(test)]
    fn available(&self) -> u64 {
        self.free.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The first frame among these that is free, or that is not; the end if there is none.
    #[inline(always)] // which of the two is known where it is called
    fn next(&self, frames: Range<u64>, free: bool) -> u64 {
        let mut frame = frames.start;
        while frame < frames.end {
            let (word, bit) = self.place(frame);
            let wanted = if free { self.free[word] } else { !self.free[word] } >> bit;
            if wanted != 0 {
                return (frame + u64::from(wanted.trailing_zeros())).min(frames.end);
            }
            frame += FRAMES_PER_WORD - bit;
        }
        frames.end
    }

    #[inline(always)] // as `next`
    fn mark(&mut self, frames: Range<u64>, free: bool) {
        let end = frames.end.min(self.end);
        let mut frame = frames.start.max(self.first);
        if free {
            self.lowest = self.lowest.min(frame);
        }
        while frame < end {
            let (word, bit) = self.place(frame);
            let count = (end - frame).min(FRAMES_PER_WORD - bit);
            let bits = u64::MAX >> (FRAMES_PER_WORD - count) << bit;
            if free {
                self.free[word] |= bits;
            } else {
                self.free[word] &= !bits;
            }
            frame += count;
        }
    }

    /// The word that a frame of the map is in, and the bit there. Below the map it comes out far behind
    /// the last word.
    fn place(&self, frame: u64) -> (usize, u64) {
        let index = frame.wrapping_sub(self.first);
        ((index / FRAMES_PER_WORD) as usize, index % FRAMES_PER_WORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x4000_0000;
    const BYTES: u64 = 8 << 20;
    const BLOCK: u64 = 512;

    fn map(bitmap: &mut Vec<u64>) -> Frames<'_> {
        bitmap.resize(Frames::words(BYTES) as usize, u64::MAX);
        let mut frames = Frames::new(BASE..BASE + BYTES, bitmap).unwrap();
        assert_eq!(frames.available(), 0);
        frames.add(BASE..BASE + BYTES);
        frames
    }

    #[test]
    fn partial_frames_are_neither_free_nor_left_in() {
        let mut bitmap = Vec::new();
        let mut frames = map(&mut bitmap);
        assert_eq!(frames.available(), BYTES / PAGE_SIZE);
        frames.remove(BASE + 1..BASE + PAGE_SIZE + 1);
        assert_eq!(frames.available(), BYTES / PAGE_SIZE - 2);
        frames.add(BASE + 1..BASE + 2 * PAGE_SIZE);
        assert_eq!(frames.available(), BYTES / PAGE_SIZE - 1);
    }

    #[test]
    fn runs_are_contiguous_aligned_and_apart() {
        let mut bitmap = Vec::new();
        let mut frames = map(&mut bitmap);
        frames.remove(BASE..BASE + PAGE_SIZE);
        let block = frames.allocate(BLOCK, BLOCK).unwrap();
        assert_eq!(block.first().0 % BLOCK, 0);
        assert_eq!(block.first().base().0, BASE + (2 << 20));
        let page = frames.allocate(1, 1).unwrap();
        assert_eq!(page.first().base().0, BASE + PAGE_SIZE);
        let pair = frames.allocate(2, 2).unwrap();
        assert_eq!(pair.first().base().0, BASE + 2 * PAGE_SIZE);
        assert!(!pair.overlaps(page) && !pair.overlaps(block));
    }

    #[test]
    fn what_is_given_back_is_found_again() {
        let mut bitmap = Vec::new();
        let mut frames = map(&mut bitmap);
        let all = frames.allocate(BYTES / PAGE_SIZE, 1).unwrap();
        assert_eq!(frames.allocate(1, 1), None);
        frames.release(all);
        assert_eq!(frames.allocate(BYTES / PAGE_SIZE, BLOCK), Some(all));
    }

    #[test]
    fn a_run_may_cross_words_and_holes_are_skipped() {
        let mut bitmap = Vec::new();
        let mut frames = map(&mut bitmap);
        for taken in [0, 63, 64, 200] {
            frames.remove(BASE + taken * PAGE_SIZE..BASE + (taken + 1) * PAGE_SIZE);
        }
        let first = |range: Option<PageRange<Pfn>>| range.map(|range| range.first().0 - BASE / PAGE_SIZE);
        assert_eq!(first(frames.allocate(62, 1)), Some(1));
        assert_eq!(first(frames.allocate(130, 1)), Some(65));
        assert_eq!(first(frames.allocate(8, 4)), Some(204));
        assert_eq!(first(frames.allocate(5, 1)), Some(195));
        assert_eq!(first(frames.allocate(1, 1)), Some(201));
        assert_eq!(frames.available(), BYTES / PAGE_SIZE - 4 - 62 - 130 - 8 - 5 - 1);
    }

    #[test]
    fn impossible_runs_are_refused() {
        let mut bitmap = Vec::new();
        let mut frames = map(&mut bitmap);
        assert_eq!(frames.allocate(0, 1), None);
        assert_eq!(frames.allocate(u64::MAX, 1), None);
        assert_eq!(frames.allocate(BYTES / PAGE_SIZE + 1, 1), None);
        assert!(Frames::new(BASE..BASE + BYTES, &mut []).is_none());
    }
}
