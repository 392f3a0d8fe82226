//! The hypervisor's boot arguments: words from the image part `hypervisor-args`. A build knows only the words
//! of its features; the shipped build knows none.

/// An unknown argument. The boot stops rather than run without the requested feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown argument: this build of the hypervisor lacks the feature for it")]
pub struct UnknownArgument;

/// Applies the arguments in `text`, which are separated by white space. `text` may be empty.
///
/// # Errors
///
/// [`UnknownArgument`] if this build does not know a word.
pub fn apply(text: &str) -> Result<(), UnknownArgument> {
    if text.split_ascii_whitespace().all(is_known) { Ok(()) } else { Err(UnknownArgument) }
}

/// Applies a word and returns whether this build knows it.
fn is_known(word: &str) -> bool {
    match word {
        // A build with the trace always traces. This word stops a build without the trace from booting the
        // image.
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
    fn known_arguments_apply_and_others_are_refused() {
        assert_eq!(apply(""), Ok(()));
        assert_eq!(apply(" "), Ok(()));
        assert_eq!(apply(" trace=on ").is_ok(), cfg!(feature = "trace"));
        for bad in ["trace", "trace=", "trace=yes", "Trace=on", "trace=on x", "seeded=", "seeded=NoSuchBug"] {
            assert_eq!(apply(bad), Err(UnknownArgument), "{bad}");
        }
    }
}
