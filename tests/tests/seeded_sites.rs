//! Where bugs are switched on in the code that decides: seldom, and on lines that hold nothing else.

use std::fs;

use tests::workspace::{code_lines, files, is_test_file, root};

/// The most places in the core that a bug changes.
const MOST_SITES: usize = 35;

/// The least bugs in the catalogue.
const FEWEST_BUGS: usize = 50;

/// How a place begins.
const SITE: &str = "seeded!(";

/// Whether a line of code holds a place and nothing else: a statement of its own, or the value of a `let` or
/// of an assignment.
fn stands_alone(line: &str) -> bool {
    let line = line.trim();
    let Some((before, after)) = line.split_once(SITE) else {
        return true;
    };
    let target = before.strip_suffix(" = ").map(|target| target.strip_prefix("let ").unwrap_or(target));
    let is_target = |target: &str| target.chars().all(|c| c.is_alphanumeric() || "_.*: ".contains(c));
    let ends = !after.ends_with(',') && !after.contains(SITE);
    ends && (before.is_empty() || target.is_some_and(is_target))
}

/// The places in a source: each with its line, as it is.
fn sites(text: &str) -> Vec<&str> {
    code_lines(text)
        .into_iter()
        .filter(|line| line.contains(SITE) && !line.contains("macro_rules!"))
        .collect()
}

#[test]
fn a_place_of_a_bug_is_a_line_of_its_own() {
    let mut total = 0;
    let mut wrong = Vec::new();
    for path in files("hypervisor/core/src", &["rs"]) {
        if is_test_file(&path) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for site in sites(&text) {
            total += site.matches(SITE).count();
            if !stands_alone(site) {
                let line =
                    text.lines().position(|line| std::ptr::eq(line, site)).map_or(0, |index| index + 1);
                let path = path.strip_prefix(root()).unwrap_or(&path).display();
                wrong.push(format!("{path}:{line}: {}", site.trim()));
            }
        }
    }
    println!("places in the core: {total} (limit {MOST_SITES})");
    assert!(wrong.is_empty(), "{} of {total} are within something else:\n{}", wrong.len(), wrong.join("\n"));
    assert!(total > 0 && total <= MOST_SITES, "{total} places");
}

#[test]
fn the_catalogue_has_bugs_enough() {
    let bugs: Vec<String> = files("hypervisor", &["rs"])
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .filter_map(|text| text.split_once("bugs! {\n").map(|(_, list)| list.to_owned()))
        .flat_map(|list| {
            list.lines().take_while(|line| line.trim() != "}").map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|line| {
            let (name, class) = line.trim().split_once(": ")?;
            class.trim_end_matches(',').parse::<u8>().is_ok().then(|| name.to_owned())
        })
        .collect();
    println!("bugs in the catalogue: {} (at least {FEWEST_BUGS})", bugs.len());
    assert!(bugs.len() >= FEWEST_BUGS, "{} bugs", bugs.len());
}

#[test]
fn a_condition_an_arm_and_an_argument_are_no_lines_of_their_own() {
    for line in [
        "seeded!(self.machine.wipe(&frames), PoolUnwiped => ());",
        "let wiped = seeded!(range, FirstPageWiped => crate::seeded::first_page(range));",
        "let hosts: bool = seeded!(",
        "context.pending = seeded!(PendingAccess::default(), AnsweredTwice => context.pending);",
        "seeded!(size.mask(), WholeRegister => u64::MAX)",
        "x = 1;",
    ] {
        assert!(stands_alone(line), "{line}");
    }
    for line in [
        "if self.many && !seeded!(RangeCutShort) {",
        "&& !seeded!(HalfObject)",
        "Fill::Zero if seeded!(PopulatedUnwiped) => {}",
        "uniform: seeded!(block.uniform().is_some(), BlockTooEarly => block.deviating() < 2),",
        "let first = page(seeded!(ipa, UnalignedShare => ipa & !0xfff))?;",
        "_ => Ok(seeded!(done, OneTooMany => done.wrapping_add(1))),",
        "seeded!(done, OneTooMany => 1),",
        "let x = a && seeded!(Bug);",
        "let stale = found.generation != generation && !seeded!(StaleObject);",
    ] {
        assert!(!stands_alone(line), "{line}");
    }
}
