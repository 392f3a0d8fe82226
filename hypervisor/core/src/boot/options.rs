//! What an image asks of the hypervisor: words, from the part `hypervisor-args`. Each is known to a build with the
//! feature that it is for; what ships knows none.

/// A word that asks for nothing known: better no boot than one without what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an unknown argument: this hypervisor is built without the feature that knows it")]
pub struct UnknownArgument;

/// Applies arguments; there may be none.
///
/// # Errors
///
/// [`UnknownArgument`] if any word is not understood.
pub fn apply(text: &str) -> Result<(), UnknownArgument> {
    if text.split_ascii_whitespace().all(is_known) { Ok(()) } else { Err(UnknownArgument) }
}

/// Whether a word is understood; then it is applied.
fn is_known(word: &str) -> bool {
    match word {
        // A build with the trace always traces: this word keeps an image that is to be traced from other builds.
        #[cfg(feature = "trace")]
        "trace=on" => true,
        #[cfg(feature = "seeded-bugs")]
        bug => bug.strip_prefix("seeded=").is_some_and(crate::seeded::choose),
        #[cfg(not(feature = "seeded-bugs"))]
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        assert_eq!(apply(""), Ok(()));
        assert_eq!(apply(" "), Ok(()));
        assert_eq!(apply(" trace=on ").is_ok(), cfg!(feature = "trace"));
        for bad in ["trace", "trace=", "trace=yes", "Trace=on", "trace=on x", "seeded=", "seeded=NoSuchBug"] {
            assert_eq!(apply(bad), Err(UnknownArgument), "{bad}");
        }
    }
}
