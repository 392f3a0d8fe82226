//! Manifest and content together.

use shared_abi::record::Digest;

use crate::Error;
use crate::arm64;
use crate::manifest::{Kind, Manifest, Part};
use crate::measure::sha256;

/// An image in memory, from its manifest on.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    manifest: Manifest,
    /// From the manifest's first byte to the last part's last one.
    bytes: &'a [u8],
}

impl<'a> Image<'a> {
    /// Reads an image from its manifest on, and trusts its content: for a reader who comes after
    /// someone who verified it. Bytes after the last part are not looked at.
    ///
    /// # Errors
    ///
    /// What is wrong with it, its digests apart.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let manifest = Manifest::parse(bytes)?;
        let expected = manifest.bytes_from_manifest();
        let bytes = usize::try_from(expected)
            .ok()
            .and_then(|length| bytes.get(..length))
            .ok_or(Error::Truncated { expected, found: bytes.len() as u64 })?;
        let image = Self { manifest, bytes };
        image.check_host()?;
        for kind in [Kind::HostArgs, Kind::GuestArgs, Kind::HypervisorArgs] {
            if image.content(kind).is_some() && image.text(kind).is_none() {
                return Err(Error::NotText(kind));
            }
        }
        Ok(image)
    }

    /// Reads an image whose manifest is `offset` bytes after the image's start, and checks every byte
    /// from there on: each part has its digest, and all else is zero.
    ///
    /// `memory_limit` is the memory from the image's start on that it may occupy, in bytes.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn verify(bytes: &'a [u8], offset: u64, memory_limit: u64) -> Result<Self, Error> {
        let image = Self::parse(bytes)?;
        let manifest = &image.manifest;
        if manifest.offset() != offset {
            return Err(Error::Place { stated: manifest.offset(), found: offset });
        }
        if manifest.memory_bytes() > memory_limit {
            return Err(Error::Oversized { bytes: manifest.memory_bytes(), limit: memory_limit });
        }
        let mut gap_start = offset + crate::manifest::MANIFEST_BYTES;
        for part in manifest.parts() {
            image.check_zero(gap_start, part.file().start)?;
            gap_start = part.file().end;
            if Digest(sha256(image.content_of(part))) != part.digest() {
                return Err(Error::PartDigest(part.kind()));
            }
        }
        Ok(image)
    }

    /// What the image consists of.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The content of the part of that kind, if the image has one.
    #[must_use]
    pub fn content(&self, kind: Kind) -> Option<&'a [u8]> {
        self.manifest.part(kind).map(|part| self.content_of(part))
    }

    /// The arguments of that kind, if the image has them.
    #[must_use]
    pub fn text(&self, kind: Kind) -> Option<&'a str> {
        let text = core::str::from_utf8(self.content(kind)?).ok()?;
        (!text.chars().any(char::is_control)).then_some(text)
    }

    /// The launch measurement that the manifest names, if it names one.
    #[must_use]
    pub fn measurement(&self) -> Option<Digest> {
        self.content(Kind::Measurement)?.try_into().ok().map(Digest)
    }

    /// The bytes of a part of this image's manifest.
    fn content_of(&self, part: &Part) -> &'a [u8] {
        self.slice(part.file().start, part.file().end)
    }

    /// The bytes between two offsets from the image's start; empty if they are not in the image,
    /// which `Manifest::parse` and the length check in `parse` rule out for parts.
    fn slice(&self, start: u64, end: u64) -> &'a [u8] {
        let index = |offset: u64| usize::try_from(offset.checked_sub(self.manifest.offset())?).ok();
        let range = index(start).zip(index(end));
        range.and_then(|(start, end)| self.bytes.get(start..end)).unwrap_or_default()
    }

    fn check_zero(&self, start: u64, end: u64) -> Result<(), Error> {
        let gap = self.slice(start, end);
        match gap.iter().position(|byte| *byte != 0) {
            Some(index) => Err(Error::StrayByte(start + index as u64)),
            None => Ok(()),
        }
    }

    fn check_host(&self) -> Result<(), Error> {
        let host = self.manifest.host();
        let memory = host.memory().end - host.memory().start;
        match arm64::Header::parse(self.content_of(host)) {
            Some(header) if header.image_size <= memory && header.text_offset == 0 => Ok(()),
            _ => Err(Error::HostHeader),
        }
    }
}
