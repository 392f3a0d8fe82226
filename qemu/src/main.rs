//! The tool: under construction.
fn main() {}
