//! The stranger's tour of `docs/architecture.md`: lists of functions, and whether the code has them.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Ident, ImplItem, ItemFn, ItemImpl, ItemTrait, Macro, TraitItem, Type};

use crate::markdown::Document;

/// What the heading of the tour says.
const HEADING: &str = "stranger's tour";

/// A stop of the tour: a number, the function, the file as a link, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Its line.
    pub line: usize,
    /// The function: `name`, `Type::method`, or a label of assembly.
    pub function: String,
    /// The file, from the root of the workspace.
    pub path: String,
    /// Where the link goes, from the document's directory.
    pub target: String,
}

/// The lists of the tour, each from a "1." on.
///
/// # Errors
///
/// What is wrong with the text, a line each.
pub fn lists(document: &Document) -> Result<Vec<Vec<Stop>>, Vec<String>> {
    let Some((begin, depth, _)) = document
        .headings
        .iter()
        .find(|(_, _, text)| text.to_lowercase().replace('\u{2019}', "'").contains(HEADING))
    else {
        return Err(vec![format!("{} has no heading of a {HEADING}", document.path.display())]);
    };
    let end = document
        .headings
        .iter()
        .find(|(line, other, _)| line > begin && other <= depth)
        .map_or(usize::MAX, |(line, ..)| *line);
    let mut lists: Vec<Vec<Stop>> = Vec::new();
    let mut wrong = Vec::new();
    for (line, text) in document.paragraphs.iter().filter(|(line, _)| *line > *begin && *line < end) {
        let Some((number, item)) = text.split_once(". ").and_then(|(number, item)| {
            Some((number.parse::<usize>().ok()?, item.split_whitespace().collect::<Vec<_>>().join(" ")))
        }) else {
            continue;
        };
        if number == 1 {
            lists.push(Vec::new());
        }
        let place = document.place(*line);
        match (lists.last_mut(), stop(*line, &item)) {
            (Some(list), Some(stop)) if list.len() + 1 == number => list.push(stop),
            (_, None) => {
                wrong.push(format!("{place}: not \"N. `function` in [`path`](link)\" and a sentence"))
            }
            _ => wrong.push(format!("{place}: {number} is not the next number")),
        }
    }
    if wrong.is_empty() { Ok(lists) } else { Err(wrong) }
}

/// Reads an item behind its number.
fn stop(line: usize, item: &str) -> Option<Stop> {
    let (function, rest) = item.strip_prefix('`')?.split_once("` in [`")?;
    let (path, rest) = rest.split_once("`](")?;
    let (target, sentence) = rest.split_once(')')?;
    sentence.contains(char::is_alphabetic).then(|| Stop {
        line,
        function: function.trim_end_matches("()").to_owned(),
        path: path.to_owned(),
        target: target.to_owned(),
    })
}

/// Whether a source, Rust or assembly, defines a function of this name, a method `Type::method`, or a label.
#[must_use]
pub fn defines(source: &str, function: &str) -> bool {
    let is_label = |line: &str| {
        let line = line.trim().trim_start_matches('"');
        line.strip_prefix(function).is_some_and(|rest| rest.starts_with(':') && !rest.starts_with("::"))
    };
    let mut finder = Finder { function, found: false };
    if let Ok(file) = syn::parse_file(source) {
        finder.visit_file(&file);
    }
    finder.found || source.lines().any(is_label)
}

/// Looks for a function.
struct Finder<'a> {
    function: &'a str,
    found: bool,
}

impl Finder<'_> {
    /// Notes a method of a type or trait.
    fn note(&mut self, owner: &Ident, method: &Ident) {
        self.found |= self.function == format!("{owner}::{method}");
    }

    /// Notes the functions in a macro's tokens.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut defines = false;
        for token in tokens {
            match &token {
                TokenTree::Ident(name) if defines => self.found |= name == self.function,
                TokenTree::Group(group) => self.note_tokens(group.stream()),
                _ => {}
            }
            defines = matches!(&token, TokenTree::Ident(word) if word == "fn");
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.found |= item.sig.ident == self.function;
        visit::visit_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, block: &'ast ItemImpl) {
        if let Type::Path(path) = &*block.self_ty
            && let Some(owner) = path.path.segments.last()
        {
            for item in &block.items {
                if let ImplItem::Fn(method) = item {
                    self.note(&owner.ident, &method.sig.ident);
                }
            }
        }
        visit::visit_item_impl(self, block);
    }

    fn visit_item_trait(&mut self, block: &'ast ItemTrait) {
        for item in &block.items {
            if let TraitItem::Fn(method) = item {
                self.note(&block.ident, &method.sig.ident);
            }
        }
        visit::visit_item_trait(self, block);
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        self.note_tokens(invocation.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_tour_is_read() {
        let text = "\
## Before
1. `no` in [`no.rs`](no.rs), which is no part of it.

## A stranger's tour
### One
1. `enter` in [`a/b.rs`](../a/b.rs): enters,
   and goes on.
2. `Type::method` in [`c.rs`](../c.rs) decides.

### Two
1. `three()` in [`d.S`](../d.S), once.

## After
1. `no` in [`no.rs`](no.rs), either.
";
        let lists = lists(&Document::parse(Path::new("docs/x.md"), text)).unwrap();
        let functions: Vec<Vec<_>> =
            lists.iter().map(|list| list.iter().map(|stop| &stop.function[..]).collect()).collect();
        assert_eq!(functions, [vec!["enter", "Type::method"], vec!["three"]]);
        let first =
            Stop { line: 6, function: "enter".into(), path: "a/b.rs".into(), target: "../a/b.rs".into() };
        assert_eq!(lists[0][0], first);
    }

    #[test]
    fn a_bad_item_is_told() {
        for item in [
            "1. enter in [`a.rs`](a.rs), without backticks.",
            "1. `enter` in `a.rs`, without a link.",
            "1. `enter` in [`a.rs`](a.rs).",
            "2. `enter` in [`a.rs`](a.rs), the second first.",
            "3. `enter` in [`a.rs`](a.rs), the third second.",
        ] {
            let first = if item.starts_with('3') { "1. `first` in [`a.rs`](a.rs) begins." } else { "" };
            let text = format!("# A stranger's tour\n{first}\n{item}\n");
            let wrong = lists(&Document::parse(Path::new("x.md"), &text)).expect_err(item);
            assert!(wrong[0].starts_with("x.md:3: "), "{wrong:?}");
        }
        assert!(lists(&Document::parse(Path::new("x.md"), "# Other\n")).is_err());
    }

    #[test]
    fn a_function_is_found_where_it_is_defined() {
        let source = "
            fn free() {
 fn inner() {}
 Type::called(); }
            impl<M> Trait for Type<M> { fn method(&self) {} }
            trait Trait { fn required(); }
            wrap! { fn wrapped() {} }
            global_asm!(\"
            vector_entry:
                b free
            \");
        ";
        for name in ["free", "inner", "Type::method", "Trait::required", "wrapped", "vector_entry"] {
            assert!(defines(source, name), "{name}");
        }
        for name in ["called", "method", "Trait::method", "Type", "wrap", "b", "vector"] {
            assert!(!defines(source, name), "{name}");
        }
        assert!(defines("start:\n    ret\n", "start"));
    }
}
