//! Tuning is counted, and each piece of it names the figure that it buys.

use std::fs;

use shared_abi::bench::Operation;
use tests::workspace::{files, is_test_file, root};

/// The most `#[inline]` attributes in what runs at EL2 and is ours.
const MOST_INLINE: usize = 50;

/// The most packages that have a profile of their own.
const MOST_OVERRIDES: usize = 1;

/// Words for what else an attribute may buy: the size of the text, and a symbol that a test of the ELF file
/// reads.
const OTHERS: [&str; 2] = ["text", "symbol"];

/// Whether a comment names a figure: an operation of `bench primitives`, or one of [`OTHERS`].
fn names_a_figure(comment: &str) -> bool {
    let mut words = comment.split(|c: char| !c.is_alphanumeric() && c != '_');
    words
        .any(|word| OTHERS.contains(&word) || Operation::ALL.iter().any(|operation| operation.name() == word))
}

/// The comment of a line: what follows `mark` in it, or the line above if that is a comment.
fn comment<'a>(lines: &[&'a str], index: usize, mark: &str) -> Option<&'a str> {
    let own = lines[index].split_once(mark).map(|(_, comment)| comment);
    let above = || lines[index.checked_sub(1)?].trim().strip_prefix(mark);
    // A document comment is about the item, not about its tuning.
    own.or_else(above).filter(|comment| !comment.starts_with(['/', '!']))
}

/// The lines of a text that tune something and name no figure, and how many tune.
fn tuned(text: &str, mark: &str, tunes: impl Fn(&str) -> bool) -> (usize, Vec<usize>) {
    let lines: Vec<&str> = text.lines().collect();
    let tuning: Vec<usize> = (0..lines.len()).filter(|index| tunes(lines[*index].trim())).collect();
    let silent = tuning
        .iter()
        .copied()
        .filter(|index| !comment(&lines, *index, mark).is_some_and(names_a_figure))
        .map(|index| index + 1)
        .collect();
    (tuning.len(), silent)
}

fn is_inline(line: &str) -> bool {
    line.starts_with("#[inline") || line.contains(" #[inline")
}

/// All `#[inline]` of the trusted code: how many, and those without a figure.
fn inline_attributes() -> (usize, Vec<String>) {
    let (mut total, mut silent) = (0, Vec::new());
    for path in ["hypervisor", "shared-abi"].iter().flat_map(|directory| files(directory, &["rs"])) {
        if is_test_file(&path) {
            continue;
        }
        let (count, lines) = tuned(&fs::read_to_string(&path).unwrap(), "//", is_inline);
        total += count;
        let path = path.strip_prefix(root()).unwrap_or(&path).display();
        silent.extend(lines.iter().map(|line| format!("{path}:{line}")));
    }
    (total, silent)
}

/// All overrides of the bare-metal profile: how many, and the lines without a figure.
fn overrides() -> (usize, Vec<usize>) {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut inside = false;
    let section: Vec<&str> = text
        .lines()
        .map(|line| {
            if line.starts_with('[') {
                inside = line.starts_with("[profile.bare.package");
            }
            if inside { line } else { "" }
        })
        .collect();
    tuned(&section.join("\n"), "#", |line| line.contains('=') && !line.starts_with('#'))
}

#[test]
fn there_is_no_more_of_it() {
    let (inline, _) = inline_attributes();
    let (overrides, _) = overrides();
    println!("inline attributes: {inline} (limit {MOST_INLINE})");
    println!("profile overrides: {overrides} (limit {MOST_OVERRIDES})");
    assert!(inline <= MOST_INLINE, "{inline} inline attributes");
    assert!(overrides <= MOST_OVERRIDES, "{overrides} profile overrides");
}

#[test]
fn what_there_is_names_its_figure() {
    let (total, mut silent) = inline_attributes();
    let (overrides, lines) = overrides();
    silent.extend(lines.iter().map(|line| format!("Cargo.toml:{line}")));
    assert!(
        silent.is_empty(),
        "{} of {total} attributes and {overrides} overrides name no figure:\n{}",
        silent.len(),
        silent.join("\n")
    );
}

#[test]
fn a_figure_is_named_on_the_line_or_above_it() {
    let text = "\
#[inline] // mem_share: 12 instructions
fn a() {}
// text: 300 bytes less
#[inline(never)]
fn b() {}
/// mem_share is a document comment.
#[inline(always)]
fn c() {}
// Faster.
#[inline]
fn d() {}
";
    assert_eq!(tuned(text, "//", is_inline), (4, vec![7, 10]));
}
