//! Start-up code that every bare-metal binary here shares: hypervisor, host and guest payloads.
//!
//! Each of them is a position-independent arm64 `Image`
//! (`Documentation/arch/arm64/booting.rst` of Linux). [`image`] holds the header and the first
//! instructions: they apply the binary's relocations, clear `.bss`, set the stack and call the
//! function that [`image_main!`] names. The linker script beside this crate, `image.ld`, lays it out.
//! `el1` (a feature of that name) holds what the two EL1 binaries, host and guest, have in common:
//! exceptions, stage 1, interrupt masking, counter and timers.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(
    any(target_os = "none", feature = "el1"),
    expect(unsafe_code, reason = "a machine's first instructions come before any safe abstraction")
)]

#[cfg(feature = "el1")]
pub mod el1;
pub mod image;
