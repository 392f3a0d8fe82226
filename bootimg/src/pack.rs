//! Lays parts out as one image.

use sha2::{Digest as _, Sha256};
use shared_abi::addr::PAGE_SIZE;
use shared_abi::record::Digest;
use zerocopy::{FromZeros, IntoBytes};

use crate::Error;
use crate::arm64;
use crate::flat::{FlatError, FlatImage};
use crate::format::{MAGIC, RawManifest, RawPart, VERSION};
use crate::manifest::{Kind, MANIFEST_BYTES};
use crate::measure::sha256;

/// What goes into an image.
#[derive(Clone, Debug, Default)]
pub struct Input<'a> {
    /// The hypervisor: an ELF file or an arm64 Image, whose memory is whole pages.
    pub hypervisor: &'a [u8],
    /// The host: an ELF file or an arm64 Image.
    pub host: &'a [u8],
    /// The guest's payload, as it is.
    pub payload: Option<&'a [u8]>,
    /// The guest's initial RAM disk, as it is.
    pub initrd: Option<&'a [u8]>,
    /// Arguments for the host; empty means none.
    pub host_args: &'a str,
    /// Arguments for the guest; empty means none.
    pub guest_args: &'a str,
    /// Arguments for the hypervisor; empty means none.
    pub hypervisor_args: &'a str,
    /// The measurement that the VM must have at its launch.
    pub measurement: Option<Digest>,
}

/// Why an image can't be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The hypervisor is not acceptable.
    #[error("the hypervisor can't be packed: {0}")]
    Hypervisor(FlatError),
    /// The hypervisor's memory does not end on a page boundary, where the manifest goes.
    #[error("the hypervisor can't be packed: its {0} bytes of memory are no whole number of pages")]
    HypervisorEnd(u64),
    /// The host is not acceptable.
    #[error("the host can't be packed: {0}")]
    Host(FlatError),
    /// What came out is no image that anyone would take.
    #[error("{0}")]
    Image(#[from] Error),
}

/// Packs an image; what it returns passes [`verify`](crate::file::verify).
///
/// # Errors
///
/// [`PackError`]: what is wrong with which input.
pub fn pack(input: &Input<'_>) -> Result<Vec<u8>, PackError> {
    let hypervisor = FlatImage::new(input.hypervisor).map_err(PackError::Hypervisor)?;
    let host = FlatImage::new(input.host).map_err(PackError::Host)?;
    if !hypervisor.memory_bytes().is_multiple_of(PAGE_SIZE) {
        return Err(PackError::HypervisorEnd(hypervisor.memory_bytes()));
    }
    let mut layout = Layout::new(&hypervisor)?;
    // The host comes last: on its 2 MiB boundary there is room below for the small parts, and its
    // .bss takes no space in the file.
    for (kind, content) in [
        (Kind::Payload, input.payload),
        (Kind::Initrd, input.initrd),
        (Kind::HostArgs, text(input.host_args)),
        (Kind::GuestArgs, text(input.guest_args)),
        (Kind::HypervisorArgs, text(input.hypervisor_args)),
        (Kind::Measurement, input.measurement.as_ref().map(|digest| digest.0.as_slice())),
    ] {
        if let Some(content) = content {
            layout.add(kind, content, content.len() as u64)?;
        }
    }
    layout.add(Kind::Host, host.bytes(), host.memory_bytes())?;
    let image = layout.finish();
    crate::file::verify(&image)?;
    Ok(image)
}

fn text(text: &str) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text.as_bytes())
}

/// An image in the making.
struct Layout {
    bytes: Vec<u8>,
    manifest_offset: usize,
    memory_end: u64,
    parts: Vec<RawPart>,
}

impl Layout {
    fn new(hypervisor: &FlatImage) -> Result<Self, Error> {
        Error::if_oversized(hypervisor.memory_bytes() + MANIFEST_BYTES)?;
        let mut layout = Self {
            bytes: hypervisor.bytes().to_vec(),
            manifest_offset: 0,
            memory_end: hypervisor.memory_bytes() + MANIFEST_BYTES,
            parts: Vec::new(),
        };
        layout.pad(hypervisor.memory_bytes());
        layout.manifest_offset = layout.bytes.len();
        Ok(layout)
    }

    fn add(&mut self, kind: Kind, content: &[u8], memory_bytes: u64) -> Result<(), Error> {
        let file_bytes = content.len() as u64;
        if !kind.sizes().contains(&file_bytes) {
            return Err(Error::PartSize { kind, bytes: file_bytes });
        }
        let offset = self.memory_end.next_multiple_of(kind.alignment());
        let memory_bytes = memory_bytes.next_multiple_of(PAGE_SIZE);
        Error::if_oversized(offset + memory_bytes)?;
        self.pad(offset);
        self.bytes.extend_from_slice(content);
        self.memory_end = offset + memory_bytes;
        self.parts.push(RawPart {
            kind: (kind as u32).into(),
            reserved: 0.into(),
            offset: offset.into(),
            file_bytes: file_bytes.into(),
            memory_bytes: memory_bytes.into(),
            digest: sha256(content),
        });
        Ok(())
    }

    /// Fills the file with zeroes up to an offset, which an oversize check has bounded.
    fn pad(&mut self, offset: u64) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.bytes.resize(offset, 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let manifest_offset = self.manifest_offset;
        let mut manifest = RawManifest::new_zeroed();
        for (entry, part) in manifest.parts.iter_mut().zip(&self.parts) {
            *entry = *part;
        }
        // `FlatImage` has seen the header, so this finds it.
        let _ = arm64::Header::set_image_size(&mut self.bytes, self.memory_end);
        let hypervisor = Sha256::digest(&self.bytes[..manifest_offset]);
        let header = &mut manifest.header;
        header.magic = MAGIC;
        header.version = VERSION.into();
        header.parts = (self.parts.len() as u32).into();
        header.manifest_offset = (manifest_offset as u64).into();
        header.file_bytes = (self.bytes.len() as u64).into();
        header.memory_bytes = self.memory_end.into();
        header.hypervisor_digest = hypervisor.into();
        manifest.header.digest = manifest.own_digest();
        self.bytes[manifest_offset..][..MANIFEST_BYTES as usize].copy_from_slice(manifest.as_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests;
