//! What becomes of each trap of the host and of a guest.

pub mod guest;
pub mod host;
