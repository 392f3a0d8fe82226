//! Stage-2 tables and memory objects, and the pages that they use. This module decides nothing about
//! ownership.

pub(crate) mod object;
pub(crate) mod pool;
pub mod stage2;
pub(crate) mod tlb;
