//! The life cycle of a VM, driven by the host: create, add objects and vCPUs, start, destroy.

pub(crate) mod create;
pub(crate) mod destroy;
pub(crate) mod object;
pub(crate) mod start;
