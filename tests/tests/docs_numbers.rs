//! The numbers and lists of the documents are those of the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use qemu::bench::bars::bar;
use qemu::failure::status;
use shared_abi::bench::Operation;
use tests::constants::{Constants, leading_number};
use tests::markdown::{Document, Table};
use tests::rust::Package;
use tests::workspace::{files, root};

/// What the documents say of constants: wherever a document has the words, the number behind them is the
/// constant's, and it has them at least once.
const FACTS: &[(&str, &str, &[&str])] = &[
    ("docs/abi.md", "One call does at most ", &["PAGES_PER_CALL"]),
    ("docs/abi.md", "Populate, reclaim and destroy do at most ", &["PAGES_PER_CALL"]),
    ("docs/abi.md", "pages per call (", &["KEPT_PER_CALL"]),
    ("docs/abi.md", "VmTopUp and VmCreate take at most ", &["MAX_POOL_PAGES_PER_CALL"]),
    ("docs/abi.md", "text, at most ", &["MAX_ARGUMENT_BYTES"]),
    ("docs/abi.md", "128 | ", &["MAX_PARTS"]),
    ("docs/abi.md", "Version | x1 = ", &["VERSION"]),
    ("docs/abi.md", "from IPA ", &["RAM_BASE"]),
    ("docs/abi.md", "distributor ", &["GICD_BASE"]),
    ("docs/abi.md", "redistributors ", &["GICR_BASE"]),
    ("docs/abi.md", "PL011 | ", &["UART_BASE"]),
    ("docs/abi.md", "virtio-mmio version 2 | from ", &["VIRTIO_BASE"]),
    ("docs/abi.md", "the virtual one, INTID ", &["VIRTUAL_TIMER_INTID"]),
    ("docs/writing-a-payload.md", "RAM | from ", &["RAM_BASE"]),
    ("docs/writing-a-payload.md", "PL011 at ", &["UART_BASE"]),
    ("docs/writing-a-payload.md", "a page of its own from ", &["VIRTIO_BASE"]),
    ("docs/writing-a-payload.md", "virtual timer PPI 11 (INTID ", &["VIRTUAL_TIMER_INTID"]),
    ("docs/writing-a-payload.md", "bare/mine -o ", &["PAYLOAD_BASE"]),
    ("docs/measuring.md", "A control of ", &["CONTROL_TURNS"]),
    ("docs/measuring.md", "cntfrq=", &["FREQUENCY_HZ"]),
    ("README.md", "outlasted `--timeout` (", &["DEFAULT_SECONDS"]),
];

/// What documents say of limits that tests hold: words, the test's file, and its constant.
const LIMITS: &[(&str, &str, &str, &str)] =
    &[("docs/threat-model.md", "the trusted code stays below ", "tests/tests/hygiene.rs", "LIMIT")];

fn constants() -> Constants {
    Constants::of(&["bootimg", "guest-kernel", "host", "hypervisor", "qemu", "shared-abi"])
}

fn document(path: &str) -> Document {
    Document::read(Path::new(path))
}

/// All of a document's text, a line per paragraph, and its code as it is.
fn text(document: &Document) -> String {
    let paragraphs = document.paragraphs.iter().map(|(_, text)| text.replace('\n', " ").replace("**", ""));
    let codes = document.codes.iter().map(|code| code.text.clone());
    paragraphs.chain(codes).collect::<Vec<_>>().join("\n")
}

/// Compares the numbers behind some words with what they have to be.
fn check_numbers(path: &str, words: &str, right: &BTreeSet<i128>, wrong: &mut Vec<String>) {
    let text = text(&document(path));
    let mut found = false;
    for (index, _) in text.match_indices(words) {
        found = true;
        let number = leading_number(&text[index + words.len()..]);
        if number.is_none_or(|number| !right.contains(&number)) {
            wrong.push(format!("{path}: \"{words}\" {number:?}, and the code has {right:?}"));
        }
    }
    if !found {
        wrong.push(format!("{path} nowhere says \"{words}\""));
    }
}

#[track_caller]
fn expect_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} wrong numbers:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn numbers_in_sentences_are_the_constants() {
    let constants = constants();
    let mut wrong = Vec::new();
    for (path, words, names) in FACTS {
        let right: BTreeSet<i128> = names.iter().flat_map(|name| constants.values(name)).collect();
        check_numbers(path, words, &right, &mut wrong);
    }
    for (path, words, file, name) in LIMITS {
        check_numbers(path, words, &Constants::in_file(file).values(name), &mut wrong);
    }
    expect_none(&wrong);
}

/// Wherever a document has a constant's name and a number behind it, "`MAX_VMS` (16)" or in the next cell.
#[test]
fn a_number_behind_a_constants_name_is_its_value() {
    let constants = constants();
    let mut wrong = Vec::new();
    for document in Document::all() {
        for (line, text) in &document.paragraphs {
            let parts: Vec<&str> = text.split('`').collect();
            for pair in parts.windows(2).skip(1).step_by(2) {
                let name = pair[0].rsplit("::").next().unwrap_or_default();
                let behind =
                    [" (", " = ", ": ", " | ", " is "].iter().find_map(|sign| pair[1].strip_prefix(sign));
                let (right, said) = (constants.values(name), behind.and_then(leading_number));
                if let Some(said) = said
                    && !right.is_empty()
                    && !right.contains(&said)
                {
                    wrong.push(format!("{}: `{name}` is {right:?}, not {said}", document.place(*line)));
                }
            }
        }
    }
    expect_none(&wrong);
}

/// The table whose header begins with these words.
fn table<'a>(document: &'a Document, first: &str) -> &'a Table {
    let mut found = document.tables.iter().filter(|table| table.header.iter().any(|cell| cell == first));
    found.next().unwrap_or_else(|| panic!("{} has no table with {first}", document.path.display()))
}

#[test]
fn the_bars_are_those_of_the_tool() {
    let document = document("docs/measuring.md");
    let table = table(&document, "bar");
    let column = |name: &str| table.header.iter().position(|cell| cell == name).expect(name);
    let (bars, upstream) = (column("bar"), column("upstream"));
    let mut wrong = Vec::new();
    let mut rows = BTreeMap::new();
    for row in &table.rows {
        let name = row.cells[0].split([':', ' ']).next().unwrap_or_default().trim_matches('`');
        rows.insert(name.to_owned(), row);
    }
    // The number in brackets, if that is all that they hold.
    let bracket = |cell: &str| {
        let (inner, _) = cell.split_once('(')?.1.split_once(')')?;
        leading_number(inner).filter(|_| inner.chars().all(|c| c.is_ascii_digit() || c == ' '))
    };
    for (operation, bar) in Operation::ALL.iter().filter_map(|operation| Some((*operation, bar(*operation)?)))
    {
        let Some(row) = rows.remove(operation.name()) else {
            wrong.push(format!("{} has no row", operation.name()));
            continue;
        };
        let said = [
            leading_number(&row.cells[bars]),
            bracket(&row.cells[bars]),
            leading_number(&row.cells[upstream]),
            bracket(&row.cells[upstream]),
        ];
        let right = [Some(bar.total), bar.el2, Some(bar.upstream), bar.upstream_el2];
        if said != right.map(|number| number.map(i128::from)) {
            wrong.push(format!("{}: {said:?}, and the code has {right:?}", document.place(row.line)));
        }
    }
    wrong.extend(rows.keys().map(|name| format!("{name} is no operation with a bar")));
    expect_none(&wrong);
}

#[test]
fn exit_statuses_are_those_of_the_tool() {
    let right = BTreeSet::from([
        status::OK,
        status::FAILED,
        status::USAGE,
        status::NOT_PREPARED,
        status::BUILD,
        status::TIMEOUT,
    ]);
    let in_sentence = |text: &str| -> BTreeSet<u8> {
        let (_, list) = text.split_once("Exit status: ").expect("a list of statuses");
        let list = list.split_once("\n\n").map_or(list, |(list, _)| list);
        list.split("; ").filter_map(|part| part.split_whitespace().next()?.parse().ok()).collect()
    };
    assert_eq!(in_sentence(&text(&document("README.md")).replace('\n', "\n\n")), right, "README.md");
    let help = qemu::cli::Cli::command().get_long_about().expect("a long text").to_string();
    assert_eq!(in_sentence(&help), right, "the tool's help");
    let abi = document("docs/abi.md");
    let rows: BTreeSet<u8> =
        table(&abi, "status").rows.iter().filter_map(|row| row.cells[0].parse().ok()).collect();
    assert_eq!(rows, right, "docs/abi.md");
}

/// The bugs of the catalogue by their class.
fn bugs() -> BTreeMap<String, BTreeSet<String>> {
    let mut bugs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files("hypervisor", &["rs"]) {
        let text = fs::read_to_string(path).unwrap();
        let Some((_, list)) = text.split_once("bugs! {\n") else {
            continue;
        };
        for line in list.lines().take_while(|line| line.trim() != "}") {
            if let Some((name, class)) = line.trim().split_once(": ").filter(|_| !line.contains("//")) {
                bugs.entry(class.trim_end_matches(',').to_owned()).or_default().insert(name.to_owned());
            }
        }
    }
    bugs
}

/// The words in backticks of some cells.
fn in_backticks(cells: &[String]) -> BTreeSet<String> {
    cells.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn the_table_of_seeded_bugs_has_all_of_them() {
    let bugs = bugs();
    assert!(bugs.len() > 10, "{bugs:?}");
    let document = document("docs/verification.md");
    let table = table(&document, "seeded");
    let count = table.header.iter().position(|cell| cell == "seeded").unwrap();
    let mut wrong = Vec::new();
    let mut classes = BTreeSet::new();
    for row in &table.rows {
        let class = &row.cells[0];
        classes.insert(class.clone());
        let right = bugs.get(class).cloned().unwrap_or_default();
        let named: BTreeSet<String> = in_backticks(&row.cells[count + 1..])
            .into_iter()
            .filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()))
            .collect();
        let said = leading_number(&row.cells[count]).unwrap_or_default();
        if named != right || said != i128::try_from(right.len()).unwrap() {
            wrong.push(format!("{}: {said} {named:?}, and the code has {right:?}", document.place(row.line)));
        }
    }
    wrong.extend(
        bugs.keys().filter(|class| !classes.contains(*class)).map(|class| format!("no class {class}")),
    );
    expect_none(&wrong);
}

#[test]
fn the_table_of_fuzz_targets_has_all_of_them() {
    let targets: BTreeSet<String> = files(".", &["rs"])
        .iter()
        .filter(|path| path.parent().is_some_and(|parent| parent.ends_with("fuzz_targets")))
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    let document = document("docs/verification.md");
    let rows = &table(&document, "target").rows;
    assert_eq!(rows.iter().flat_map(|row| in_backticks(&row.cells[..1])).collect::<BTreeSet<_>>(), targets);
}

#[test]
fn the_table_of_the_oracles_rules_is_its_enum() {
    let document = document("docs/verification.md");
    let said: Vec<String> = table(&document, "rule").rows.iter().map(|row| row.cells[0].clone()).collect();
    let enums = ["hypervisor/core", "hypervisor/verify"]
        .into_iter()
        .filter(|directory| Package::exists(directory))
        .flat_map(|directory| Package::read(directory).sources)
        .flat_map(|source| source.syntax.items)
        .filter_map(|item| match item {
            syn::Item::Enum(item) => Some(item),
            _ => None,
        });
    let lists: Vec<Vec<String>> = enums
        .map(|item| {
            let names = item.variants.iter().map(|variant| variant.ident.to_string().to_lowercase());
            (1..).zip(names).map(|(number, name)| format!("{number} {name}")).collect()
        })
        .collect();
    assert!(lists.contains(&said), "no enum has the variants {said:?}");
}

#[test]
fn the_table_of_records_has_all_of_them() {
    let source = fs::read_to_string(root().join("shared-abi/src/record.rs")).unwrap();
    let (_, list) = source.split_once("\nrecords! {\n").expect("the list of records");
    let names = list.lines().take_while(|line| *line != "}").filter_map(|line| {
        let (_, rest) = line.strip_suffix("\" {")?.split_once(" \"")?;
        Some(rest.to_owned())
    });
    // What is read to the line's end has an arm of its own.
    let right: BTreeSet<String> = names.chain(["panic".to_owned(), "refused".to_owned()]).collect();
    assert!(right.len() > 10, "{right:?}");
    let document = document("docs/abi.md");
    let said: BTreeSet<String> =
        table(&document, "records").rows.iter().flat_map(|row| in_backticks(&row.cells[1..])).collect();
    assert_eq!(said, right);
}

/// The oldest QEMU that the tool takes.
#[test]
fn the_version_of_qemu_is_the_one_that_is_wanted() {
    let source = fs::read_to_string(root().join("qemu/src/setup/qemu.rs")).unwrap();
    let (_, wanted) = source.split_once("WANTED: Version = Version { major: ").expect("the version");
    let (major, minor) = wanted.split_once(", minor: ").expect("two numbers");
    let (minor, _) = minor.split_once(" }").expect("two numbers");
    let said = format!("QEMU {major}.{minor} or newer");
    assert!(text(&document("README.md")).contains(&said), "README.md does not say \"{said}\"");
}
