//! The source tree that the tool was built from.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Kind, Result};

/// The target that the bare-metal binaries are built for.
pub const BARE_TARGET: &str = "aarch64-unknown-none-softfloat";

/// The workspace's root directory.
///
/// # Errors
///
/// When it is gone since the tool was built.
pub fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    if root.join("bare-rt/image.ld").is_file() {
        return Ok(root.to_owned());
    }
    Err(Failure::new(
        Kind::NotPrepared,
        format!(
            "the sources of this tool are no longer in {}: run `cargo run` in their new directory",
            root.display()
        ),
    ))
}
