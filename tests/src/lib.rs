//! What the system tests share.
//!
//! * [`workspace`]: the source tree as data, for tests of its structure.
//! * [`tool`]: runs the `qemu` tool as a user would, in bounded time, one run at a time.
//! * [`payload`]: tiny guest payloads, written as instruction words.
//! * [`registers`]: two guests and a host that check registers in turns.
//! * [`wrapper`]: a `qemu-system-aarch64` of our own that notes how it was called, and may damage the
//!   image, before the real one runs.

#![forbid(unsafe_code)]

pub mod payload;
pub mod registers;
pub mod tool;
pub mod workspace;
pub mod wrapper;
