//! Why boot refuses a machine or an image.

use hyp_core::boot::device_tree::DeviceTreeError;
use hyp_core::boot::options::UnknownArgument;
use hyp_core::ownership::setup::SetupError;

/// Why this machine or image is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootError {
    #[error("{0}")]
    El2(&'static str),
    #[error("PSCI is not called by SMC: this is no EL2 to own")]
    Conduit,
    #[error("the image is not in RAM")]
    Place,
    #[error("no room for a manifest behind the hypervisor")]
    NoManifest,
    #[error("the image is larger than RAM")]
    ImageSize,
    #[error("the device tree is not in RAM, or in the image")]
    TreePlace,
    #[error("RAM is too small")]
    Memory,
    #[error("EL2's stage 1 can't be made")]
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
