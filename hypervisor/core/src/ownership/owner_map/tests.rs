use shared_abi::addr::{PageRange, Pfn};

use super::{OwnerMap, words_needed};
use crate::limits::{ObjectIndex, VmIndex};
use crate::ownership::page_state::{ObjectPage, PageState};
use crate::tests::memory::Tiny;

#[test]
fn stale_page_words_of_an_unsplit_block_have_no_effect() {
    let range = |first, pages| PageRange::<Pfn>::new(Pfn(first), pages).unwrap();
    let (ram, block, page) = (range(8, 8), range(8, 4), range(9, 1));
    let mut words = std::vec![0; words_needed::<Tiny>(&[ram]).unwrap()];
    let mut owners = OwnerMap::<Tiny>::new(&[ram], &mut words).unwrap();
    let guest = |offset| PageState::guest(ObjectPage::new(VmIndex(1), ObjectIndex(0), offset));
    for (pages, from, to) in [
        (block, PageState::HYPERVISOR, PageState::HOST),
        // The block is split now, and each word of a page has the host's state.
        (page, PageState::HOST, guest(9)),
        (page, guest(9), PageState::HOST),
        (block, PageState::HOST, guest(0)),
    ] {
        assert_eq!(
            owners.convert(pages.first(), pages.len(), from, to).map(|done| done.pages),
            Some(pages.len())
        );
    }
    assert!(owners.convert(Pfn(10), 1, PageState::HOST, PageState::pool(VmIndex(3))).is_none());
    assert_eq!(owners.get(Pfn(10)), Some(guest(2)));
}
