use super::fake::{self, Fake};
use super::*;

type Hyp = HypervisorServices<Fake>;

/// Upstream's pKVM.
const SINGLE: Sharing = Sharing { granule: 4096, ranges: false };

#[test]
fn without_the_uid_there_is_no_vendor_service() {
    fake::reset(None);
    assert!(has_smccc_1_1::<Fake>());
    assert!(Hyp::probe().is_none());
    assert!(!fake::with(|state| state.calls.contains(&function::FEATURES)));
}

#[test]
fn what_is_not_offered_is_not_called() {
    fake::reset(Some(feature::FEATURES));
    let hyp = Hyp::probe().unwrap();
    assert!(!hyp.is_protected());
    let calls = fake::with(|state| state.calls.len());
    let page = Ipa(0x1000);
    assert_eq!(hyp.share(SINGLE, page, 1), Err(Error::NotOffered));
    assert_eq!(hyp.unshare(SINGLE, page, 1), Err(Error::NotOffered));
    assert_eq!(hyp.relinquish(page), Err(Error::NotOffered));
    assert_eq!(hyp.sharing(), Err(Error::NotOffered));
    assert_eq!(hyp.enrol(), Ok(()));
    assert_eq!(hyp.guard_mmio(Ipa(0x1000)), Ok(()));
    assert_eq!(fake::with(|state| state.calls.len()), calls);
}

#[test]
fn pages_are_shared_and_taken_back() {
    fake::reset(Some(fake::ALL));
    let hyp = Hyp::probe().unwrap();
    assert_eq!(hyp.sharing(), Ok(SINGLE));
    let invalid = Err(Error::Refused(fake::INVALID_PARAMETER));
    // What is asked for beyond one granule is left for the next call.
    assert_eq!(hyp.share(SINGLE, Ipa(0x1000), 3), Ok(1));
    assert_eq!(hyp.share(SINGLE, Ipa(0x1000), 1), invalid);
    assert_eq!(hyp.share(SINGLE, Ipa(0x1001), 1), Err(Error::Unaligned(Ipa(0x1001))));
    assert!(fake::with(|state| state.shared.contains(&0x1000)));
    assert_eq!(hyp.unshare(SINGLE, Ipa(0x1000), 1), Ok(1));
    assert!(fake::with(|state| state.shared.is_empty()));
    assert_eq!(hyp.relinquish(Ipa(0x1000)), Ok(()));
}

#[test]
fn ranges_are_shared_where_they_are_announced() {
    fake::reset(Some(fake::ALL));
    fake::with(|state| state.ranges = Some(4));
    let hyp = Hyp::probe().unwrap();
    let sharing = hyp.sharing().unwrap();
    assert!(sharing.ranges);
    assert_eq!(hyp.share(sharing, Ipa(0x1000), 6), Ok(4));
    assert_eq!(hyp.share(sharing, Ipa(0x5000), 2), Ok(2));
    assert_eq!(fake::with(|state| state.shared.len()), 6);
    assert_eq!(hyp.unshare(sharing, Ipa(0x1000), 1), Ok(1));
}

#[test]
fn a_count_that_makes_no_sense_is_an_error() {
    struct Liar<const DONE: u64>;
    impl<const DONE: u64> Call for Liar<DONE> {
        fn call32(function: u32, arguments: [u32; 7]) -> [u32; 8] {
            Fake::call32(function, arguments)
        }
        fn call64(_: u32, _: [u64; 17]) -> [u64; 18] {
            let mut result = [0; 18];
            result[1] = DONE;
            result
        }
    }
    fake::reset(Some(fake::ALL));
    let ranges = Sharing { ranges: true, ..SINGLE };
    let none = HypervisorServices::<Liar<0>>::probe().unwrap();
    assert_eq!(none.share(ranges, Ipa(0x1000), 2), Err(Error::Nonsense(0)));
    let more = HypervisorServices::<Liar<3>>::probe().unwrap();
    assert_eq!(more.share(ranges, Ipa(0x1000), 2), Err(Error::Nonsense(3)));
}

#[test]
fn enrolment_happens_where_it_is_offered_and_only_there() {
    fake::reset(Some(fake::ALL));
    let hyp = Hyp::probe().unwrap();
    assert_eq!(hyp.mmio_guard(), MmioGuard::Enrolled);
    hyp.enrol().unwrap();
    assert!(fake::with(|state| state.enrolled));
    hyp.guard_mmio(Ipa(0x0900_0000)).unwrap();
    assert_eq!(hyp.guard_mmio(Ipa(0x0900_0000)), Err(Error::Refused(fake::INVALID_PARAMETER)));

    // Upstream: function 7 alone, and a refusal is no error.
    fake::reset(Some(feature::FEATURES | feature::MMIO_GUARD_MAP));
    let hyp = Hyp::probe().unwrap();
    assert_eq!(hyp.mmio_guard(), MmioGuard::Optional);
    hyp.enrol().unwrap();
    assert!(!fake::with(|state| state.enrolled));
    hyp.guard_mmio(Ipa(0x0900_0000)).unwrap();
    hyp.guard_mmio(Ipa(0x0900_0000)).unwrap();
    assert!(fake::with(|state| state.guarded.contains(&0x0900_0000)));
}

#[test]
fn a_senseless_granule_is_refused() {
    for granule in [0, 1, 2048, 4097, 1 << 20, u64::from(u32::MAX) << 1] {
        fake::reset(Some(fake::ALL));
        fake::with(|state| state.granule = granule);
        let hyp = Hyp::probe().unwrap();
        assert!(hyp.sharing().is_err(), "{granule}");
        assert!(hyp.enrol().is_err(), "{granule}");
    }
}

#[test]
fn error_codes_of_either_width_are_errors() {
    assert_eq!(expect_zero(0), Ok(()));
    assert_eq!(expect_zero(1), Err(Error::Nonsense(1)));
    struct Narrow;
    impl Call for Narrow {
        fn call32(_: u32, _: [u32; 7]) -> [u32; 8] {
            [0; 8]
        }
        fn call64(_: u32, _: [u64; 17]) -> [u64; 18] {
            let mut result = [0; 18];
            result[0] = 0xffff_ffff;
            result
        }
    }
    assert_eq!(vendor_call::<Narrow>(&GuestCall::MemInfo), Err(Error::Refused(fake::NOT_SUPPORTED)));
}

#[test]
fn random_bytes_come_from_the_low_register_first() {
    fake::reset(Some(fake::ALL));
    let mut bytes = [0; 26];
    random::<Fake>(&mut bytes).unwrap();
    assert_eq!(bytes[..2], [2, 1]);
    assert_eq!(bytes[8], 2);
    assert_eq!(bytes[16], 3);
    assert_eq!(bytes[24..], [2, 1]);
    fake::reset(None);
    assert_eq!(random::<Fake>(&mut bytes), Err(Error::NotOffered));
}
