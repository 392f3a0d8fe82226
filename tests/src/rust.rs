//! Packages as syntax trees, for rules about their structure.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::Span;
use syn::{Attribute, File, ImplItem, Item, Meta, Token, TraitItem, punctuated::Punctuated};

use crate::workspace::{files, root};

/// A place in a source, printed as `path:line`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, from the root of the workspace.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// A source file of a package.
pub struct Source {
    /// The file, from the root of the workspace.
    pub path: PathBuf,
    /// The path of its module: empty for `lib.rs` and `main.rs`.
    pub module: Vec<String>,
    /// What it holds, without what is built only for tests.
    pub syntax: File,
}

impl Source {
    /// The place of a span of this source.
    #[must_use]
    pub fn place(&self, span: Span) -> Place {
        Place { path: self.path.clone(), line: span.start().line }
    }
}

/// The sources of a package, without its test modules.
pub struct Package {
    /// Its directory, from the root of the workspace.
    pub directory: String,
    /// Its sources.
    pub sources: Vec<Source>,
}

impl Package {
    /// Whether the workspace has a package in this directory.
    #[must_use]
    pub fn exists(directory: &str) -> bool {
        root().join(directory).join("Cargo.toml").is_file()
    }

    /// Reads the package in a directory of the workspace.
    ///
    /// # Panics
    ///
    /// If a source can't be read or is no Rust.
    #[must_use]
    pub fn read(directory: &str) -> Self {
        let source = Path::new(directory).join("src");
        let texts = files(&source.display().to_string(), &["rs"]).into_iter().map(|path| {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path.strip_prefix(root()).expect("a path in the workspace").to_owned(), text)
        });
        Self::parse(directory, texts)
    }

    /// Makes a package of texts, each with its path from the root of the workspace.
    ///
    /// # Panics
    ///
    /// If a text is no Rust.
    #[must_use]
    pub fn parse(directory: &str, texts: impl IntoIterator<Item = (PathBuf, String)>) -> Self {
        let base = Path::new(directory).join("src");
        let mut for_tests = BTreeSet::new();
        let mut sources: Vec<Source> = texts
            .into_iter()
            .map(|(path, text)| {
                let mut syntax =
                    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let module = module_of(path.strip_prefix(&base).unwrap_or(&path));
                let items = std::mem::take(&mut syntax.items);
                syntax.items = without_tests(items, &module, &mut for_tests);
                Source { path, module, syntax }
            })
            .collect();
        sources.retain(|source| !for_tests.iter().any(|test| source.module.starts_with(test)));
        Self { directory: directory.to_owned(), sources }
    }
}

/// The module that a file holds, by its path below `src`.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> = path
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if matches!(module.last().map(String::as_str), Some("lib" | "main" | "mod")) {
        module.pop();
    }
    module
}

/// Leaves out the items that only tests have, and notes which modules those are.
fn without_tests(items: Vec<Item>, module: &[String], for_tests: &mut BTreeSet<Vec<String>>) -> Vec<Item> {
    let mut kept = Vec::new();
    for mut item in items {
        if attributes(&item).iter().any(is_test_only) {
            if let Item::Mod(declared) = &item {
                for_tests.insert([module, &[declared.ident.to_string()]].concat());
            }
            continue;
        }
        match &mut item {
            Item::Mod(inline) => {
                let module = [module, &[inline.ident.to_string()]].concat();
                if let Some((_, items)) = &mut inline.content {
                    *items = without_tests(std::mem::take(items), &module, for_tests);
                }
            }
            Item::Impl(block) => block.items.retain(|item| {
                let attributes: &[Attribute] = match item {
                    ImplItem::Const(item) => &item.attrs,
                    ImplItem::Fn(item) => &item.attrs,
                    ImplItem::Type(item) => &item.attrs,
                    _ => &[],
                };
                !attributes.iter().any(is_test_only)
            }),
            Item::Trait(block) => block.items.retain(|item| {
                let attributes: &[Attribute] = match item {
                    TraitItem::Const(item) => &item.attrs,
                    TraitItem::Fn(item) => &item.attrs,
                    TraitItem::Type(item) => &item.attrs,
                    _ => &[],
                };
                !attributes.iter().any(is_test_only)
            }),
            _ => {}
        }
        kept.push(item);
    }
    kept
}

/// The attributes of an item.
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether an attribute keeps its item to builds of tests: `cfg(test)`, or a condition that implies it.
fn is_test_only(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<Meta>().is_ok_and(|condition| implies_test(&condition))
}

fn implies_test(condition: &Meta) -> bool {
    let Meta::List(list) = condition else {
        return condition.path().is_ident("test");
    };
    let Ok(parts) = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated) else {
        return false;
    };
    if list.path.is_ident("all") {
        parts.iter().any(implies_test)
    } else {
        list.path.is_ident("any") && !parts.is_empty() && parts.iter().all(implies_test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_tests_have_is_left_out() {
        let text = "
            #[cfg(test)] mod apart;
            #[cfg(all(test, target_os = \"linux\"))] mod too { fn one() {} }
            #[cfg(any(test, feature = \"fake\"))] mod fake;
            impl Two { #[cfg(test)] fn three() {} #[cfg(not(test))] fn four() {} }
            mod inline { #[cfg(test)] mod deep; }
        ";
        let texts = [
            ("x/src/lib.rs", text),
            ("x/src/apart.rs", ""),
            ("x/src/apart/below.rs", ""),
            ("x/src/fake.rs", ""),
            ("x/src/inline/deep.rs", ""),
        ];
        let package = Package::parse("x", texts.map(|(path, text)| (path.into(), text.into())));
        let paths: Vec<_> = package.sources.iter().map(|source| source.path.display().to_string()).collect();
        assert_eq!(paths, ["x/src/lib.rs", "x/src/fake.rs"]);
        let [Item::Mod(_), Item::Impl(two), Item::Mod(_)] = &package.sources[0].syntax.items[..] else {
            panic!("three items are left");
        };
        assert_eq!(two.items.len(), 1);
    }

    #[test]
    fn a_file_is_the_module_that_its_path_says() {
        for (path, module) in [("lib.rs", ""), ("a.rs", "a"), ("a/b.rs", "a::b"), ("a/mod.rs", "a")] {
            assert_eq!(module_of(Path::new(path)).join("::"), module, "{path}");
        }
    }
}
