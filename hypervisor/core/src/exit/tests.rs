//! Traps of guests.
