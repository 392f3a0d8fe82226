//! Images as files.

use std::io::Write as _;
use std::path::Path;

use shared_abi::addr::PAGE_SIZE;
use shared_abi::record::Digest;

use crate::arm64;
use crate::format::MAGIC;
use crate::manifest::MAX_MEMORY_BYTES;
use crate::measure::sha256;
use crate::{Error, Image};

/// Reads a whole image without checking digests.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse(file: &[u8]) -> Result<Image<'_>, Error> {
    Image::parse(split(file)?.1)
}

/// Reads a whole image and checks every byte of it.
///
/// # Errors
///
/// What is wrong with it.
pub fn verify(file: &[u8]) -> Result<Image<'_>, Error> {
    let (hypervisor, rest) = split(file)?;
    let image = Image::verify(rest, hypervisor.len() as u64, MAX_MEMORY_BYTES)?;
    let manifest = image.manifest();
    match arm64::Header::parse(hypervisor) {
        Some(header) if header.image_size == manifest.memory_bytes() => {}
        _ => return Err(Error::ImageHeader(manifest.memory_bytes())),
    }
    if Digest(sha256(hypervisor)) != manifest.hypervisor_digest() {
        return Err(Error::HypervisorDigest);
    }
    match (file.len() as u64).checked_sub(manifest.file_bytes()) {
        None | Some(0) => Ok(image),
        Some(more) => Err(Error::TrailingBytes(more)),
    }
}

/// Splits an image into the hypervisor and what follows it: the manifest is the first page that
/// starts with its magic number, and tells later whether it belongs there.
fn split(file: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    (0..file.len())
        .step_by(PAGE_SIZE as usize)
        .find(|offset| file[*offset..].starts_with(&MAGIC))
        .map(|offset| file.split_at(offset))
        .ok_or(Error::NoManifest)
}

/// Writes a file so that it is there whole or not at all: under another name first, then renamed.
///
/// # Errors
///
/// Those of the file system; nothing is left behind then.
pub fn write_by_rename(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // As `File::create` does it: the umask takes away what it should.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
