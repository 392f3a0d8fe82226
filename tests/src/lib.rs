//! What the system tests share.
//!
//! * [`rust`]: packages as syntax trees; [`rooms`], [`types`], [`comments`]: what the rules ask of them.
//! * [`commands`]: commands as documents write them.
//! * [`markdown`]: a document as links, code and tables; [`tour`]: its lists of functions. [`constants`]: the
//!   numbers of the sources.
//! * [`workspace`]: the source tree as data, for tests of its structure.
//! * [`tool`]: runs the tool, `cloister`, as a user would, in bounded time, one run at a time.
//! * [`payload`]: tiny guest payloads, written as instruction words.
//! * [`registers`]: two guests and a host that check registers in turns.
//! * [`wrapper`]: a `qemu-system-aarch64` of our own that notes how it was called, and may damage the
//!   image, before the real one runs.

#![forbid(unsafe_code)]

pub mod commands;
pub mod comments;
pub mod constants;
pub mod markdown;
pub mod payload;
pub mod registers;
pub mod rooms;
pub mod rust;
pub mod tool;
pub mod tour;
pub mod types;
pub mod workspace;
pub mod wrapper;
