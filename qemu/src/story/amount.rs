//! Amounts and names as people read them.

use shared_abi::record::{Digest, Uid};

/// The UUID that a UID is, as KVM's documentation writes it: each word's bytes from the lowest up.
#[must_use]
pub fn uuid(uid: Uid) -> String {
    let hex: String =
        uid.0.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The beginning of a digest, enough to compare by eye.
pub(super) fn short(digest: &Digest) -> String {
    format!("{}...", &digest.to_string()[..12])
}

/// A number of things for people.
#[must_use]
pub fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A number of bytes for people.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) if bytes.is_multiple_of(*size) => format!("{} {unit}", bytes / size),
        Some((size, unit)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} bytes"),
    }
}
