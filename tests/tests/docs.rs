//! What documents say of the tree is so: links, files, names, code, commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use tests::commands::Commands;
use tests::markdown::Document;
use tests::workspace::{dependencies, files, root};

/// What documents name for the reader to make.
const EXAMPLES: &[&str] = &["mine", "guest-kernel/src/bin/mine.rs", "foo.rs", "foo/"];

/// Files of others: Linux's documentation.
const FOREIGN: [&str; 1] = ["Documentation/"];

/// Names in backticks that are no names of ours: of the architecture, of firmware interfaces, of programs, of
/// crates and files of others, of what a reader makes.
const FOREIGN_NAMES: &[&str] =
    &["VIRTIO_F_ACCESS_PLATFORM", "VIRTIO_F_VERSION_1", "addr2line", "iommu_platform=on"];

/// All files and directories of the tree, from its root.
fn tree() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut pending = vec![root().to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == "target" || name == ".git" {
                continue;
            }
            if path.is_dir() {
                pending.push(path.clone());
            }
            found.insert(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
    found
}

/// A path without its `..` and `.`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[track_caller]
fn expect_none(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}, {}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn links_go_somewhere() {
    let documents = Document::all();
    let mut wrong = Vec::new();
    for document in &documents {
        for (line, target) in document.links() {
            if target.starts_with("http") {
                continue;
            }
            let (file, anchor) =
                target.split_once('#').map_or((&target[..], None), |(file, a)| (file, Some(a)));
            let path = if file.is_empty() {
                document.path.clone()
            } else {
                plain(&document.path.parent().unwrap_or(Path::new("")).join(file))
            };
            let anchors = || documents.iter().find(|other| other.path == path).map(Document::anchors);
            let there = root().join(&path).exists()
                && anchor.is_none_or(|anchor| anchors().is_some_and(|anchors| anchors.contains(anchor)));
            if !there {
                wrong.push(format!("{}: {target}", document.place(line)));
            }
        }
    }
    expect_none("links that go nowhere", &wrong);
}

/// Whether a span is the path of a file or directory: it has a slash, or ends as sources do.
fn is_path(span: &str) -> bool {
    let ends = [".rs", ".md", ".toml", ".ld", ".S", ".sh", ".yml"];
    let plain = !span.contains(|c: char| c.is_whitespace() || "$<>|*=,:(){}[]".contains(c));
    let slash = span.contains('/') && !span.starts_with(['/', '@']) && !span.contains("//");
    plain && (slash || ends.iter().any(|end| span.ends_with(end)))
}

#[test]
fn files_in_backticks_exist() {
    let tree = tree();
    let mut wrong = Vec::new();
    for document in Document::all() {
        for (line, span) in document.spans() {
            let excepted = span.starts_with("target/")
                || span.starts_with("cloister.") // the schema of a record
                || EXAMPLES.contains(&&span[..])
                || FOREIGN.iter().any(|foreign| span.starts_with(foreign));
            let path = Path::new(span.trim_end_matches('/'));
            if is_path(&span) && !excepted && !tree.iter().any(|file| file.ends_with(path)) {
                wrong.push(format!("{}: `{span}`", document.place(line)));
            }
        }
    }
    expect_none("files that are not there", &wrong);
}

/// The words of all sources, manifests and scripts.
fn words() -> BTreeSet<String> {
    let scripts = [".ci/run", "fuzz/smoke", ".cargo/config.toml"].map(|path| root().join(path));
    let mut words = BTreeSet::new();
    for path in files(".", &["rs", "toml", "ld", "S", "script"]).iter().chain(&scripts) {
        // This file names what is missing.
        if path.ends_with("tests/tests/docs.rs") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-');
        words.extend(found.flat_map(|word| word.split('-').chain([word])).map(str::to_owned));
    }
    words
}

/// The parts of a span that is a name of the source: `a::b`, `call()`, `macro!`, `snake_case`, `CamelCase`,
/// `record.field`, `VARIABLE=value`.
fn name_parts(span: &str) -> Vec<&str> {
    let name = span.split_once('=').map_or(span, |(name, _)| name);
    let name = name.trim_end_matches("()").trim_end_matches('!');
    let is_word = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let parts: Vec<&str> = name.split("::").flat_map(|part| part.split('.')).collect();
    let mixed = |part: &str| {
        part.contains('_')
            || (part[1..].contains(|c: char| c.is_ascii_uppercase())
                && part.contains(|c: char| c.is_ascii_lowercase()))
    };
    let meant =
        parts.len() > 1 || name.len() < span.len() || parts.iter().any(|part| is_word(part) && mixed(part));
    if meant && parts.iter().all(|part| is_word(part)) { parts } else { Vec::new() }
}

#[test]
fn names_in_backticks_exist() {
    let words = words();
    let mut wrong = Vec::new();
    for document in Document::all() {
        for (line, span) in document.spans() {
            if FOREIGN_NAMES.contains(&&span[..]) || is_path(&span) {
                continue;
            }
            for part in name_parts(&span) {
                if !words.contains(part) {
                    wrong.push(format!("{}: `{span}`: nothing is called {part}", document.place(line)));
                }
            }
        }
    }
    expect_none("names that nothing has", &wrong);
}

/// The commands of a code block, each with its line: what follows `$ ` in a console, each line of a script.
fn block_commands(language: &str, first: usize, text: &str) -> Vec<(usize, String)> {
    let mut commands: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (line, content) in (first..).zip(text.lines()) {
        let command = match language {
            "console" | "text" => content.strip_prefix("$ "),
            "sh" | "bash" => Some(content.trim()),
            _ => None,
        };
        if let (true, Some((_, last))) = (goes_on, commands.last_mut()) {
            last.push_str(content.trim());
        } else if let Some(command) = command {
            commands.push((line, command.to_owned()));
        }
        goes_on = content.ends_with('\\');
    }
    commands
}

#[test]
fn commands_are_accepted() {
    let checks = Commands::new(EXAMPLES);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in Document::all() {
        let blocks = document.codes.iter().flat_map(|code| {
            block_commands(code.language.as_deref().unwrap_or_default(), code.line, &code.text)
        });
        for (line, command) in blocks.chain(document.spans()) {
            let flag =
                command.split([' ', '=', '[']).next().filter(|word| word.starts_with("--") && word.len() > 2);
            let result = match flag {
                Some(flag) if !checks.knows_flag(flag) => Err(format!("nothing has {flag}")),
                _ => checks.check(&command),
            };
            seen += usize::from(command.contains("cargo "));
            if let Err(error) = result {
                wrong.push(format!("{}: `{command}`: {error}", document.place(line)));
            }
        }
    }
    assert!(seen > 40, "{seen} commands are not all");
    expect_none("commands that are not accepted", &wrong);
}

/// A text without what its lines end or begin with.
fn trimmed(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[test]
fn code_is_from_the_sources() {
    let sources: Vec<String> =
        files(".", &["rs"]).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut wrong = Vec::new();
    for document in Document::all() {
        for code in &document.codes {
            let place = document.place(code.line);
            if code.language.is_none() {
                // Lines shown as an example of the code.
                for line in trimmed(&code.text) {
                    if !sources.iter().any(|source| source.lines().any(|other| other.trim() == line)) {
                        wrong.push(format!("{place}: no source has the line `{line}`"));
                    }
                }
            } else if code.language.as_deref() == Some("rust") {
                let named = code.before.split('`').skip(1).step_by(2).find(|span| span.ends_with(".rs"));
                let Some(named) = named else {
                    wrong.push(format!("{place}: the sentence above names no file that has this code"));
                    continue;
                };
                let source = fs::read_to_string(root().join(named)).unwrap_or_default();
                let (source, shown) = (trimmed(&source), trimmed(&code.text));
                let holds = if code.before.contains("whole") {
                    source == shown
                } else {
                    source.windows(shown.len()).any(|lines| lines == shown)
                };
                if !holds {
                    wrong.push(format!("{place}: {named} has another content"));
                }
            }
        }
    }
    expect_none("code that is in no source", &wrong);
}

/// The crates that two packages both link, by the manifests.
fn common(one: &str, other: &str) -> BTreeSet<String> {
    let all = dependencies();
    let reach = |package: &str| {
        let mut reached = BTreeSet::new();
        let mut pending = vec![package.to_owned()];
        while let Some(package) = pending.pop() {
            for dependency in &all[&package] {
                if reached.insert(dependency.clone()) {
                    pending.push(dependency.clone());
                }
            }
        }
        reached
    };
    reach(one).intersection(&reach(other)).cloned().collect()
}

#[test]
fn crates_meet_where_documents_say() {
    let expected = common("hypervisor", "host");
    let mut wrong = Vec::new();
    for document in Document::all() {
        for (line, text) in &document.paragraphs {
            for (_, rest) in
                text.match_indices("meet in").map(|(index, word)| text.split_at(index + word.len()))
            {
                let sentence = rest.split_once(". ").map_or(rest, |(sentence, _)| sentence);
                let sentence = sentence.split([';', '|']).next().unwrap_or_default();
                let named: BTreeSet<String> =
                    sentence.split('`').skip(1).step_by(2).map(str::to_owned).collect();
                if named != expected {
                    wrong.push(format!("{}: {named:?} instead of {expected:?}", document.place(*line)));
                }
            }
        }
    }
    expect_none("sentences about where hypervisor and host meet", &wrong);
}

#[test]
fn contributing_names_each_step_of_ci() {
    let script = fs::read_to_string(root().join(".ci/run")).unwrap();
    let document = Document::read(Path::new("CONTRIBUTING.md"));
    let text: String =
        document.paragraphs.iter().map(|(_, text)| text.replace('\n', " ").to_lowercase() + "\n").collect();
    let steps: Vec<&str> =
        script.lines().filter_map(|line| line.strip_prefix("step \"")?.strip_suffix('"')).collect();
    assert!(steps.len() > 5, "{steps:?}");
    let missing: Vec<String> = steps
        .iter()
        .filter(|step| !text.contains(&step.to_lowercase()))
        .map(|step| format!("CONTRIBUTING.md: no word of \"{step}\""))
        .collect();
    expect_none("steps of .ci/run that are not told", &missing);
}

#[test]
fn spans_are_told_apart() {
    for (span, parts) in [
        ("Machine", &[][..]),
        ("boot", &[]),
        ("is_bound", &["is_bound"]),
        ("Tool::boot", &["Tool", "boot"]),
        ("payload!", &["payload"]),
        ("run()", &["run"]),
        ("VcpuRun", &["VcpuRun"]),
        ("dma.confined", &["dma", "confined"]),
        ("CLOISTER_CASES=1024", &["CLOISTER_CASES"]),
        ("a b", &[]),
        ("-m 256", &[]),
    ] {
        assert_eq!(name_parts(span), parts, "{span}");
    }
    for (span, path) in
        [("host/src", true), ("a.rs", true), ("/chosen", false), ("a/b|c", false), ("x", false)]
    {
        assert_eq!(is_path(span), path, "{span}");
    }
}
