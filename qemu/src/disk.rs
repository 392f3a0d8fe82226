//! The guest's disk: generated, copied or the user's own, and what must be on it afterwards.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use guest_kernel::plan::{self, BLOCK_BYTES, Geometry, SECTOR_BYTES};
use sha2::{Digest as _, Sha256};
use shared_abi::record::Digest;

use crate::failure::{Failure, Result};
use crate::machine::{DISK_FILE, DiskMode};

/// The size of a generated disk in bytes.
const GENERATED_BYTES: u64 = 4 << 20;

/// The argument of `--disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArgument {
    /// The file.
    pub file: PathBuf,
    /// Whether the guest may write it.
    pub mode: DiskMode,
}

impl DiskArgument {
    /// Reads `FILE` or `FILE,readonly`.
    ///
    /// # Errors
    ///
    /// Never; clap requires this signature.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let (file, mode) = match text.strip_suffix(",readonly") {
            Some(file) => (file, DiskMode::ReadOnly),
            None => (text, DiskMode::ReadWrite),
        };
        Ok(Self { file: file.into(), mode })
    }

    /// Checks that the file exists, and returns its size in bytes.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<u64> {
        let metadata = fs::metadata(&self.file).map_err(|error| Failure::input(&self.file, error))?;
        if !metadata.is_file() {
            return Err(Failure::input(&self.file, "this is no regular file: a disk must be one"));
        }
        let opened = match self.mode {
            DiskMode::ReadWrite => File::options().read(true).write(true).open(&self.file),
            DiskMode::ReadOnly => File::open(&self.file),
        };
        opened.map_err(|error| Failure::input(&self.file, error))?;
        if metadata.len() == 0 {
            return Err(Failure::input(
                &self.file,
                format!("the disk is an empty file: give it at least {SECTOR_BYTES} bytes"),
            ));
        }
        if !metadata.len().is_multiple_of(SECTOR_BYTES) {
            return Err(Failure::input(
                &self.file,
                format!(
                    "the disk has {} bytes, no multiple of a sector's {SECTOR_BYTES}: pad the file",
                    metadata.len()
                ),
            ));
        }
        Ok(metadata.len())
    }
}

/// The demo's disk: a scratch file, and what the guest is told about it.
#[derive(Clone, Debug)]
pub struct DemoDisk {
    /// The scratch file.
    file: PathBuf,
    /// What the guest does with it.
    geometry: Geometry,
    /// The table of digests that it verifies the disk by.
    pub plan: Vec<u8>,
    /// The digest of what must be on the disk in the end.
    pub expected: Digest,
    /// Whether the guest writes to it.
    pub mode: DiskMode,
}

impl DemoDisk {
    /// Makes the scratch file in `directory`, from the user's file or of generated content.
    ///
    /// # Errors
    ///
    /// When the user's file can't be read, or the scratch file not be written.
    pub fn new(argument: Option<&DiskArgument>, directory: &Path) -> Result<Self> {
        let file = directory.join(DISK_FILE);
        let mode = argument.map_or(DiskMode::ReadWrite, |argument| argument.mode);
        let bytes = match argument {
            None => {
                fs::write(&file, generate(GENERATED_BYTES))
                    .map_err(|error| Failure::system("can't write the disk's copy", error))?;
                GENERATED_BYTES
            }
            Some(argument) => {
                // Read-only: the copy is what the demo works on, whatever the mode.
                let bytes = DiskArgument { mode: DiskMode::ReadOnly, ..argument.clone() }.check()?;
                copy(&argument.file, &file)?;
                bytes
            }
        };
        let region = match mode {
            DiskMode::ReadWrite => write_region(bytes),
            DiskMode::ReadOnly => 0..0,
        };
        let geometry = Geometry::new(bytes, region)
            .map_err(|error| Failure::system("can't plan the guest's use of its disk", error))?;
        let (plan, expected) =
            survey(&file, &geometry).map_err(|error| Failure::system("can't read the disk", error))?;
        Ok(Self { file, geometry, plan, expected, mode })
    }

    /// Blocks of the disk, all of which the guest is to verify.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.geometry.blocks()
    }

    /// Bytes that the guest is to write.
    #[must_use]
    pub fn write_bytes(&self) -> u64 {
        let region = self.geometry.write_region();
        region.end - region.start
    }

    /// The digest of what is on the disk now.
    ///
    /// # Errors
    ///
    /// When it can't be read.
    pub fn digest(&self) -> Result<Digest> {
        let mut hash = Sha256::new();
        let mut file =
            File::open(&self.file).map_err(|error| Failure::system("can't read the disk", error))?;
        let mut block = vec![0; BLOCK_BYTES as usize];
        loop {
            match file.read(&mut block) {
                Ok(0) => return Ok(Digest(hash.finalize().into())),
                Ok(bytes) => hash.update(&block[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::system("can't read the disk", error)),
            }
        }
    }
}

/// Puts the user's own file where the machine looks for its disk.
///
/// # Errors
///
/// What is wrong with the file.
pub fn link(argument: &DiskArgument, directory: &Path) -> Result<()> {
    argument.check()?;
    let file = fs::canonicalize(&argument.file).map_err(|error| Failure::input(&argument.file, error))?;
    std::os::unix::fs::symlink(file, directory.join(DISK_FILE))
        .map_err(|error| Failure::system("can't link the disk into the temporary directory", error))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(|error| Failure::input(from, error))?;
    let mut target =
        File::create(to).map_err(|error| Failure::system("can't write the disk's copy", error))?;
    io::copy(&mut source, &mut target)
        .and_then(|_| target.flush())
        .map_err(|error| Failure::system(format!("can't copy {} to {}", from.display(), to.display()), error))
}

/// The part of a disk that the guest writes: a quarter of its blocks, in its middle.
fn write_region(disk_bytes: u64) -> Range<u64> {
    let blocks = disk_bytes.div_ceil(BLOCK_BYTES);
    let first = blocks / 2;
    let count = (blocks / 4).max(1);
    let end = ((first + count) * BLOCK_BYTES).min(disk_bytes);
    first * BLOCK_BYTES..end
}

/// Content without a pattern that a mix-up of blocks could hide in; the same each time.
fn generate(bytes: u64) -> Vec<u8> {
    (0_u64..)
        .flat_map(|counter| -> [u8; 32] { Sha256::digest(counter.to_le_bytes()).into() })
        .take(usize::try_from(bytes).unwrap_or(usize::MAX))
        .collect()
}

/// Reads a disk once: the plan for the guest, and the digest that the disk must have in the end.
fn survey(file: &Path, geometry: &Geometry) -> io::Result<(Vec<u8>, Digest)> {
    let mut file = File::open(file)?;
    let mut plan = geometry.header().to_vec();
    let mut expected = Sha256::new();
    for index in 0..geometry.blocks() {
        let range = geometry.block(index);
        // A block has at most `BLOCK_BYTES`.
        let mut block = vec![0; (range.end - range.start) as usize];
        file.read_exact(&mut block)?;
        plan.extend_from_slice(&plan::digest(&block).0);
        if geometry.is_written(index) {
            plan::complement(&mut block);
        }
        expected.update(&block);
    }
    Ok((plan, Digest(expected.finalize().into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_says_whether_the_disk_may_be_written() {
        assert_eq!(
            DiskArgument::parse("a,b.img"),
            Ok(DiskArgument { file: "a,b.img".into(), mode: DiskMode::ReadWrite })
        );
        assert_eq!(
            DiskArgument::parse("a.img,readonly"),
            Ok(DiskArgument { file: "a.img".into(), mode: DiskMode::ReadOnly })
        );
    }

    #[test]
    fn a_generated_disk_comes_with_its_plan() {
        let directory = tempfile::tempdir().unwrap();
        let disk = DemoDisk::new(None, directory.path()).unwrap();
        let plan = plan::Plan::parse(&disk.plan).unwrap();
        assert_eq!(plan.geometry().disk_bytes(), GENERATED_BYTES);
        assert_eq!(disk.write_bytes(), GENERATED_BYTES / 4);
        let content = fs::read(&disk.file).unwrap();
        for (index, digest) in plan.digests() {
            let range = plan.geometry().block(index);
            let block = &content[range.start as usize..range.end as usize];
            assert_eq!(plan::digest(block), digest);
        }
        // Nobody has written it yet; when somebody does, it is as expected.
        assert_ne!(disk.digest().unwrap(), disk.expected);
        let region = plan.geometry().write_region();
        let mut written = content;
        plan::complement(&mut written[region.start as usize..region.end as usize]);
        fs::write(&disk.file, written).unwrap();
        assert_eq!(disk.digest().unwrap(), disk.expected);
    }

    #[test]
    fn a_users_file_is_copied_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("user.img");
        fs::write(&file, [7; 1024]).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let argument = DiskArgument::parse(file.to_str().unwrap()).unwrap();
        let disk = DemoDisk::new(Some(&argument), scratch.path()).unwrap();
        assert_eq!(disk.blocks(), 1);
        assert_eq!(disk.write_bytes(), 1024);
        fs::write(&disk.file, [0; 1024]).unwrap();
        assert_eq!(fs::read(&file).unwrap(), [7; 1024]);
    }

    #[test]
    fn a_read_only_disk_is_expected_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("user.img");
        fs::write(&file, [7; 512]).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let argument = DiskArgument { file, mode: DiskMode::ReadOnly };
        let disk = DemoDisk::new(Some(&argument), scratch.path()).unwrap();
        assert_eq!(disk.write_bytes(), 0);
        assert_eq!(disk.digest().unwrap(), disk.expected);
    }

    #[test]
    fn files_that_are_no_disks_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let check = |file: PathBuf| {
            DiskArgument { file, mode: DiskMode::ReadWrite }.check().map_err(|failure| failure.kind.status())
        };
        assert_eq!(check(directory.path().join("missing")), Err(2));
        assert_eq!(check(directory.path().to_owned()), Err(2));
        let file = directory.path().join("file");
        fs::write(&file, []).unwrap();
        assert_eq!(check(file.clone()), Err(2));
        fs::write(&file, [0; 513]).unwrap();
        assert_eq!(check(file.clone()), Err(2));
        fs::write(&file, [0; 512]).unwrap();
        assert_eq!(check(file), Ok(512));
    }

    #[test]
    fn the_region_to_write_is_within_every_disk() {
        for bytes in (SECTOR_BYTES..64 * BLOCK_BYTES).step_by(SECTOR_BYTES as usize * 7) {
            let region = write_region(bytes);
            assert!(!region.is_empty());
            assert!(Geometry::new(bytes, region).is_ok(), "{bytes}");
        }
    }
}
