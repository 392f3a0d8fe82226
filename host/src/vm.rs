//! The life of a VM.

pub mod pages;
