//! Start-up code that every bare-metal binary here shares: hypervisor, host and guest payloads.
//!
//! Each of them is a position-independent arm64 `Image`
//! (`Documentation/arch/arm64/booting.rst` of Linux). [`image`] holds the header and the first
//! instructions: they apply the binary's relocations, clear `.bss`, set the stack and call the
//! function that [`image_main!`] names. The linker script beside this crate, `image.ld`, lays it out.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(
    target_os = "none",
    expect(
        unsafe_code,
        reason = "a machine's first instructions come before any safe abstraction"
    )
)]

pub mod image;
