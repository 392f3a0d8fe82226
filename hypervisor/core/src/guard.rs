//! The pages that a guest declared to be devices.

/// The MMIO guard of a VM.
#[derive(Debug, Default)]
pub struct MmioGuard {}
