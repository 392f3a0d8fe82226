//! The reasons to refuse a machine or an image.

use hyp_core::boot::device_tree::DeviceTreeError;
use hyp_core::boot::options::UnknownArgument;
use hyp_core::ownership::setup::SetupError;

/// The reason to refuse this machine or image. Users read its text in the record `refused`.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootError {
    #[error("{0}")]
    El2(&'static str),
    #[error("PSCI's method is not SMC: boot on a machine with EL2")]
    Conduit,
    #[error("the image is not in the device tree's RAM")]
    Place,
    #[error("RAM ends before the image's manifest")]
    NoManifest,
    #[error("the image does not fit in its RAM region")]
    ImageSize,
    #[error("the device tree is outside RAM or overlaps the image")]
    TreePlace,
    #[error("RAM is too small: add RAM")]
    Memory,
    #[error("the page tables of EL2 can't be made")]
    Stage1,
    #[error("{0}")]
    Image(#[from] bootimg::Error),
    #[error("{0}")]
    Arguments(#[from] UnknownArgument),
    #[error("{0}")]
    Setup(#[from] SetupError),
    #[error("the host's device tree: {0}")]
    HostTree(DeviceTreeError),
    #[error("the boot CPU is not in the device tree")]
    Cpu,
}
