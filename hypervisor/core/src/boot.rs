//! The boot inputs: the firmware's device tree and the image's arguments.

pub mod device_tree;
pub mod options;
