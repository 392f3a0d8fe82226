//! Commands as documents write them, held against the tool's real command line and the workspace.

use std::fs;

use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory as _, Parser as _};
use qemu::cli::Cli;

use crate::workspace::{dependencies, files, root};

/// Flags of cargo, of its test programs and of its tools that documents may use, each with whether a value
/// follows.
const CARGO_FLAGS: [(&str, bool); 27] = [
    ("--all", false),
    ("--all-targets", false),
    ("--bin", true),
    ("--check", false),
    ("--features", true),
    ("--ignored", false),
    ("--include-ignored", false),
    ("--lib", false),
    ("--locked", false),
    ("--no-deps", false),
    ("--no-fail-fast", false),
    ("--nocapture", false),
    ("--offline", false),
    ("--package", true),
    ("--profile", true),
    ("--release", false),
    ("--sanitizer", true),
    ("--skip", true),
    ("--target", true),
    ("--test", true),
    ("--test-package", true),
    ("--test-threads", true),
    ("--workspace", false),
    ("-D", true),
    ("-f", true),
    ("-p", true),
    ("-q", false),
];

/// Subcommands of cargo that need no alias.
const CARGO_COMMANDS: [&str; 11] =
    ["build", "clippy", "deny", "doc", "fmt", "fuzz", "metadata", "mutants", "run", "test", "tree"];

/// The command lines that documents are checked against.
#[derive(Debug)]
pub struct Commands {
    tool: Command,
    /// Each package with its directory.
    packages: Vec<(String, String)>,
    aliases: Vec<String>,
    /// Names that a document introduces for the reader's own files.
    examples: &'static [&'static str],
}

/// The words of a command of cargo's.
struct Words {
    /// Its flags, each with its value.
    flags: Vec<(String, String)>,
    /// The words that are neither.
    free: Vec<String>,
}

impl Commands {
    /// The workspace's. What is in `examples` need not exist.
    ///
    /// # Panics
    ///
    /// If the workspace can't be read.
    #[must_use]
    pub fn new(examples: &'static [&'static str]) -> Self {
        let mut tool = Cli::command();
        tool.build();
        let mut packages: Vec<(String, String)> = Vec::new();
        for path in files(".", &["toml"]).iter().filter(|path| path.ends_with("Cargo.toml")) {
            let text = fs::read_to_string(path).expect("a manifest");
            let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
            if let (Some(name), Some(directory)) = (name, path.parent()) {
                packages.push((name.to_owned(), directory.display().to_string()));
            }
        }
        assert!(dependencies().keys().all(|package| packages.iter().any(|(name, _)| name == package)));
        let config = fs::read_to_string(root().join(".cargo/config.toml")).expect("cargo's configuration");
        let aliases = config
            .lines()
            .skip_while(|line| *line != "[alias]")
            .skip(1)
            .take_while(|line| !line.starts_with('['))
            .filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()))
            .collect();
        Self { tool, packages, aliases, examples }
    }

    /// Checks a command that starts with `cargo`, `cloister`, one of the tool's own commands, or variables
    /// before one of these. Other programs are not known here.
    ///
    /// # Errors
    ///
    /// A text that names the unknown word, flag or value.
    pub fn check(&self, command: &str) -> Result<(), String> {
        let words = split(command);
        let start = words.iter().take_while(|word| is_assignment(word)).count();
        match words.get(start).map(String::as_str) {
            Some("cargo") => self.check_cargo(&words[start + 1..]),
            Some("cloister") => self.check_tool(&words[start + 1..]),
            Some(word) if self.tool.find_subcommand(word).is_some() => self.check_tool(&words[start..]),
            _ => Ok(()),
        }
    }

    /// Whether this is a flag of the tool's, of one of its commands, or of cargo's.
    #[must_use]
    pub fn knows_flag(&self, flag: &str) -> bool {
        fn within(command: &Command, flag: &str) -> bool {
            find(command, flag).is_some() || command.get_subcommands().any(|command| within(command, flag))
        }
        within(&self.tool, flag) || CARGO_FLAGS.iter().any(|(known, _)| *known == flag)
    }

    fn check_cargo(&self, words: &[String]) -> Result<(), String> {
        let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
        let (own, rest) = (&words[..end], words.get(end + 1..).unwrap_or_default());
        let Some((name, own)) = own.split_first() else {
            return Ok(());
        };
        if self.aliases.contains(name) {
            return Ok(());
        }
        if !CARGO_COMMANDS.contains(&&name[..]) {
            return Err(format!("cargo has no command or alias {name}"));
        }
        if name == "run" {
            Self::parse(own)?;
            return self.check_tool(rest);
        }
        let Words { flags, free } = Self::parse(own)?;
        let package = flags.iter().find(|(flag, _)| ["-p", "--package"].contains(&&flag[..])).map(|(_, v)| v);
        if let Some(package) = package {
            self.directory(package)?;
        }
        for (flag, value) in &flags {
            self.check_value(flag, value, package.map(String::as_str))?;
        }
        if name == "test" {
            let Words { flags, free: filters } = Self::parse(rest)?;
            let skipped = flags.iter().filter(|(flag, _)| flag == "--skip").map(|(_, value)| value);
            for filter in free.iter().chain(&filters).chain(skipped) {
                self.check_filter(filter, package.map(String::as_str))?;
            }
        }
        if name == "fuzz" {
            let target = free.iter().find(|word| *word != "run");
            if let Some(target) = target
                && !root().join(format!("fuzz/fuzz_targets/{target}.rs")).is_file()
                && files(".", &["rs"]).iter().all(|path| !path.ends_with(format!("fuzz_targets/{target}.rs")))
            {
                return Err(format!("there is no fuzz target {target}"));
            }
        }
        Ok(())
    }

    /// The flags among these words, each with its value, and the words that are none.
    fn parse(words: &[String]) -> Result<Words, String> {
        let (mut flags, mut free) = (Vec::new(), Vec::new());
        let mut words = words.iter().filter(|word| *word != "--");
        while let Some(word) = words.next() {
            if !word.starts_with('-') {
                free.push(word.clone());
                continue;
            }
            let (flag, value) = flag_and_value(word);
            let Some((_, takes)) = CARGO_FLAGS.iter().find(|(known, _)| *known == flag) else {
                return Err(format!("{flag} is no flag that is known here"));
            };
            let value = match value {
                Some(value) => value.to_owned(),
                None if *takes => words.next().cloned().unwrap_or_default(),
                None => String::new(),
            };
            flags.push((flag.to_owned(), value));
        }
        Ok(Words { flags, free })
    }

    fn directory(&self, package: &str) -> Result<&str, String> {
        let found = self.packages.iter().find(|(name, _)| name == package);
        found.map(|(_, directory)| &directory[..]).ok_or_else(|| format!("there is no package {package}"))
    }

    fn check_value(&self, flag: &str, value: &str, package: Option<&str>) -> Result<(), String> {
        let directory = package.map(|package| self.directory(package)).transpose()?;
        let exists = match (flag, directory) {
            ("--test", Some(directory)) => {
                let manifest =
                    fs::read_to_string(root().join(directory).join("Cargo.toml")).unwrap_or_default();
                let named = manifest
                    .split("[[test]]")
                    .skip(1)
                    .any(|test| test.lines().any(|line| line == format!("name = \"{value}\"")));
                let tests = root().join(directory).join("tests");
                named
                    || [format!("{value}.rs"), format!("{value}/main.rs")]
                        .iter()
                        .any(|file| tests.join(file).is_file())
            }
            ("--features", Some(directory)) => {
                let manifest =
                    fs::read_to_string(root().join(directory).join("Cargo.toml")).unwrap_or_default();
                manifest.lines().any(|line| line.starts_with(&format!("{value} = [")))
            }
            ("--bin", Some(directory)) => {
                let source = root().join(directory).join("src/bin");
                source.join(format!("{value}.rs")).is_file() || source.join(value).is_dir()
            }
            ("-f", _) => value.contains("FILE") || root().join(value).is_file(),
            ("--profile", _) => {
                let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap_or_default();
                manifest.contains(&format!("[profile.{value}]"))
            }
            _ => true,
        };
        if exists || self.examples.contains(&value) {
            Ok(())
        } else {
            Err(format!("there is no {flag} {value}"))
        }
    }

    /// Checks that some test of a package, or its module, has a name with this in it.
    fn check_filter(&self, filter: &str, package: Option<&str>) -> Result<(), String> {
        let directory = package.map_or(Ok("."), |package| self.directory(package))?;
        let has = |part: &str| {
            files(directory, &["rs"]).iter().any(|path| {
                let text = fs::read_to_string(path).unwrap_or_default();
                path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains(part))
                    || text.lines().filter_map(declared).any(|name| name.contains(part))
            })
        };
        match filter.split("::").find(|part| !has(part)) {
            Some(part) => Err(format!("no test has {part} in its name")),
            None => Ok(()),
        }
    }

    /// Checks arguments of the tool: its commands and flags, and if none is a placeholder or left out, all of it.
    fn check_tool(&self, words: &[String]) -> Result<(), String> {
        if !self.walk(words)? {
            return Ok(());
        }
        let line = std::iter::once("cloister").chain(words.iter().map(String::as_str));
        match Cli::try_parse_from(line) {
            Err(error) if error.use_stderr() && !LEFT_OUT.contains(&error.kind()) => {
                Err(error.to_string().lines().next().unwrap_or_default().to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Follows the commands and flags of the tool. Returns whether every word is meant as it is.
    fn walk(&self, words: &[String]) -> Result<bool, String> {
        let mut command = &self.tool;
        let mut exact = true;
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            if word.starts_with('-') {
                let (flag, value) = flag_and_value(word);
                let argument =
                    find(command, flag).ok_or_else(|| format!("`{}` has no {flag}", command.get_name()))?;
                if argument.get_action().takes_values() && value.is_none() {
                    let value = words.next_if(|next| !next.starts_with('-'));
                    exact &= value.is_some_and(|value| !is_placeholder(value));
                }
                continue;
            }
            let names: Vec<&str> = word.split('|').collect();
            let found: Vec<_> = names.iter().filter_map(|name| command.find_subcommand(name)).collect();
            exact &= names.len() == 1 && found.len() == 1;
            if found.len() == names.len() {
                command = found[0];
            } else if command.get_positionals().next().is_none() {
                return Err(format!("`{}` has no {word}", command.get_name()));
            }
        }
        Ok(exact)
    }
}

/// What a document may leave out of a command that it mentions.
const LEFT_OUT: [ErrorKind; 3] = [
    ErrorKind::MissingRequiredArgument,
    ErrorKind::MissingSubcommand,
    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
];

/// A flag and what follows its `=`.
fn flag_and_value(word: &str) -> (&str, Option<&str>) {
    word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)))
}

/// The argument of a command that a flag names.
fn find<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| {
        let long = argument.get_long().is_some_and(|long| flag == format!("--{long}"));
        long || argument.get_short().is_some_and(|short| flag == format!("-{short}"))
    })
}

/// The function or module that a line declares.
fn declared(line: &str) -> Option<&str> {
    let line = line.trim().trim_start_matches("pub ");
    let name = line.strip_prefix("fn ").or_else(|| line.strip_prefix("mod "))?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    })
}

/// Whether a word stands for something of the reader's.
fn is_placeholder(word: &str) -> bool {
    word.contains(['[', '|', '<', '$'])
        || !word.contains(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
}

/// The words of a line, as a shell has them.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (None, '\\') => {}
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_work_pass() {
        let commands = Commands::new(&["mine"]);
        for command in [
            "cargo run",
            "cargo run -q",
            "cargo run -- boot --payload $P --append 'a=b' --disk disk.img # with a disk",
            "cargo run -- bench primitives --json figures.json",
            "cargo run -- image pack|list|verify",
            "cargo run -- boot --timeout SECONDS",
            "cloister --version",
            "boot --json [FILE]",
            "cargo seeded",
            "cargo test -p tests --test abi",
            "cargo test -p tests --test metal",
            "cargo test -p hyp-verify --test checks",
            "cargo test -p hyp-core --features seeded-bugs",
            "cargo test -p tests --lib -- --nocapture a_document_is_taken_apart",
            "cargo build -p guest-kernel --bin mine --profile bare",
            "llvm-objcopy -O binary a b",
        ] {
            assert_eq!(commands.check(command), Ok(()), "{command}");
        }
    }

    #[test]
    fn commands_that_do_not_are_told() {
        let commands = Commands::new(&[]);
        for command in [
            "cargo run -- frobnicate",
            "cargo run -- boot --frobnicate",
            "cargo run -- boot --cpus 99",
            "cargo run -- bench primitives --oracle",
            "cargo run -- image pack|frob",
            "cloister setup --seeded X",
            "cargo frobnicate",
            "cargo test -p nothing",
            "cargo test -p tests --test nothing",
            "cargo test -p hyp-core --features nothing",
            "cargo test -p tests -- nothing_of_that_name",
            "cargo build -p guest-kernel --bin mine",
            "A=1 cargo build --frobnicate",
        ] {
            assert!(commands.check(command).is_err(), "{command}");
        }
    }

    #[test]
    fn flags_are_known() {
        let commands = Commands::new(&[]);
        assert!(commands.knows_flag("--oracle") && commands.knows_flag("--nocapture"));
        assert!(!commands.knows_flag("--frobnicate"));
    }
}
