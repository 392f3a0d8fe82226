//! Target: the boot image. The verifier accepts only images that conform to the documentation, and a change of any
//! byte makes it refuse.
//!
//! The input is a manifest and the bytes after it. A flag has the target correct the digests, because no fuzzer finds
//! a SHA-256. With the flag off, digests are wrong.

use bootimg::manifest::{MANIFEST_BYTES, Manifest};
use bootimg::pack::{self, pack};
use bootimg::{Image, Kind, arm64, file};
use sha2::{Digest as _, Sha256};
use shared_abi::addr::PAGE_SIZE;

use crate::input::Input;

/// Bits of the input's first byte.
const RIGHT_MANIFEST_DIGEST: u8 = 1;
const RIGHT_PART_DIGESTS: u8 = 2;

/// The offsets of the manifest's fields (docs/abi.md, "Boot image").
const OWN_DIGEST: usize = 72;
const PARTS: usize = 128;
const PART_BYTES: usize = 64;
const MAX_PARTS: usize = 16;

/// Runs the target on an input: a byte of flags, the length of the manifest's used part (16 bits) and that part, the
/// number of zero bytes at the end of the file (16 bits), the place to damage (16 bits), and the bytes after the
/// manifest.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let used = usize::from(input.u16()).min(page());
    let mut bytes = input.bytes(used).to_vec();
    bytes.resize(page(), 0);
    let zeroes = usize::from(input.u16());
    let damage = usize::from(input.u16());
    bytes.extend_from_slice(input.rest());
    bytes.resize(bytes.len() + zeroes, 0);

    if flags & RIGHT_PART_DIGESTS != 0 {
        make_part_digests_right(&mut bytes);
    }
    if flags & RIGHT_MANIFEST_DIGEST != 0 {
        make_manifest_digest_right(&mut bytes);
    }
    check(&bytes, damage);
}

fn page() -> usize {
    usize::try_from(MANIFEST_BYTES).expect("a page")
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn make_manifest_digest_right(bytes: &mut [u8]) {
    let manifest = &mut bytes[..page()];
    manifest[OWN_DIGEST..OWN_DIGEST + 32].fill(0);
    let digest: [u8; 32] = Sha256::digest(&*manifest).into();
    manifest[OWN_DIGEST..OWN_DIGEST + 32].copy_from_slice(&digest);
}

fn make_part_digests_right(bytes: &mut [u8]) {
    let start = word(bytes, 16);
    for entry in (0..MAX_PARTS).map(|part| PARTS + part * PART_BYTES) {
        let (offset, length) = (word(bytes, entry + 8), word(bytes, entry + 16));
        let content = offset.checked_sub(start).and_then(|first| {
            let first = usize::try_from(first).ok()?;
            bytes.get(first..first.checked_add(usize::try_from(length).ok()?)?)
        });
        if let Some(content) = content.filter(|content| !content.is_empty()) {
            let digest: [u8; 32] = Sha256::digest(content).into();
            bytes[entry + 32..entry + 64].copy_from_slice(&digest);
        }
    }
}

fn check(bytes: &[u8], damage: usize) {
    let manifest = match Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert_eq!(Image::parse(bytes).unwrap_err(), error);
            return;
        }
    };
    assert_eq!(Manifest::parse(&bytes[..page()]).as_ref(), Ok(&manifest));
    check_manifest(&manifest);

    let (offset, memory) = (manifest.offset(), manifest.memory_bytes());
    let Ok(image) = Image::verify(bytes, offset, memory) else {
        return;
    };
    let length = usize::try_from(manifest.bytes_from_manifest()).expect("it is in memory");
    check_content(&image, &bytes[..length]);

    // The same bytes at another offset, or with less memory, are refused.
    assert!(Image::verify(bytes, offset + PAGE_SIZE, memory).is_err());
    assert!(Image::verify(bytes, offset, memory - 1).is_err());
    assert!(Image::verify(&bytes[..length - 1], offset, memory).is_err());
    // A change of any bit is refused. The input chooses the bit.
    let mut damaged = bytes[..length].to_vec();
    damaged[damage % length] ^= 1 << (damage % 8);
    assert!(
        Image::verify(&damaged, offset, memory).is_err(),
        "a change of byte {:#x} is accepted",
        damage % length
    );
    check_round_trip(&image);
}

/// Checks every accepted manifest.
fn check_manifest(manifest: &Manifest) {
    assert!(manifest.offset().is_multiple_of(PAGE_SIZE));
    assert!(manifest.file_bytes() <= manifest.memory_bytes());
    let mut below = manifest.offset() + MANIFEST_BYTES;
    for (index, part) in manifest.parts().iter().enumerate() {
        let (file, memory) = (part.file(), part.memory());
        assert!(file.start >= below, "parts overlap");
        assert!(file.start.is_multiple_of(part.kind().alignment()));
        assert!(file.start < file.end && file.end <= memory.end);
        assert!(file.end <= manifest.file_bytes() && memory.end <= manifest.memory_bytes());
        assert!(part.kind().sizes().contains(&(file.end - file.start)));
        let same = manifest.parts()[..index].iter().any(|other| other.kind() == part.kind());
        assert!(!same, "two parts of a kind");
        below = memory.end;
    }
    assert_eq!(below, manifest.memory_bytes());
    assert_eq!(manifest.part(Kind::Host), Some(manifest.host()));
}

/// Checks every accepted image: the manifest accounts for all its bytes.
fn check_content(image: &Image<'_>, bytes: &[u8]) {
    let manifest = image.manifest();
    let index = |offset: u64| usize::try_from(offset - manifest.offset()).expect("it is in memory");
    let mut accounted = page();
    for part in manifest.parts() {
        let (start, end) = (index(part.file().start), index(part.file().end));
        assert!(bytes[accounted..start].iter().all(|byte| *byte == 0));
        let content = &bytes[start..end];
        assert_eq!(image.content(part.kind()), Some(content));
        let digest: [u8; 32] = Sha256::digest(content).into();
        assert_eq!(digest, part.digest().0);
        accounted = end;
    }
    assert_eq!(accounted, bytes.len());
    for kind in [Kind::HostArgs, Kind::GuestArgs, Kind::HypervisorArgs] {
        if let Some(content) = image.content(kind) {
            let text = image.text(kind).expect("arguments are text");
            assert_eq!(text.as_bytes(), content);
            assert!(!text.chars().any(char::is_control));
        }
    }
    assert_eq!(
        image.measurement().map(|digest| digest.0.to_vec()),
        image.content(Kind::Measurement).map(<[u8]>::to_vec)
    );
}

/// Checks that an accepted image can be packed again, with the same content.
fn check_round_trip(image: &Image<'_>) {
    let host = image.content(Kind::Host).expect("every image has a host");
    let header = arm64::Header::parse(host).expect("the host is an Image");
    // The packer would load an ELF file, and requires that an Image's header covers its whole file.
    if host.starts_with(b"\x7fELF") || header.image_size < host.len() as u64 {
        return;
    }
    let input = pack::Input {
        hypervisor: &hypervisor(),
        host,
        payload: image.content(Kind::Payload),
        initrd: image.content(Kind::Initrd),
        host_args: image.text(Kind::HostArgs).unwrap_or_default(),
        guest_args: image.text(Kind::GuestArgs).unwrap_or_default(),
        hypervisor_args: image.text(Kind::HypervisorArgs).unwrap_or_default(),
        measurement: image.measurement(),
    };
    let packed = pack(&input).expect("what was accepted can be packed");
    let again = file::verify(&packed).expect("what was packed is accepted");
    for kind in Kind::ALL {
        assert_eq!(image.content(kind), again.content(kind), "{kind}");
    }
}

/// The smallest hypervisor that the packer accepts: a header.
fn hypervisor() -> Vec<u8> {
    arm64_header(PAGE_SIZE)
}

fn arm64_header(image_size: u64) -> Vec<u8> {
    let mut header = vec![0; arm64::HEADER_BYTES];
    header[16..24].copy_from_slice(&image_size.to_le_bytes());
    header[56..60].copy_from_slice(b"ARM\x64");
    header
}

/// A part of a seed: kind, offset, content, bytes of memory.
type SeedPart<'a> = (Kind, u64, &'a [u8], u64);

/// Makes a seed's manifest, without digests.
fn manifest(offset: u64, parts: &[SeedPart<'_>]) -> Vec<u8> {
    let last = parts.last().expect("an image has parts");
    let mut bytes = b"CLOISTER".to_vec();
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(u32::try_from(parts.len()).expect("few").to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend((last.1 + last.2.len() as u64).to_le_bytes());
    bytes.extend((last.1 + last.3).to_le_bytes());
    bytes.resize(PARTS, 0);
    for (kind, offset, content, memory) in parts {
        bytes.extend((*kind as u32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(offset.to_le_bytes());
        bytes.extend((content.len() as u64).to_le_bytes());
        bytes.extend(memory.to_le_bytes());
        bytes.extend([0; 32]);
    }
    bytes
}

/// Makes an input from the manifest and its parts.
fn seed(flags: u8, offset: u64, parts: &[SeedPart<'_>]) -> Vec<u8> {
    let manifest = manifest(offset, parts);
    let mut seed = vec![flags];
    seed.extend(u16::try_from(manifest.len()).expect("a page").to_le_bytes());
    seed.extend(manifest);
    seed.extend([0; 4]);
    let content = seed.len();
    for (_, at, bytes, _) in parts {
        let start = usize::try_from(at - offset - MANIFEST_BYTES).expect("small");
        seed.resize(content + start, 0);
        seed.extend(*bytes);
    }
    seed
}

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    const MIB_2: u64 = 2 << 20;
    let right = RIGHT_MANIFEST_DIGEST | RIGHT_PART_DIGESTS;
    let host = arm64_header(0x3000);
    let smallest: &[SeedPart<'_>] = &[(Kind::Host, MIB_2, &host, 0x3000)];
    let below = MIB_2 - 0x7000;
    let full: &[SeedPart<'_>] = &[
        (Kind::Payload, below + 0x1000, &[0x33; 40], 0x1000),
        (Kind::Initrd, below + 0x2000, &[0x44; 30], 0x1000),
        (Kind::HostArgs, below + 0x3000, b"smp=1 attack=true", 0x1000),
        (Kind::GuestArgs, below + 0x4000, b"quiet", 0x1000),
        (Kind::Measurement, below + 0x5000, &[0x55; 32], 0x1000),
        (Kind::HypervisorArgs, MIB_2 - 0x1000, b"trace=on", 0x1000),
        (Kind::Host, MIB_2, &host, 0x3000),
    ];
    vec![
        ("smallest", seed(right, MIB_2 - 0x1000, smallest)),
        ("every-part", seed(right, below, full)),
        ("manifest-digest-wrong", seed(0, MIB_2 - 0x1000, smallest)),
        ("part-digest-wrong", seed(RIGHT_MANIFEST_DIGEST, MIB_2 - 0x1000, smallest)),
        ("no-host", seed(right, below, &full[..3])),
        ("nothing", Vec::new()),
    ]
}
