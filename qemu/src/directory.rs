//! The private directory of a run.

use std::path::Path;

use tempfile::TempDir;

use crate::failure::{Failure, Result};

/// Names of sockets have at most 103 bytes on macOS and 107 on Linux (`sun_path`); this leaves room for
/// the longest file name in the directory.
const MAX_PATH_BYTES: usize = 80;

/// Makes a directory that only this user can read, and that goes with the value.
///
/// # Errors
///
/// When there is no place for one.
pub fn private() -> Result<TempDir> {
    let make = |parent: &Path| {
        TempDir::with_prefix_in("cloister-", parent).map_err(|error| {
            Failure::system(
                format!("can't make a directory in {}", parent.display()),
                error,
            )
        })
    };
    let directory = make(&std::env::temp_dir())?;
    if directory.path().as_os_str().len() <= MAX_PATH_BYTES {
        return Ok(directory);
    }
    make(Path::new("/tmp"))
}
