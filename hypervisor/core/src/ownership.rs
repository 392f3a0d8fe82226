//! The owner map of all RAM, and the host's stage-2 tables, which follow from it.

pub mod host;
pub mod owner_map;
pub mod page_state;
pub mod setup;
