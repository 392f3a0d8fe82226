//! A document as headings, links, code and tables, each with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace::{files, root};

/// A block of code.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// The line of its first line of code, counted from 1.
    pub line: usize,
    /// What follows the fence; `None` for an indented block.
    pub language: Option<String>,
    /// The code, without indent.
    pub text: String,
    /// The paragraph above it.
    pub before: String,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its line.
    pub line: usize,
    /// Its cells.
    pub cells: Vec<String>,
}

/// A table.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// The header's cells.
    pub header: Vec<String>,
    /// The rows below it.
    pub rows: Vec<Row>,
}

/// A document.
#[derive(Debug, Default)]
pub struct Document {
    /// The file, from the root of the workspace.
    pub path: PathBuf,
    /// The headings, each with its line and depth.
    pub headings: Vec<(usize, usize, String)>,
    /// Everything that is no code block: each paragraph, item, heading and row with its first line.
    pub paragraphs: Vec<(usize, String)>,
    /// The code blocks.
    pub codes: Vec<Code>,
    /// The tables.
    pub tables: Vec<Table>,
}

impl Document {
    /// Reads the documents that readers start with: those at the root, under `docs/`, and each directory's
    /// `README.md`.
    ///
    /// # Panics
    ///
    /// If one can't be read.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let documents: Vec<Self> = files(".", &["md"])
            .into_iter()
            .map(|path| path.strip_prefix(root().join(".")).expect("a path in the workspace").to_owned())
            .filter(|path| {
                let at_root = path.components().count() == 1;
                at_root
                    || path.starts_with("docs")
                    || path.file_name().is_some_and(|name| name == "README.md")
            })
            .map(|path| Self::read(&path))
            .collect();
        assert!(documents.len() > 8, "{} documents are not all", documents.len());
        documents
    }

    /// Reads a document, named from the root of the workspace.
    ///
    /// # Panics
    ///
    /// If it can't be read.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(root().join(path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(path, &text)
    }

    /// Takes a text apart.
    #[must_use]
    pub fn parse(path: &Path, text: &str) -> Self {
        let mut document = Self { path: path.to_owned(), ..Self::default() };
        let mut lines = (1..).zip(text.lines()).peekable();
        let mut open = false; // whether the last paragraph goes on
        let mut table: Option<Table> = None;
        while let Some((number, line)) = lines.next() {
            let content = line.trim();
            if !content.starts_with('|') {
                document.tables.extend(table.take());
            }
            if let Some(language) = content.strip_prefix("```") {
                let code: Vec<&str> =
                    lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```").collect();
                document.add_code(number + 1, Some(language), &code.join("\n"));
                open = false;
            } else if content.is_empty() {
                open = false;
            } else if let Some(first) = line.strip_prefix("    ").filter(|_| !open) {
                let mut code = vec![first];
                while let Some((_, next)) = lines.next_if(|(_, next)| next.starts_with("    ")) {
                    code.push(&next[4..]);
                }
                document.add_code(number, None, &code.join("\n"));
            } else if content.starts_with('|') {
                let row = Row { line: number, cells: cells(content) };
                document.paragraphs.push((number, row.cells.join(" | ")));
                let is_rule =
                    row.cells.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| "-:".contains(c)));
                match &mut table {
                    None => table = Some(Table { header: row.cells, rows: Vec::new() }),
                    Some(_) if is_rule => {}
                    Some(table) => table.rows.push(row),
                }
                open = false;
            } else if content.starts_with('#') {
                let depth = content.chars().take_while(|c| *c == '#').count();
                let text = content.trim_start_matches('#').trim().to_owned();
                document.paragraphs.push((number, text.clone()));
                document.headings.push((number, depth, text));
                open = false;
            } else if open && !starts_item(content) {
                if let Some((_, text)) = document.paragraphs.last_mut() {
                    text.push('\n');
                    text.push_str(content);
                }
            } else {
                document.paragraphs.push((number, content.to_owned()));
                open = true;
            }
        }
        document.tables.extend(table);
        document
    }

    fn add_code(&mut self, line: usize, language: Option<&str>, text: &str) {
        let before = self.paragraphs.last().map(|(_, text)| text.clone()).unwrap_or_default();
        self.codes.push(Code { line, language: language.map(str::to_owned), text: text.to_owned(), before });
    }

    /// A line of this document, as messages have it.
    #[must_use]
    pub fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// What is in backticks outside of code blocks, each with its line. A line's end within counts as a space.
    #[must_use]
    pub fn spans(&self) -> Vec<(usize, String)> {
        let mut spans = Vec::new();
        for (first, text) in &self.paragraphs {
            let mut line = *first;
            for (index, part) in text.split('`').enumerate() {
                if index % 2 == 1 {
                    spans.push((line, part.split_whitespace().collect::<Vec<_>>().join(" ")));
                }
                line += part.matches('\n').count();
            }
        }
        spans
    }

    /// Where the links go, each with its line.
    #[must_use]
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (first, text) in &self.paragraphs {
            let mut line = *first;
            for (index, part) in text.split("](").enumerate() {
                if let Some((target, _)) = part.split_once(')').filter(|_| index > 0) {
                    links.push((line, target.to_owned()));
                }
                line += part.matches('\n').count();
            }
        }
        links
    }

    /// The names by which links reach its headings, as GitHub makes them.
    #[must_use]
    pub fn anchors(&self) -> BTreeSet<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut anchors = BTreeSet::new();
        for (_, _, heading) in &self.headings {
            let anchor: String = heading
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect();
            let count = seen.entry(anchor.clone()).or_default();
            anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
            *count += 1;
        }
        anchors
    }
}

/// Whether a line begins an item of a list.
fn starts_item(line: &str) -> bool {
    let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
    line.starts_with("- ")
        || line.starts_with("* ")
        || (digits.len() < line.len() && digits.starts_with(". "))
}

/// The cells of a table's line. `\|` is a bar within a cell.
fn cells(line: &str) -> Vec<String> {
    const BAR: &str = "\u{1}";
    let line = line.replace("\\|", BAR);
    let inner = line.trim_start_matches('|').trim_end();
    inner.strip_suffix('|').unwrap_or(inner).split('|').map(|cell| cell.trim().replace(BAR, "|")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# A title's `code`

One `span that
goes on` and a [link](a.md#b) to
[another](c.md).
- `item`
  of two lines

| a | b |
| --- | --- |
| `x\\|y` | 1 |

As in

    let x = 1;

here:

```sh
run it
```
## Twice
## Twice
";

    #[test]
    fn a_document_is_taken_apart() {
        let document = Document::parse(Path::new("x.md"), TEXT);
        let spans: Vec<_> = document.spans().iter().map(|(line, text)| format!("{line} {text}")).collect();
        assert_eq!(spans, ["1 code", "3 span that goes on", "6 item", "11 x|y"]);
        let links = [(4, "a.md#b".to_owned()), (5, "c.md".to_owned())];
        assert_eq!(document.links(), links);
        let anchors: Vec<_> = document.anchors().into_iter().collect();
        assert_eq!(anchors, ["a-titles-code", "twice", "twice-1"]);
        assert_eq!(document.tables.len(), 1);
        assert_eq!(document.tables[0].header, ["a", "b"]);
        assert_eq!(document.tables[0].rows, [Row { line: 11, cells: vec!["`x|y`".into(), "1".into()] }]);
        let code = |line, language: Option<&str>, text: &str, before: &str| Code {
            line,
            language: language.map(str::to_owned),
            text: text.into(),
            before: before.into(),
        };
        let expected = [code(15, None, "let x = 1;", "As in"), code(20, Some("sh"), "run it", "here:")];
        assert_eq!(document.codes, expected);
    }
}
