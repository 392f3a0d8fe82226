//! The tool says its name, `cloister`, in its version, its usage lines and its errors.

use std::process::{Command, Output};

fn cloister(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cloister")).args(arguments).output().unwrap()
}

#[test]
fn the_version_and_the_help_name_the_tool() {
    let version = cloister(&["--version"]);
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        concat!("cloister ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for arguments in [&["--help"][..], &["boot", "--help"], &["bench", "primitives", "--help"]] {
        let help = cloister(arguments);
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(text.contains("\nUsage: cloister"), "{arguments:?}: {text}");
        assert!(help.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_error_names_the_tool_once() {
    for (arguments, status) in [
        (&["frobnicate"][..], 2),
        (&["boot", "--cpus", "0"], 2),
        (&["boot", "--payload", "missing/payload"], 2),
        (&["image", "list", "missing/image"], 2),
        (&["image", "verify", "missing/image"], 2),
    ] {
        let output = cloister(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with("cloister: error: "), "{arguments:?}: {text}");
        assert_eq!(text.matches("error: ").count(), 1, "{arguments:?}: {text}");
    }
}
