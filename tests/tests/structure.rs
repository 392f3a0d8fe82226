//! The rooms of a crate, and the names of its types.

use tests::rooms::Rooms;
use tests::rust::Package;
use tests::types::{Definition, definitions, doubles};

/// The packages that share one vocabulary.
const VOCABULARY: [&str; 5] =
    ["hypervisor", "hypervisor/core", "hypervisor/verify", "hypervisor/trace", "shared-abi"];

/// The packages that have to know the words of [`ONE_THING`] too.
const OTHERS: [&str; 7] = ["bare-rt", "bootimg", "guest-kernel", "host", "qemu", "tests", "virtio-guard"];

/// What names one type in all of the workspace.
const ONE_THING: [&str; 5] = ["Vm", "Hypervisor", "Machine", "Run", "Outcome"];

/// What a module may call a type of its own, which others call `module::Error`.
const OF_A_MODULE: [&str; 2] = ["Error", "Kind"];

/// The packages that there are.
fn packages(directories: &[&str]) -> Vec<Package> {
    directories
        .iter()
        .filter(|directory| Package::exists(directory))
        .map(|directory| Package::read(directory))
        .collect()
}

fn all_definitions(directories: &[&str]) -> Vec<Definition> {
    packages(directories).iter().flat_map(definitions).collect()
}

/// Fails if rooms of a crate make a circle, or if it has fewer rooms than that.
fn no_rooms_make_a_circle(directory: &str, least: usize) {
    let rooms = Rooms::of(&Package::read(directory));
    let count = rooms.names().len();
    println!("{directory}: {count} rooms");
    assert!(count >= least, "{directory} has {count} rooms");
    let circles = rooms.report();
    assert!(circles.is_empty(), "{directory}:\n{circles}");
}

#[test]
fn no_rooms_of_the_binary_make_a_circle() {
    no_rooms_make_a_circle("hypervisor", 4);
}

#[test]
fn no_rooms_of_the_core_make_a_circle() {
    no_rooms_make_a_circle("hypervisor/core", 12);
}

#[test]
fn no_rooms_of_the_checks_make_a_circle() {
    no_rooms_make_a_circle("hypervisor/verify", 4);
}

#[test]
fn a_type_has_a_name_of_its_own() {
    let definitions = all_definitions(&VOCABULARY);
    println!("{} types", definitions.len());
    assert!(definitions.len() > 150, "{} types are not all", definitions.len());
    let doubles = doubles(&definitions, |name| !OF_A_MODULE.contains(&name));
    assert!(doubles.is_empty(), "{} names mean two types:\n{}", doubles.len(), doubles.join("\n"));
}

#[test]
fn the_words_of_the_field_mean_one_thing_everywhere() {
    let definitions = all_definitions(&[&VOCABULARY[..], &OTHERS[..]].concat());
    let doubles = doubles(&definitions, |name| ONE_THING.contains(&name));
    assert!(doubles.is_empty(), "{} words mean two types:\n{}", doubles.len(), doubles.join("\n"));
}
