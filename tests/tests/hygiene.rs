//! Rules of the source text that no compiler holds for us.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::comments::{check_safety, safety_comments};
use tests::workspace::{code_lines, files, is_test_file, root};

/// The packages' directories.
const PACKAGES: [&str; 9] = [
    "bare-rt",
    "bootimg",
    "guest-kernel",
    "host",
    "hypervisor",
    "qemu",
    "shared-abi",
    "tests",
    "virtio-guard",
];

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources() -> Vec<PathBuf> {
    PACKAGES.iter().flat_map(|package| files(package, &["rs"])).collect()
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    /// Lines above an `unsafe` that its comment may be separated by: the comment's own, attributes,
    /// and the start of the statement that the block is in.
    const REACH: usize = 12;

    let mut wrong = Vec::new();
    for path in sources() {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens = ["unsafe {", "unsafe impl", "#[unsafe("]
                .iter()
                .any(|form| code.contains(form) && !code.contains(&format!("\"{form}")));
            let naked = code.contains("#[unsafe(naked)]");
            if opens && !naked {
                let above = &lines[index.saturating_sub(REACH)..=index];
                let words = ["SAFETY:", "# Safety", "unsafe extern", "#[unsafe(naked)]"];
                if !above.iter().any(|line| words.iter().any(|word| line.contains(word))) {
                    wrong.push(format!("{}:{}", path.display(), index + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "no SAFETY comment: {wrong:#?}");
}

#[test]
fn every_safety_comment_names_a_precondition_and_who_upholds_it() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for path in sources() {
        // What a rule about comments is tested with.
        if path.ends_with("tests/src/comments.rs") {
            continue;
        }
        for (line, text) in safety_comments(&read(&path)) {
            seen += 1;
            if let Err(vague) = check_safety(&text) {
                let path = path.strip_prefix(root()).unwrap_or(&path).display();
                wrong.push(format!("{path}:{line}: {vague:?}: {text}"));
            }
        }
    }
    assert!(seen > 100, "{seen} comments are not all");
    assert!(wrong.is_empty(), "{} of {seen} SAFETY comments:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn crates_that_decide_forbid_unsafe_code() {
    for library in [
        "bootimg/src/lib.rs",
        "hypervisor/core/src/lib.rs",
        "hypervisor/trace/src/lib.rs",
        "hypervisor/verify/src/lib.rs",
        "shared-abi/src/lib.rs",
    ] {
        let text = read(&root().join(library));
        assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{library}");
    }
}

#[test]
fn the_foundation_crates_do_real_work() {
    for (name, identifier) in [
        ("linked_list_allocator", "linked_list_allocator::"),
        ("smccc", "smccc::"),
        ("virtio-drivers", "virtio_drivers::"),
        ("embedded-io", "embedded_io::"),
        ("heapless", "heapless::"),
        ("spin", "spin::"),
    ] {
        let users = sources().iter().any(|path| {
            !path.starts_with(root().join("tests"))
                && !is_test_file(path)
                && code_lines(&read(path)).iter().any(|line| line.contains(identifier))
        });
        assert!(users, "{name} is used nowhere");
    }
}

/// The crates that the hypervisor links, with their versions.
fn linked_at_el2() -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "hypervisor"])
        .args(["--target", "aarch64-unknown-none-softfloat"])
        .args(["--edges", "normal,no-proc-macro", "--prefix", "none"])
        .args(["--format", "    {p}", "--no-dedupe"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("cargo writes text");
    let crates: BTreeSet<&str> = text.lines().map(|line| line.split(" (").next().unwrap_or(line)).collect();
    crates.into_iter().collect::<Vec<_>>().join("\n")
}

/// What must be believed: everything that runs at EL2 and was written here.
#[test]
fn the_trusted_code_stays_small() {
    const LIMIT: usize = 7000;

    let count = |directory: &str| -> usize {
        files(directory, &["rs", "S"])
            .iter()
            .filter(|path| !is_test_file(path))
            .map(|path| code_lines(&read(path)).len())
            .sum()
    };
    let core = count("hypervisor/core");
    let all = core + count("hypervisor/src");
    println!("trusted lines of code: {all}, of which hyp-core has {core} (limit {LIMIT})");
    println!("and what they link, which is not counted:\n{}", linked_at_el2());
    assert!(all > 0 && all < LIMIT, "{all} lines");
}

/// Nobody has to be told that something is not there: it is there or it is not mentioned.
#[test]
fn nothing_is_left_to_do() {
    let mut wrong = Vec::new();
    for path in sources() {
        if path.starts_with(root().join("tests")) {
            continue;
        }
        for (index, line) in read(&path).lines().enumerate() {
            if ["TODO", "FIXME", "XXX", "under construction"].iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{}", path.display(), index + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
