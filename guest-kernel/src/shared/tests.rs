use shared_abi::kvm::function;

use super::*;
use crate::hyp::fake::{self, Fake};

type Pool = SharedPool<Fake>;

fn protected_pool() -> Pool {
    fake::reset(Some(fake::ALL));
    Pool::new(HypervisorServices::probe()).unwrap()
}

fn shared_count() -> usize {
    fake::with(|state| state.shared.len())
}

#[test]
fn every_page_is_shared_at_the_start_and_taken_back_at_the_end() {
    let pool = protected_pool();
    assert_eq!(shared_count(), POOL_PAGES);
    assert_eq!(pool.shared_pages(), POOL_PAGES as u64);
    drop(pool);
    assert_eq!(shared_count(), 0);
}

#[test]
fn ranges_are_shared_in_few_calls() {
    for (most, calls) in [(POOL_PAGES as u64, 1), (48, 2)] {
        fake::reset(Some(fake::ALL));
        fake::with(|state| state.ranges = Some(most));
        let pool = Pool::new(HypervisorServices::probe()).unwrap();
        assert_eq!(shared_count(), POOL_PAGES);
        drop(pool);
        assert_eq!(shared_count(), 0);
        let is_call = |call: &u32| [function::MEM_SHARE, function::MEM_UNSHARE].contains(call);
        let made = fake::with(|state| state.calls.iter().filter(|call| is_call(call)).count());
        assert_eq!(made, 2 * calls);
    }
}

#[test]
fn a_page_of_a_range_that_cannot_be_taken_back_does_not_keep_the_others() {
    fake::reset(Some(fake::ALL));
    fake::with(|state| state.ranges = Some(64));
    let pool = Pool::new(HypervisorServices::probe()).unwrap();
    let page = pool.granule_ipa(3).0;
    fake::with(|state| state.stuck = Some(page));
    drop(pool);
    assert_eq!(fake::with(|state| state.shared.clone()), [page].into());
}

#[test]
fn larger_granules_are_shared_whole() {
    fake::reset(Some(fake::ALL));
    fake::with(|state| state.granule = 0x1_0000);
    let pool = Pool::new(HypervisorServices::probe()).unwrap();
    assert_eq!(shared_count(), POOL_BYTES / 0x1_0000);
    assert_eq!(pool.shared_pages(), POOL_PAGES as u64);
    drop(pool);
    assert_eq!(shared_count(), 0);
}

#[test]
fn an_unprotected_vm_shares_nothing() {
    fake::reset(None);
    let mut pool = Pool::new(HypervisorServices::probe()).unwrap();
    assert_eq!(pool.shared_pages(), 0);
    assert!(pool.alloc(1).is_some());
    assert_eq!(shared_count(), 0);
}

#[test]
fn a_refused_share_is_an_error_and_nothing_stays_shared() {
    fake::reset(Some(fake::ALL));
    fake::with(|state| state.share_limit = 5);
    let result = Pool::new(HypervisorServices::probe());
    assert!(matches!(result, Err(Error::Share(..))));
    drop(result);
    assert_eq!(shared_count(), 0);
}

#[test]
fn a_page_that_cannot_be_taken_back_is_never_reused() {
    let pool = protected_pool();
    let page = pool.granule_ipa(3).0;
    fake::with(|state| state.stuck = Some(page));
    drop(pool);
    assert_eq!(fake::with(|state| state.shared.clone()), [page].into());
    // The memory is lost: the allocator does not give it out again.
    let next = protected_pool();
    assert_ne!(next.granule_ipa(3).0, page);
}

#[test]
fn runs_do_not_overlap_and_come_back() {
    let mut pool = protected_pool();
    let a = pool.alloc(3).unwrap();
    let b = pool.alloc(POOL_PAGES - 3).unwrap();
    assert_eq!(b.ipa().0 - a.ipa().0, 3 * PAGE_SIZE);
    assert!(pool.alloc(1).is_none());
    pool.free(a);
    assert!(pool.alloc(4).is_none());
    let a = pool.alloc(2).unwrap();
    let c = pool.alloc(1).unwrap();
    assert_eq!(c.ipa().0 - a.ipa().0, 2 * PAGE_SIZE);
    for run in [a, b, c] {
        pool.free(run);
    }
    assert_eq!(pool.used, 0);
    assert!(pool.alloc(0).is_none());
    assert!(pool.alloc(POOL_PAGES + 1).is_none());
    assert!(pool.alloc(usize::MAX).is_none());
}

#[test]
fn a_run_is_wiped_before_it_is_handed_out_again() {
    let mut pool = protected_pool();
    let run = pool.alloc(1).unwrap();
    run.write(&[0xa5; 4096]);
    pool.free(run);
    let run = pool.alloc(1).unwrap();
    let mut content = [1; 4096];
    run.read(&mut content);
    assert_eq!(content, [0; 4096]);
}

#[test]
fn copies_of_any_length_arrive() {
    let mut pool = protected_pool();
    let run = pool.alloc(1).unwrap();
    for length in [0, 1, 7, 8, 9, 4095, 4096] {
        let data: Vec<u8> = (0..length).map(|index| index as u8 ^ length as u8).collect();
        let mut back = vec![0; length];
        run.write(&data);
        run.read(&mut back);
        assert_eq!(back, data);
    }
}

#[test]
#[should_panic(expected = "within the run")]
fn a_copy_longer_than_the_run_is_a_bug() {
    protected_pool().alloc(1).unwrap().write(&[0; 4097]);
}

#[test]
#[should_panic(expected = "handed out by this pool")]
fn a_run_is_taken_back_once() {
    let mut pool = protected_pool();
    let run = pool.alloc(1).unwrap();
    // SAFETY: not so: that is what the pool has to notice. Neither copy is used for an access.
    let copy = unsafe { SharedPages::from_parts(run.as_ptr(), 1) };
    pool.free(run);
    pool.free(copy);
}
