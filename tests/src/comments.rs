//! What comments have to say.

/// Why a `// SAFETY:` comment says too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vague {
    /// It has fewer words than a precondition and its upholder take.
    Short,
    /// It refers to another place or to "the caller's promise", and says nothing else.
    Reference,
    /// It names nobody and nothing that upholds the precondition.
    NoUpholder,
}

/// The least words of a precondition with its upholder.
const FEWEST_WORDS: usize = 4;

/// References, each with the end of what belongs to it: what follows is a statement of its own.
const REFERENCES: [&str; 12] = [
    "the caller vouches",
    "the same",
    "same as",
    "as above",
    "see above",
    "as before",
    "as it was",
    "as in ",
    "as for ",
    "see ",
    "ditto",
    "likewise",
];

/// Who or what can uphold a precondition: a party, a step of the program, or what types, locks, states
/// and the architecture give. An item in backticks does as well.
const UPHOLDERS: [&str; 40] = [
    "allocator",
    "architecture",
    "assembler",
    "assertion",
    "asserted",
    "barrier",
    "barriers",
    "boot",
    "borrowed",
    "caller",
    "callers",
    "checked",
    "checks",
    "core",
    "cpu",
    "device",
    "driver",
    "el1",
    "el2",
    "exception",
    "fp",
    "gic",
    "guest",
    "handlers",
    "header",
    "host",
    "hypervisor",
    "interface",
    "linker",
    "lock",
    "manifest",
    "map",
    "mapped",
    "maps",
    "mmu",
    "parser",
    "protocol",
    "smccc",
    "stack",
    "trait",
];

/// What an instruction is that has no precondition.
const HARMLESS: [&str; 5] =
    ["no effect", "changes no", "no content", "nothing else changes", "and nothing else"];

/// What a `// SAFETY:` comment lacks, as far as a rule can tell: a precondition and what upholds it.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_safety(text: &str) -> Result<(), Vague> {
    let words =
        |text: &str| text.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count();
    if words(text) < FEWEST_WORDS {
        return Err(Vague::Short);
    }
    let lower = text.to_lowercase();
    // A promise has to be told, behind a colon.
    if lower.strip_prefix("the caller's promise").is_some_and(|rest| !rest.starts_with(':')) {
        return Err(Vague::Reference);
    }
    if let Some(reference) = REFERENCES.iter().find(|reference| lower.starts_with(**reference)) {
        // The rest of the reference's own clause ("as in `read`") says nothing of this place.
        let rest = &lower[reference.len()..];
        let statement = rest.find([',', ';', ':', '.']).map_or("", |end| &rest[end..]);
        if words(statement) < FEWEST_WORDS {
            return Err(Vague::Reference);
        }
    }
    let mut spoken = lower.split(|c: char| !c.is_alphanumeric());
    let upheld = text.contains('`')
        || spoken.any(|word| UPHOLDERS.contains(&word))
        || HARMLESS.iter().any(|phrase| lower.contains(phrase));
    if upheld { Ok(()) } else { Err(Vague::NoUpholder) }
}

/// The `// SAFETY:` comments of a source, each with its line, counted from 1, and its whole text.
#[must_use]
pub fn safety_comments(source: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let comment =
        |line: &str| line.strip_prefix("//").filter(|rest| !rest.starts_with(['/', '!'])).map(str::to_owned);
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(first) =
            comment(line).and_then(|text| text.trim_start().strip_prefix("SAFETY:").map(str::to_owned))
        else {
            continue;
        };
        let more = lines[index + 1..].iter().map_while(|line| comment(line));
        let text: Vec<String> = std::iter::once(first).chain(more).collect();
        let text = text.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        found.push((index + 1, text.trim().to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_alone_is_refused() {
        for text in [
            "the caller's promise.",
            "The caller's promise, as above.",
            "as above.",
            "as in `read`, of the driver.",
            "as in `El2::wipe`, the same.",
            "see above: the same.",
            "the same buffers as above.",
            "as for the first word.",
            "the caller's promise. The loop stores the page's entries in pairs.",
        ] {
            let wrong = check_safety(text).expect_err(text);
            assert!(matches!(wrong, Vague::Reference | Vague::Short), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn a_comment_that_names_nothing_is_refused() {
        assert_eq!(check_safety("as it is."), Err(Vague::Short));
        assert_eq!(check_safety("this is safe because we need it"), Err(Vague::NoUpholder));
        assert_eq!(check_safety("nothing bad can ever happen here"), Err(Vague::NoUpholder));
    }

    #[test]
    fn a_precondition_with_its_upholder_passes() {
        for text in [
            "the tables map the binary, and the caller vouches for everything else.",
            "as in `read`: the driver gave the address of a live buffer.",
            "`Frames` proves that the pages are in the core's custody; they are RAM and mapped.",
            "the caller keeps `range` unused; `find_room` checked that it is RAM.",
            "reading DAIF has no effect.",
        ] {
            assert_eq!(check_safety(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_comment_is_read_to_its_end() {
        let source = "\
fn f() {
    // SAFETY: one,
    // two.
    unsafe {}
    /// SAFETY: no comment of a block's.
    //  SAFETY: three.
}
";
        let expected = [(2, "one, two.".to_owned()), (6, "three.".to_owned())];
        assert_eq!(safety_comments(source), expected);
    }
}
