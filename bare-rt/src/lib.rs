//! Start-up code of every bare-metal binary: hypervisor, host and guest payloads.
//!
//! Each binary is a position-independent arm64 `Image` (`Documentation/arch/arm64/booting.rst` of Linux). [`image`]
//! has the header and the first instructions. They apply the relocations, clear `.bss`, set the stack pointer, and
//! call the function that [`image_main!`] names. The linker script `image.ld` of this crate lays the binary out.
//! `el1` (a feature of that name) has the code that the EL1 binaries, host and guest, share: exceptions, stage 1,
//! interrupt masking, counters and timers.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(
    any(target_os = "none", feature = "el1"),
    expect(unsafe_code, reason = "the first instructions run before any safe abstraction exists")
)]

#[cfg(feature = "el1")]
pub mod el1;
pub mod image;
