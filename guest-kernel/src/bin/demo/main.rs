//! The demo payload: real disk I/O by a protected VM, verified block by block.
//!
//! It expects a virtio-blk disk, and a [`plan`](guest_kernel::plan) for it as its initrd. It reports
//! by records (`shared_abi::record`) and by lines for people.
#![cfg_attr(target_os = "none", no_std, no_main)]

guest_kernel::payload!(story::run);

#[cfg(target_os = "none")]
mod story;
