//! tests: under construction.
