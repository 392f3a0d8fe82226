//! What an image asks of the hypervisor: `key=value` words, from the part `hypervisor-args`.

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `trace=on`: events are recorded, and go to the hypervisor's console.
    pub trace: bool,
}

/// A word that asks for nothing known: better no boot than one without what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an unknown argument of the hypervisor's: only trace=on and trace=off are known")]
pub struct UnknownOption;

impl Options {
    /// Reads arguments; there may be none.
    ///
    /// # Errors
    ///
    /// [`UnknownOption`] if any word is not understood.
    pub fn parse(text: &str) -> Result<Self, UnknownOption> {
        let mut options = Self::default();
        for word in text.split_ascii_whitespace() {
            match word {
                "trace=on" => options.trace = true,
                "trace=off" => options.trace = false,
                #[cfg(feature = "seeded-bugs")]
                bug if bug.strip_prefix("seeded=").is_some_and(crate::seeded::choose) => {}
                _ => return Err(UnknownOption),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        assert_eq!(Options::parse(""), Ok(Options { trace: false }));
        assert_eq!(Options::parse(" trace=on "), Ok(Options { trace: true }));
        assert_eq!(Options::parse("trace=on trace=off"), Ok(Options { trace: false }));
        for bad in ["trace", "trace=", "trace=yes", "Trace=on", "trace=on x"] {
            assert_eq!(Options::parse(bad), Err(UnknownOption), "{bad}");
        }
    }
}
