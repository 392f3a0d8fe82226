use shared_abi::addr::{PageRange, Pfn};

use super::{Records, records_needed};
use crate::limits::{ObjectIndex, VmIndex};
use crate::ownership::page_state::{ObjectPage, Record};
use crate::tests::memory::Tiny;

#[test]
fn what_the_words_of_a_whole_block_once_said_counts_for_nothing() {
    let range = |first, pages| PageRange::<Pfn>::new(Pfn(first), pages).unwrap();
    let (ram, block, page) = (range(8, 8), range(8, 4), range(9, 1));
    let mut words = std::vec![0; records_needed::<Tiny>(&[ram]).unwrap()];
    let mut records = Records::<Tiny>::new(&[ram], &mut words).unwrap();
    let guest = |offset| Record::guest(ObjectPage::new(VmIndex(1), ObjectIndex(0), offset));
    for (pages, from, to) in [
        (block, Record::HYPERVISOR, Record::HOST),
        // The block is in pieces now, of which each word says that it is the host's.
        (page, Record::HOST, guest(9)),
        (page, guest(9), Record::HOST),
        (block, Record::HOST, guest(0)),
    ] {
        assert_eq!(records.convert(pages, from, to).map(|done| done.piece.pages), Some(pages.len()));
    }
    assert!(records.convert(range(10, 1), Record::HOST, Record::pool(VmIndex(3))).is_none());
    assert_eq!(records.get(Pfn(10)), Some(guest(2)));
}
