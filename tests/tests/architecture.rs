//! The arrows between the crates point one way (docs/architecture.md).

use std::collections::BTreeSet;

use tests::workspace::dependencies;

/// Each package and the packages of the workspace that it may depend on. All of a package's
/// dependencies are in its line, so what is not in a line can't be reached through another either
/// unless that is allowed to reach it.
const ALLOWED: &[(&str, &[&str])] = &[
    // Leaves: what two sides need and know nothing of either.
    ("shared-abi", &[]),
    ("bare-rt", &[]),
    ("virtio-guard", &[]),
    // Libraries.
    ("bootimg", &["shared-abi"]),
    ("hyp-core", &["shared-abi", "bootimg"]),
    ("hyp-trace", &["shared-abi", "hyp-core"]),
    // Only checks. Its oracle is in a hypervisor too, with a feature that nothing shipped has.
    ("hyp-verify", &["shared-abi", "hyp-core", "hyp-trace", "bootimg"]),
    // What runs on the machine. What crosses a trust boundary between them is in `shared-abi` alone.
    ("hypervisor", &["shared-abi", "hyp-core", "hyp-verify", "bootimg", "bare-rt"]),
    ("host", &["shared-abi", "bootimg", "bare-rt", "virtio-guard"]),
    ("guest-kernel", &["shared-abi", "bare-rt", "virtio-guard"]),
    // What runs on the development machine. Of host and guest it uses the portable libraries: the
    // layout of the guest's memory, the format of the demo's plan; of the hypervisor, the reader of traces.
    ("qemu", &["shared-abi", "bootimg", "host", "guest-kernel", "hyp-trace"]),
    ("cloister-fuzz", &["shared-abi", "bootimg", "host", "hyp-core", "hyp-verify"]),
    ("tests", &["shared-abi", "bootimg", "host", "guest-kernel", "qemu"]),
];

#[test]
fn every_dependency_is_allowed() {
    let mut wrong = Vec::new();
    for (package, dependencies) in dependencies() {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package) else {
            wrong.push(format!("{package} is in no line of ALLOWED"));
            continue;
        };
        for dependency in dependencies {
            if !allowed.contains(&dependency.as_str()) {
                wrong.push(format!("{package} must not depend on {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_line_names_a_package() {
    let packages = dependencies();
    for (package, _) in ALLOWED {
        assert!(packages.contains_key(*package), "there is no {package}");
    }
}

/// All packages that `package` reaches by [`ALLOWED`].
fn reach(package: &str) -> BTreeSet<&'static str> {
    let mut reached = BTreeSet::new();
    let mut pending = vec![package];
    while let Some(package) = pending.pop() {
        let allowed =
            ALLOWED.iter().find(|(name, _)| *name == package).map_or(&[][..], |(_, allowed)| *allowed);
        for dependency in allowed {
            if reached.insert(*dependency) {
                pending.push(dependency);
            }
        }
    }
    reached
}

#[test]
fn who_does_not_trust_does_not_link() {
    for (package, others) in [
        ("hypervisor", ["host", "guest-kernel", "qemu", "tests"]),
        ("host", ["hypervisor", "hyp-core", "guest-kernel", "qemu"]),
        ("guest-kernel", ["hypervisor", "hyp-core", "host", "bootimg"]),
        ("bootimg", ["hypervisor", "hyp-core", "host", "guest-kernel"]),
        ("hyp-core", ["hypervisor", "hyp-trace", "hyp-verify", "host"]),
        ("qemu", ["hypervisor", "hyp-verify", "cloister-fuzz", "tests"]),
    ] {
        let reached = reach(package);
        for other in others {
            assert!(!reached.contains(other), "{package} reaches {other}");
        }
    }
    assert!(reach("shared-abi").is_empty());
    assert!(reach("bare-rt").is_empty());
    for (package, _) in ALLOWED {
        assert!(!reach(package).contains("tests"), "{package} reaches tests");
    }
}
