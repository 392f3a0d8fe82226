//! The packer against the parser: what one makes the other takes, and nothing that differs from it.

use proptest::prelude::*;

use super::*;
use crate::file;
use crate::manifest::{MAX_ARGUMENT_BYTES, MAX_MEMORY_BYTES, Manifest};

const HYPERVISOR_BYTES: u64 = 0x3000;
const HOST_MEMORY_BYTES: u64 = 0x5000;

fn arm64_image(image_size: u64, fill: u8, bytes: usize) -> Vec<u8> {
    let mut image = vec![fill; bytes];
    image[..64].fill(0);
    image[16..24].copy_from_slice(&image_size.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

fn hypervisor() -> Vec<u8> {
    arm64_image(HYPERVISOR_BYTES, 0x11, 0x1234)
}

fn host() -> Vec<u8> {
    arm64_image(HOST_MEMORY_BYTES, 0x22, 0x1111)
}

/// An image with all parts.
fn full() -> Vec<u8> {
    pack(&Input {
        hypervisor: &hypervisor(),
        host: &host(),
        payload: Some(&[0x33; 5000]),
        initrd: Some(&[0x44; 4096]),
        host_args: "smp=1 attack=true",
        guest_args: "quiet",
        hypervisor_args: "trace=on",
        measurement: Some(Digest([0x55; 32])),
    })
    .unwrap()
}

/// Changes the manifest of an image and gives it the digest that it then should have.
fn forge(image: &mut [u8], change: impl FnOnce(&mut RawManifest)) {
    let (manifest, _) =
        <RawManifest as zerocopy::FromBytes>::mut_from_prefix(&mut image[HYPERVISOR_BYTES as usize..])
            .unwrap();
    change(manifest);
    manifest.header.digest = manifest.own_digest();
}

/// A change of the manifest, and what is wrong with it then.
type Case = (fn(&mut RawManifest), Error);

fn refused(change: impl FnOnce(&mut RawManifest)) -> Error {
    let mut image = full();
    forge(&mut image, change);
    file::verify(&image).expect_err("this image is wrong")
}

#[test]
fn what_was_packed_comes_out() {
    let bytes = full();
    let image = file::verify(&bytes).unwrap();
    assert_eq!(image.content(Kind::Payload), Some([0x33; 5000].as_slice()));
    assert_eq!(image.content(Kind::Initrd), Some([0x44; 4096].as_slice()));
    assert_eq!(image.content(Kind::Host), Some(host().as_slice()));
    assert_eq!(image.text(Kind::HostArgs), Some("smp=1 attack=true"));
    assert_eq!(image.text(Kind::GuestArgs), Some("quiet"));
    assert_eq!(image.text(Kind::HypervisorArgs), Some("trace=on"));
    assert_eq!(image.measurement(), Some(Digest([0x55; 32])));

    let manifest = image.manifest();
    assert_eq!(manifest.offset(), HYPERVISOR_BYTES);
    let host = manifest.host().memory();
    assert_eq!(host, 2 << 20..(2 << 20) + HOST_MEMORY_BYTES);
    assert_eq!(manifest.memory_bytes(), host.end);
    assert_eq!(
        arm64::Header::parse(&bytes).unwrap().image_size,
        host.end,
        "a boot loader must keep the host's .bss free"
    );
}

#[test]
fn the_hypervisor_reads_it_in_two_steps() {
    let bytes = full();
    let memory = &bytes[HYPERVISOR_BYTES as usize..];
    let manifest = Manifest::parse(&memory[..MANIFEST_BYTES as usize]).unwrap();
    assert_eq!(manifest.bytes_from_manifest(), memory.len() as u64);
    let needed = manifest.memory_bytes();
    assert!(crate::Image::verify(memory, HYPERVISOR_BYTES, needed).is_ok());
    assert_eq!(
        crate::Image::verify(memory, HYPERVISOR_BYTES, needed - 1).unwrap_err(),
        Error::Oversized { bytes: needed, limit: needed - 1 }
    );
    assert_eq!(
        crate::Image::verify(memory, 0x4000, needed).unwrap_err(),
        Error::Place { stated: HYPERVISOR_BYTES, found: 0x4000 }
    );
}

#[test]
fn parts_are_optional_but_the_host() {
    let input = Input { hypervisor: &hypervisor(), host: &host(), ..Input::default() };
    let bytes = pack(&input).unwrap();
    let image = file::verify(&bytes).unwrap();
    assert_eq!(image.manifest().parts().len(), 1);
    assert_eq!(image.text(Kind::HostArgs), None);
    let no_host = Input { host: &[], ..input };
    assert_eq!(pack(&no_host), Err(PackError::Host(FlatError::NeitherElfNorImage)));
}

#[test]
fn unusable_inputs_are_named() {
    let (hypervisor, host) = (hypervisor(), host());
    let input = Input { hypervisor: &hypervisor, host: &host, ..Input::default() };
    let empty = Input { payload: Some(&[]), ..input.clone() };
    assert_eq!(
        pack(&empty).unwrap_err().to_string(),
        format!("the payload has 0 bytes; 1 to {MAX_MEMORY_BYTES} are possible")
    );
    let long = "x".repeat(MAX_ARGUMENT_BYTES as usize + 1);
    let long = Input { guest_args: &long, ..input.clone() };
    assert!(pack(&long).unwrap_err().to_string().contains("guest-args"));
    let control = Input { host_args: "a\nb", ..input.clone() };
    assert_eq!(pack(&control), Err(Error::NotText(Kind::HostArgs).into()));
    let unaligned = arm64_image(0x1800, 0, 0x1000);
    let unaligned = Input { hypervisor: &unaligned, ..input.clone() };
    assert_eq!(pack(&unaligned), Err(PackError::HypervisorEnd(0x1800)));
    let huge = arm64_image(MAX_MEMORY_BYTES - 0x1000, 0, 0x1000);
    let huge = Input { host: &huge, ..input };
    assert!(matches!(pack(&huge), Err(PackError::Image(Error::Oversized { .. }))));
}

#[test]
fn every_bit_of_the_manifest_counts() {
    let mut manifest = full()[HYPERVISOR_BYTES as usize..][..MANIFEST_BYTES as usize].to_vec();
    for offset in 0..manifest.len() {
        for bit in 0..8 {
            manifest[offset] ^= 1 << bit;
            assert!(Manifest::parse(&manifest).is_err(), "bit {bit} of {offset:#x}");
            manifest[offset] ^= 1 << bit;
        }
    }
    assert!(Manifest::parse(&manifest).is_ok());
}

#[test]
fn corruption_is_located() {
    let image = full();
    let corrupted = |offset: usize| {
        let mut copy = image.clone();
        copy[offset] ^= 0x80;
        file::verify(&copy).unwrap_err()
    };
    let start = |kind| file::parse(&image).unwrap().manifest().part(kind).unwrap().file().start as usize;
    for kind in [Kind::Payload, Kind::Initrd, Kind::Measurement] {
        assert_eq!(corrupted(start(kind)), Error::PartDigest(kind));
    }
    assert_eq!(corrupted(0x1000), Error::HypervisorDigest);
    assert_eq!(corrupted(0x2fff), Error::HypervisorDigest);
    assert_eq!(corrupted(start(Kind::Payload) + 5000), Error::StrayByte(0x4000 + 5000));
    assert_eq!(corrupted(16), Error::ImageHeader((2 << 20) + HOST_MEMORY_BYTES));
    assert_eq!(corrupted(HYPERVISOR_BYTES as usize + 0x40), Error::ManifestDigest);
    assert_eq!(corrupted(HYPERVISOR_BYTES as usize), Error::NoManifest);
    assert_eq!(corrupted((2 << 20) + 56), Error::HostHeader);
}

#[test]
fn a_file_of_another_length_is_refused() {
    let mut image = full();
    let whole = image.len();
    image.push(0);
    assert_eq!(file::verify(&image).unwrap_err(), Error::TrailingBytes(1));
    for length in [0, 64, 0x3000, 0x3007, 0x3008, 0x3fff, 0x4000, whole - 1] {
        assert!(file::verify(&image[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(
        file::verify(&image[..whole - 1]).unwrap_err(),
        Error::Truncated { expected: (whole - 0x3000) as u64, found: (whole - 0x3000 - 1) as u64 }
    );
}

#[test]
fn a_forged_manifest_is_refused_for_what_is_wrong_with_it() {
    let last = 6;
    let cases: [Case; 17] = [
        (|m| m.header.version = 2.into(), Error::Version(2)),
        (|m| m.header.parts = 17.into(), Error::TooManyParts(17)),
        (|m| m.header.parts = u32::MAX.into(), Error::TooManyParts(u32::MAX)),
        (|m| m.header.parts = 6.into(), Error::ManifestReserved),
        (|m| m.unused[0] = 1, Error::ManifestReserved),
        (|m| m.parts[0].reserved = 1.into(), Error::ManifestReserved),
        (|m| m.parts[0].kind = 8.into(), Error::UnknownKind(8)),
        (|m| m.parts[1].kind = 2.into(), Error::Duplicate(Kind::Payload)),
        (|m| m.parts[5].file_bytes = 31.into(), Error::PartSize { kind: Kind::Measurement, bytes: 31 }),
        (|m| m.parts[0].offset = 0x4001.into(), Error::Misaligned { kind: Kind::Payload, offset: 0x4001 }),
        (|m| m.parts[6].offset = 0x20_1000.into(), Error::Misaligned { kind: Kind::Host, offset: 0x20_1000 }),
        (
            |m| m.parts[0].memory_bytes = 4096.into(),
            Error::PartMemory { kind: Kind::Payload, file_bytes: 5000, memory_bytes: 4096 },
        ),
        (
            |m| m.parts[0].offset = 0x3000.into(),
            Error::Overlap { kind: Kind::Payload, offset: 0x3000, below: 0x4000 },
        ),
        (
            |m| m.parts[1].offset = 0x5000.into(),
            Error::Overlap { kind: Kind::Initrd, offset: 0x5000, below: 0x6000 },
        ),
        (|m| m.parts[0].offset = (u64::MAX - 0xfff).into(), Error::OutOfRange(Kind::Payload)),
        (|m| m.header.file_bytes = 0x20_1000.into(), Error::OutOfRange(Kind::Host)),
        (
            |m| m.header.memory_bytes = u64::MAX.into(),
            Error::Oversized { bytes: u64::MAX, limit: MAX_MEMORY_BYTES },
        ),
    ];
    for (change, error) in cases {
        assert_eq!(refused(change), error);
    }
    assert_eq!(
        refused(|m| {
            m.header.parts = last.into();
            m.parts[last as usize].as_mut_bytes().fill(0);
        }),
        Error::Missing(Kind::Host)
    );
    assert_eq!(refused(|m| m.header.memory_bytes = (0x20_5000_u64 + 0x1000).into()), Error::TotalSize);
    assert_eq!(refused(|m| m.parts[6].memory_bytes = 0x4000.into()), Error::TotalSize);
}

#[test]
fn an_image_inside_a_payload_is_not_taken_for_the_image() {
    let inner = full();
    let bytes =
        pack(&Input { hypervisor: &hypervisor(), host: &host(), payload: Some(&inner), ..Input::default() })
            .unwrap();
    let image = file::verify(&bytes).unwrap();
    assert_eq!(image.content(Kind::Payload), Some(inner.as_slice()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn packing_round_trips(
        payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..9000)),
        initrd in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..9000)),
        host_args in "[ -~]{0,64}",
        guest_args in "[ -~]{0,64}",
        hypervisor_args in "[ -~]{0,64}",
        measurement in proptest::option::of(any::<[u8; 32]>()),
    ) {
        let measurement = measurement.map(Digest);
        let bytes = pack(&Input {
            hypervisor: &hypervisor(),
            host: &host(),
            payload: payload.as_deref(),
            initrd: initrd.as_deref(),
            host_args: &host_args,
            guest_args: &guest_args,
            hypervisor_args: &hypervisor_args,
            measurement,
        }).unwrap();
        let image = file::verify(&bytes).unwrap();
        prop_assert_eq!(image.content(Kind::Payload), payload.as_deref());
        prop_assert_eq!(image.content(Kind::Initrd), initrd.as_deref());
        prop_assert_eq!(image.text(Kind::HostArgs).unwrap_or_default(), host_args);
        prop_assert_eq!(image.text(Kind::GuestArgs).unwrap_or_default(), guest_args);
        prop_assert_eq!(image.text(Kind::HypervisorArgs).unwrap_or_default(), hypervisor_args);
        prop_assert_eq!(image.measurement(), measurement);
    }

    #[test]
    fn one_flipped_bit_anywhere_is_refused(position in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let mut image = full();
        let offset = position.index(image.len());
        image[offset] ^= 1_u8 << bit;
        prop_assert!(file::verify(&image).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_no_image(bytes in proptest::collection::vec(any::<u8>(), 0..12_000)) {
        prop_assert!(file::verify(&bytes).is_err());
        prop_assert!(Manifest::parse(&bytes).is_err());
    }

    /// A manifest whose digest is right can say anything: it must never lead to a panic, nor to a
    /// range that is not in the image.
    #[test]
    fn an_arbitrary_manifest_never_panics(
        header in any::<[u64; 4]>(),
        parts in proptest::collection::vec((0_u32..8, any_size(), any_size(), any_size()), 0..16),
    ) {
        let mut image = full();
        forge(&mut image, |manifest| {
            manifest.header.parts = (parts.len() as u32).into();
            manifest.header.file_bytes = (header[0] >> (header[1] % 64)).into();
            manifest.header.memory_bytes = (header[2] >> (header[3] % 64)).into();
            for (entry, (kind, offset, file_bytes, memory_bytes)) in
                manifest.parts.iter_mut().zip(&parts)
            {
                entry.kind = (*kind).into();
                entry.offset = (*offset).into();
                entry.file_bytes = (*file_bytes).into();
                entry.memory_bytes = (*memory_bytes).into();
            }
        });
        if let Ok(manifest) = Manifest::parse(&image[HYPERVISOR_BYTES as usize..]) {
            for part in manifest.parts() {
                prop_assert!(part.file().end <= manifest.file_bytes());
                prop_assert!(part.memory().end <= manifest.memory_bytes());
            }
        }
        prop_assert!(file::verify(&image).is_err());
    }
}

/// Sizes and offsets at all magnitudes, often page aligned.
fn any_size() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..64, any::<bool>()).prop_map(|(value, shift, aligned)| {
        let value = value >> shift;
        if aligned { value & !0xfff } else { value }
    })
}
