//! What the host tries although it must not succeed, one file for each class.

pub mod private_page;
