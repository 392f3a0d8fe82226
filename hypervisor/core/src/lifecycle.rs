//! The life of a VM as the host drives it: create, add objects and vCPUs, start, destroy.

pub(crate) mod create;
pub(crate) mod destroy;
pub(crate) mod object;
pub(crate) mod start;
