//! Hypercalls of guests.
