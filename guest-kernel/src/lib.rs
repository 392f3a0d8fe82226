//! guest-kernel: under construction.
#![cfg_attr(target_os = "none", no_std)]

pub mod plan;
