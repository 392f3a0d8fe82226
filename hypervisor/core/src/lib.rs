//! hyp-core: under construction.
#![no_std]
