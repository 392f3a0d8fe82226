use super::fake::{self, Fake};
use super::*;

type Hyp = Hypervisor<Fake>;

#[test]
fn without_the_uid_there_is_no_vendor_service() {
    fake::reset(None);
    assert!(has_smccc_1_1::<Fake>());
    assert!(Hyp::probe().is_none());
    assert!(!fake::with(|state| state
        .calls
        .contains(&function::FEATURES)));
}

#[test]
fn what_is_not_offered_is_not_called() {
    fake::reset(Some(feature::FEATURES));
    let hyp = Hyp::probe().unwrap();
    assert!(!hyp.is_protected());
    let calls = fake::with(|state| state.calls.len());
    assert_eq!(hyp.share(Ipa(0x1000)), Err(Error::NotOffered));
    assert_eq!(hyp.unshare(Ipa(0x1000)), Err(Error::NotOffered));
    assert_eq!(hyp.granule(), Err(Error::NotOffered));
    assert_eq!(hyp.enrol(), Ok(()));
    assert_eq!(hyp.guard_mmio(Ipa(0x1000)), Ok(()));
    assert_eq!(fake::with(|state| state.calls.len()), calls);
}

#[test]
fn pages_are_shared_and_taken_back() {
    fake::reset(Some(fake::ALL));
    let hyp = Hyp::probe().unwrap();
    assert_eq!(hyp.granule(), Ok(4096));
    assert_eq!(hyp.share(Ipa(0x1000)), Ok(()));
    assert_eq!(
        hyp.share(Ipa(0x1000)),
        Err(Error::Refused(fake::INVALID_PARAMETER))
    );
    assert_eq!(
        hyp.share(Ipa(0x1001)),
        Err(Error::Refused(fake::INVALID_PARAMETER))
    );
    assert!(fake::with(|state| state.shared.contains(&0x1000)));
    assert_eq!(hyp.unshare(Ipa(0x1000)), Ok(()));
    assert!(fake::with(|state| state.shared.is_empty()));
}

#[test]
fn enrolment_happens_where_it_is_offered_and_only_there() {
    fake::reset(Some(fake::ALL));
    let hyp = Hyp::probe().unwrap();
    assert_eq!(hyp.mmio_guard(), MmioGuard::Enrolled);
    hyp.enrol().unwrap();
    assert!(fake::with(|state| state.enrolled));
    hyp.guard_mmio(Ipa(0x0900_0000)).unwrap();
    assert_eq!(
        hyp.guard_mmio(Ipa(0x0900_0000)),
        Err(Error::Refused(fake::INVALID_PARAMETER))
    );

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
        assert!(hyp.granule().is_err(), "{granule}");
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
    assert_eq!(
        vendor_call::<Narrow>(0, 0),
        Err(Error::Refused(fake::NOT_SUPPORTED))
    );
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
