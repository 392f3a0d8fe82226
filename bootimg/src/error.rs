//! What can be wrong with an image.

use crate::manifest::{Kind, MAX_MEMORY_BYTES};

/// Why an image is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It has no manifest where one should be.
    #[error("this is no Cloister image: it has no manifest")]
    NoManifest,
    /// It ends too early.
    #[error("the image is truncated: {expected} bytes were expected, {found} are there")]
    Truncated {
        /// Bytes that there should be.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// The manifest is of another version of the format.
    #[error("the manifest has version {0}, and only version 1 is known: pack the image again")]
    Version(u32),
    /// The manifest does not have the digest that it names.
    #[error("the manifest is corrupted: its SHA-256 is wrong")]
    ManifestDigest,
    /// A byte of the manifest that has no meaning is not zero.
    #[error("the manifest has non-zero bytes where nothing is defined")]
    ManifestReserved,
    /// The manifest is not where it says that it is.
    #[error("the manifest is at offset {found:#x} and says that it is at {stated:#x}")]
    Place {
        /// Where it says that it is.
        stated: u64,
        /// Where it is.
        found: u64,
    },
    /// The manifest has more entries than it can hold.
    #[error("the manifest counts {0} parts, more than there is room for")]
    TooManyParts(u32),
    /// A part is of a kind that is not known.
    #[error("the manifest names a part of unknown kind {0}")]
    UnknownKind(u32),
    /// Two parts are of the same kind.
    #[error("the image has more than one {0}")]
    Duplicate(Kind),
    /// A part that every image has is not there.
    #[error("the image has no {0}")]
    Missing(Kind),
    /// A part has a size that its kind can't have.
    #[error("the {kind} has {bytes} bytes; {} to {} are possible", kind.sizes().start(), kind.sizes().end())]
    PartSize {
        /// Which.
        kind: Kind,
        /// Its size.
        bytes: u64,
    },
    /// A part is not on its boundary.
    #[error("the {kind} is at offset {offset:#x}, no multiple of {:#x}", kind.alignment())]
    Misaligned {
        /// Which.
        kind: Kind,
        /// Where it is.
        offset: u64,
    },
    /// A part's memory is smaller than its content or no whole number of pages.
    #[error("the {kind} has {file_bytes} bytes and is given {memory_bytes} bytes of memory")]
    PartMemory {
        /// Which.
        kind: Kind,
        /// Size of its content.
        file_bytes: u64,
        /// Size of its memory.
        memory_bytes: u64,
    },
    /// A part starts before the end of what should lie below it.
    #[error("the {kind} is at offset {offset:#x} and overlaps what ends at {below:#x}")]
    Overlap {
        /// Which.
        kind: Kind,
        /// Where it is.
        offset: u64,
        /// Where the hypervisor, the manifest or the part below it ends.
        below: u64,
    },
    /// A part goes beyond the image's end.
    #[error("the {0} goes beyond the end of the image")]
    OutOfRange(Kind),
    /// The sizes of the whole are not those of its parts.
    #[error("the image's total size does not match its parts")]
    TotalSize,
    /// The image is larger than can be loaded.
    #[error("the image needs {bytes} bytes of memory, and only {limit} are available")]
    Oversized {
        /// What it needs.
        bytes: u64,
        /// What there is.
        limit: u64,
    },
    /// The hypervisor does not have its digest.
    #[error("the hypervisor is corrupted: its SHA-256 is not the manifest's")]
    HypervisorDigest,
    /// A part does not have its digest.
    #[error("the {0} is corrupted: its SHA-256 is not the manifest's")]
    PartDigest(Kind),
    /// A byte that belongs to no part is not zero.
    #[error("the image has a non-zero byte at offset {0:#x}, where no part is")]
    StrayByte(u64),
    /// There are bytes after the last part.
    #[error("the image goes on for {0} bytes after its last part")]
    TrailingBytes(u64),
    /// An argument part is no text.
    #[error("the {0} is no text: control characters or broken UTF-8")]
    NotText(Kind),
    /// The host is no arm64 Image that fits in its memory.
    #[error("the host is no arm64 Image that fits in the memory given to it")]
    HostHeader,
    /// The whole has no arm64 Image header that says how much memory it needs.
    #[error("the arm64 Image header does not state the {0} bytes of memory that the image needs")]
    ImageHeader(u64),
}

impl Error {
    /// A short name for programs; it stays the same when the message changes.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoManifest => "no-manifest",
            Self::Truncated { .. } => "truncated",
            Self::Version(_) => "version",
            Self::ManifestDigest => "manifest-digest",
            Self::ManifestReserved => "manifest-reserved",
            Self::Place { .. } => "place",
            Self::TooManyParts(_) => "too-many-parts",
            Self::UnknownKind(_) => "unknown-kind",
            Self::Duplicate(_) => "duplicate",
            Self::Missing(_) => "missing",
            Self::PartSize { .. } => "part-size",
            Self::Misaligned { .. } => "misaligned",
            Self::PartMemory { .. } => "part-memory",
            Self::Overlap { .. } => "overlap",
            Self::OutOfRange(_) => "out-of-range",
            Self::TotalSize => "total-size",
            Self::Oversized { .. } => "oversized",
            Self::HypervisorDigest => "hypervisor-digest",
            Self::PartDigest(_) => "part-digest",
            Self::StrayByte(_) => "stray-byte",
            Self::TrailingBytes(_) => "trailing-bytes",
            Self::NotText(_) => "not-text",
            Self::HostHeader => "host-header",
            Self::ImageHeader(_) => "image-header",
        }
    }

    /// The error for an image of that size, if no machine of ours takes it.
    pub(crate) const fn if_oversized(bytes: u64) -> Result<(), Self> {
        if bytes > MAX_MEMORY_BYTES {
            return Err(Self::Oversized { bytes, limit: MAX_MEMORY_BYTES });
        }
        Ok(())
    }
}
