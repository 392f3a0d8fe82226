//! The manifest: what is in an image, where, and with which digest.

use core::fmt;
use core::ops::{Range, RangeInclusive};

use heapless::Vec;
use shared_abi::addr::PAGE_SIZE;
use shared_abi::record::Digest;
use zerocopy::FromBytes;

use crate::Error;
use crate::arm64;
use crate::format::{self, RawManifest, RawPart};

/// The manifest's size in bytes: one page.
pub const MANIFEST_BYTES: u64 = format::MANIFEST_BYTES as u64;

/// The most memory that an image may ask for, in bytes: 1 GiB.
pub const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// The longest argument text, in bytes; as Linux's `COMMAND_LINE_SIZE` on arm64.
pub const MAX_ARGUMENT_BYTES: u64 = 2048;

/// What a part is. An image has at most one part of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// The host: an arm64 Image. Every image has one.
    Host = 1,
    /// The guest's payload: an ELF file, an arm64 Image or a flat binary.
    Payload = 2,
    /// The guest's initial RAM disk.
    Initrd = 3,
    /// Arguments for the host: text.
    HostArgs = 4,
    /// Arguments for the guest, which finds them in `/chosen/bootargs`: text.
    GuestArgs = 5,
    /// The launch measurement that the VM must have to count as measured: 32 bytes.
    Measurement = 6,
    /// Arguments for the hypervisor: text.
    HypervisorArgs = 7,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Host,
        Self::Payload,
        Self::Initrd,
        Self::HostArgs,
        Self::GuestArgs,
        Self::Measurement,
        Self::HypervisorArgs,
    ];

    /// The kind's name, as listings and messages have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Payload => "payload",
            Self::Initrd => "initrd",
            Self::HostArgs => "host-args",
            Self::GuestArgs => "guest-args",
            Self::Measurement => "measurement",
            Self::HypervisorArgs => "hypervisor-args",
        }
    }

    /// The boundary that a part of this kind starts on, in bytes from the image's start, which is
    /// itself on a 2 MiB boundary of physical memory.
    #[must_use]
    pub const fn alignment(self) -> u64 {
        match self {
            Self::Host => arm64::ALIGNMENT,
            _ => PAGE_SIZE,
        }
    }

    /// The sizes that the content of a part of this kind may have, in bytes.
    #[must_use]
    pub const fn sizes(self) -> RangeInclusive<u64> {
        match self {
            Self::Host => arm64::HEADER_BYTES as u64..=MAX_MEMORY_BYTES,
            Self::Payload | Self::Initrd => 1..=MAX_MEMORY_BYTES,
            Self::HostArgs | Self::GuestArgs | Self::HypervisorArgs => 1..=MAX_ARGUMENT_BYTES,
            Self::Measurement => 32..=32,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == code)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the manifest says of a part. Its ranges were checked: they lie in the image, apart from all
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    kind: Kind,
    offset: u64,
    file_bytes: u64,
    memory_bytes: u64,
    digest: Digest,
}

impl Part {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its content's offsets from the image's start, in bytes.
    #[must_use]
    pub const fn file(&self) -> Range<u64> {
        self.offset..self.offset + self.file_bytes
    }

    /// Its memory's offsets from the image's start, in bytes: whole pages, the content first, and
    /// above it whatever the part needs beyond that (a host's `.bss`).
    #[must_use]
    pub const fn memory(&self) -> Range<u64> {
        self.offset..self.offset + self.memory_bytes
    }

    /// SHA-256 of its content.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Checks an entry by itself, and that it lies between `below` and the ends of the image.
    fn parse(raw: &RawPart, below: u64, file_end: u64, memory_end: u64) -> Result<Self, Error> {
        let kind = Kind::from_code(raw.kind.get()).ok_or(Error::UnknownKind(raw.kind.get()))?;
        let (offset, file_bytes) = (raw.offset.get(), raw.file_bytes.get());
        let memory_bytes = raw.memory_bytes.get();
        if !kind.sizes().contains(&file_bytes) {
            return Err(Error::PartSize { kind, bytes: file_bytes });
        }
        if !offset.is_multiple_of(kind.alignment()) {
            return Err(Error::Misaligned { kind, offset });
        }
        if memory_bytes < file_bytes || !memory_bytes.is_multiple_of(PAGE_SIZE) {
            return Err(Error::PartMemory { kind, file_bytes, memory_bytes });
        }
        let within = |bytes, end| offset.checked_add(bytes).is_some_and(|sum: u64| sum <= end);
        if !within(file_bytes, file_end) || !within(memory_bytes, memory_end) {
            return Err(Error::OutOfRange(kind));
        }
        if offset < below {
            return Err(Error::Overlap { kind, offset, below });
        }
        Ok(Self { kind, offset, file_bytes, memory_bytes, digest: Digest(raw.digest) })
    }
}

/// A manifest that is consistent in itself. What it says of the content is not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    offset: u64,
    file_bytes: u64,
    memory_bytes: u64,
    hypervisor_digest: Digest,
    host: Part,
    parts: Vec<Part, { format::MAX_PARTS }>,
}

impl Manifest {
    /// Reads the manifest that `bytes` start with. No more than [`MANIFEST_BYTES`] are looked at, so
    /// this is how to learn how many bytes the rest has.
    ///
    /// # Errors
    ///
    /// What is wrong with it: each [`Error`] that does not need the content.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if !bytes.starts_with(&format::MAGIC) {
            return Err(Error::NoManifest);
        }
        let (raw, _) = RawManifest::ref_from_prefix(bytes)
            .map_err(|_| Error::Truncated { expected: MANIFEST_BYTES, found: bytes.len() as u64 })?;
        let header = &raw.header;
        if header.version != format::VERSION {
            return Err(Error::Version(header.version.get()));
        }
        if header.digest != raw.own_digest() {
            return Err(Error::ManifestDigest);
        }
        let used = usize::try_from(header.parts.get())
            .ok()
            .and_then(|count| raw.parts.get(..count))
            .ok_or(Error::TooManyParts(header.parts.get()))?;
        if !raw.unused_is_zero(used.len()) {
            return Err(Error::ManifestReserved);
        }
        let offset = header.manifest_offset.get();
        let (file_bytes, memory_bytes) = (header.file_bytes.get(), header.memory_bytes.get());
        Error::if_oversized(memory_bytes.max(file_bytes).max(offset))?;

        let mut parts = Vec::<Part, { format::MAX_PARTS }>::new();
        let mut content_end = 0;
        let mut below = offset + MANIFEST_BYTES;
        for raw in used {
            let part = Part::parse(raw, below, file_bytes, memory_bytes)?;
            if parts.iter().any(|other| other.kind == part.kind) {
                return Err(Error::Duplicate(part.kind));
            }
            content_end = part.file().end;
            below = part.memory().end;
            parts.push(part).map_err(|_| Error::TooManyParts(header.parts.get()))?;
        }
        let host = *parts.iter().find(|part| part.kind == Kind::Host).ok_or(Error::Missing(Kind::Host))?;
        if file_bytes != content_end || memory_bytes != below || !offset.is_multiple_of(PAGE_SIZE) {
            return Err(Error::TotalSize);
        }
        Ok(Self {
            offset,
            file_bytes,
            memory_bytes,
            hypervisor_digest: Digest(header.hypervisor_digest),
            host,
            parts,
        })
    }

    /// Where the manifest is, in bytes from the image's start: the end of the hypervisor's memory.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The size of the image's content, from its first byte to the end of the last part, in bytes.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The size of what follows the hypervisor: [`Self::file_bytes`] without what is before the
    /// manifest. [`Image::parse`](crate::Image::parse) wants that many.
    #[must_use]
    pub const fn bytes_from_manifest(&self) -> u64 {
        self.file_bytes - self.offset
    }

    /// The memory that the image occupies from its first byte on, in bytes; whole pages.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// SHA-256 of the hypervisor as it was packed. It can't be checked once it runs.
    #[must_use]
    pub const fn hypervisor_digest(&self) -> Digest {
        self.hypervisor_digest
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &Part {
        &self.host
    }

    /// The part of that kind, if the image has one.
    #[must_use]
    pub fn part(&self, kind: Kind) -> Option<&Part> {
        self.parts.iter().find(|part| part.kind == kind)
    }

    /// All parts, in ascending order of offset.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}
