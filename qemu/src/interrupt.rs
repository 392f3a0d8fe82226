//! Ctrl-C, SIGTERM and SIGHUP: noted once, and looked at wherever the tool waits.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Failure, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes the signals over, so that whoever waits ends by itself and cleans up on the way out.
///
/// # Errors
///
/// When the signals can't be taken over.
pub fn watch() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .map_err(|error| Failure::system("can't install the handler of Ctrl-C", error))
}

/// Whether a signal asked the tool to end.
#[must_use]
pub fn requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
