//! Cloister's boot image: one arm64 `Image` that holds hypervisor, host, payload and a manifest.
//!
//! ```text
//! 0                        the hypervisor: an arm64 Image, room for its .bss included
//! the hypervisor's end     the manifest: one page
//! above it                 parts, in ascending order, each on a page of its own
//! the last part            the host: an arm64 Image on a 2 MiB boundary
//! ```
//!
//! All offsets are in bytes from the image's first one. Whoever reads an image gets the bytes from the
//! manifest on: the hypervisor knows where that is from its own linker script, the host from its
//! device tree. [`Manifest::parse`] takes the manifest alone, which says how long the rest is;
//! [`Image::verify`] then takes all of it and checks every byte. Both treat what they read as hostile.
//!
//! The manifest's digests find damage. They prove no origin: whoever can replace the image can replace
//! its manifest, so the image as a whole is as trusted as the place that it is loaded from.
//!
//! * [`arm64`]: the header of an arm64 Image.
//! * [`manifest`]: the manifest and what it says of each part.
//! * [`image`]: manifest and content together.
//! * [`measure`]: the measurement of a VM at its launch, which an image can name.
//! * `pack`, `flat`, `file`, `cli` (feature `std`): making images, and the `bootimg` tool.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

pub mod arm64;
#[cfg(feature = "std")]
pub mod cli;
pub mod error;
#[cfg(feature = "std")]
pub mod file;
#[cfg(feature = "std")]
pub mod flat;
mod format;
pub mod image;
pub mod manifest;
pub mod measure;
#[cfg(feature = "std")]
pub mod pack;

pub use error::Error;
pub use image::Image;
pub use manifest::{Kind, Manifest, Part};
pub use measure::LaunchMeasurement;
