//! Translation tables and memory objects, and the pages that they are made of. Nothing here decides who owns a page.

pub(crate) mod object;
pub(crate) mod pool;
pub mod stage2;
pub(crate) mod tlb;
