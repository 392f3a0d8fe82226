//! Addresses and page numbers.
//!
//! The granule is 4 KiB everywhere. Physical addresses ([`Pa`]) and guest-physical addresses ([`Ipa`]) are different
//! types, and so are their page numbers ([`Pfn`], [`Gfn`]). The only conversions between them are those in this
//! module.

use core::fmt;

/// log2 of the granule.
pub const PAGE_SHIFT: u32 = 12;
/// The granule in bytes. Stage 1, stage 2 and every interface here use 4 KiB pages.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

macro_rules! address {
    ($(#[$doc:meta])* $address:ident, $(#[$page_doc:meta])* $page:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $address(pub u64);

        $(#[$page_doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $page(pub u64);

        impl $address {
            /// Returns the page that contains this address.
            #[must_use]
            pub const fn page(self) -> $page {
                $page(self.0 >> PAGE_SHIFT)
            }

            /// Returns the offset in the page, in bytes.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Returns the page that starts at this address, or `None` if the address is not page aligned.
            #[must_use]
            pub const fn aligned_page(self) -> Option<$page> {
                if self.page_offset() == 0 { Some(self.page()) } else { None }
            }

            /// Returns this address plus `bytes`, or `None` on overflow.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl $page {
            /// The first page number whose address does not fit in 64 bits.
            pub const LIMIT: u64 = 1 << (u64::BITS - PAGE_SHIFT);

            /// Returns the address of the page's first byte.
            ///
            /// A page number at or above [`Self::LIMIT`] has no address, and its upper bits are lost. No range check
            /// accepts such a number, because no memory is there.
            #[must_use]
            pub const fn base(self) -> $address {
                $address(self.0 << PAGE_SHIFT)
            }

            /// Returns the page number plus `pages`, or `None` if the sum is above [`Self::LIMIT`].
            #[must_use]
            pub const fn checked_add(self, pages: u64) -> Option<Self> {
                match self.0.checked_add(pages) {
                    Some(sum) if sum <= Self::LIMIT => Some(Self(sum)),
                    _ => None,
                }
            }
        }

        impl fmt::Debug for $address {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($address), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $address {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $page {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($page), "({:#x})"), self.0)
            }
        }
    };
}

address! {
    /// A physical address: the output of stage 2.
    Pa,
    /// The number of a physical page.
    Pfn
}

address! {
    /// An intermediate physical address: the input of stage 2, which a guest takes for a physical address.
    Ipa,
    /// The number of a guest-physical page.
    Gfn
}

/// A non-empty, half-open run of pages. Its end was checked when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRange<P> {
    first: P,
    pages: u64,
}

macro_rules! page_range {
    ($page:ident) => {
        impl PageRange<$page> {
            /// Makes the range of `pages` pages from `first` on. Returns `None` if it is empty or ends beyond the
            /// address space.
            #[must_use]
            pub const fn new(first: $page, pages: u64) -> Option<Self> {
                match first.checked_add(pages) {
                    Some(_) if pages != 0 => Some(Self { first, pages }),
                    _ => None,
                }
            }

            /// Returns the first page.
            #[must_use]
            pub const fn first(self) -> $page {
                self.first
            }

            /// Returns the page after the last page.
            #[must_use]
            pub const fn end(self) -> $page {
                // No overflow: `new` has checked the end.
                $page(self.first.0.wrapping_add(self.pages))
            }

            /// Returns the number of pages, at least 1.
            #[must_use]
            #[expect(clippy::len_without_is_empty, reason = "a range of pages is never empty")]
            pub const fn len(self) -> u64 {
                self.pages
            }

            /// Returns the first `most` pages of the range, at least one page, or the whole range if it is not
            /// longer.
            #[must_use]
            pub const fn at_most(self, most: u64) -> Self {
                let pages = if self.pages < most { self.pages } else { most };
                Self { first: self.first, pages: if pages == 0 { 1 } else { pages } }
            }

            /// Returns true if `page` is in the range.
            #[must_use]
            pub const fn contains(self, page: $page) -> bool {
                page.0.wrapping_sub(self.first.0) < self.pages
            }

            /// Returns true if the two ranges have a page in common.
            #[must_use]
            pub const fn overlaps(self, other: Self) -> bool {
                self.first.0 < other.end().0 && other.first.0 < self.end().0
            }

            /// Returns the pages in order.
            pub fn iter(self) -> impl Iterator<Item = $page> {
                (self.first.0..self.end().0).map($page)
            }
        }
    };
}

page_range!(Pfn);
page_range!(Gfn);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_an_end() {
        assert!(PageRange::<Pfn>::new(Pfn(1), 0).is_none());
        assert!(PageRange::<Pfn>::new(Pfn(u64::MAX), 1).is_none());
        assert!(PageRange::<Pfn>::new(Pfn(Pfn::LIMIT), 1).is_none());
        assert!(PageRange::<Pfn>::new(Pfn(1), u64::MAX).is_none());
        let last = PageRange::<Pfn>::new(Pfn(Pfn::LIMIT - 1), 1).unwrap();
        assert_eq!(last.end(), Pfn(Pfn::LIMIT));
    }

    #[test]
    fn ranges_overlap_only_where_they_share_a_page() {
        let range = |first, pages| PageRange::<Gfn>::new(Gfn(first), pages).unwrap();
        assert!(range(4, 4).overlaps(range(7, 1)));
        assert!(!range(4, 4).overlaps(range(8, 1)));
        assert!(!range(4, 4).overlaps(range(0, 4)));
        assert!(range(4, 4).contains(Gfn(4)));
        assert!(!range(4, 4).contains(Gfn(8)));
    }

    #[test]
    fn only_page_bases_are_aligned() {
        assert_eq!(Pa(0x2000).aligned_page(), Some(Pfn(2)));
        assert_eq!(Pa(0x2001).aligned_page(), None);
        assert_eq!(Ipa(0x2fff).page(), Gfn(2));
    }
}
