//! The private directory of a run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
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
        let mut builder = tempfile::Builder::new();
        builder.prefix("cloister-").permissions(fs::Permissions::from_mode(0o700));
        builder.tempdir_in(parent).map_err(|error| {
            Failure::system(format!("can't make a directory in {}", parent.display()), error)
        })
    };
    let directory = make(&std::env::temp_dir())?;
    if directory.path().as_os_str().len() <= MAX_PATH_BYTES {
        return Ok(directory);
    }
    make(Path::new("/tmp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_reaches_it_and_it_goes() {
        let directory = private().unwrap();
        let path = directory.path().to_owned();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(directory);
        assert!(!path.exists());
    }
}
