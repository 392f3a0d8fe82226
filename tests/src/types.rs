//! Which types the packages define, and which names are used twice.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{ItemEnum, ItemMod, ItemStruct, ItemTrait, ItemType, ItemUnion, Macro};

use crate::rust::{Package, Place, Source};

/// A definition of a type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Definition {
    /// The name.
    pub name: String,
    /// The package's directory and the module's path.
    pub module: String,
    /// Where it is.
    pub place: Place,
}

/// The structs, enums, unions, traits and type aliases of a package, those in macros included.
#[must_use]
pub fn definitions(package: &Package) -> Vec<Definition> {
    let mut found = Vec::new();
    for source in &package.sources {
        let module = [vec![package.directory.clone()], source.module.clone()].concat();
        let mut walker = Walker { source, module, found: &mut found };
        walker.visit_file(&source.syntax);
    }
    found
}

/// The names that more than one module defines, with their places, a line each. Two definitions in one
/// module are one type, built one way or the other.
#[must_use]
pub fn doubles(definitions: &[Definition], is_meant: impl Fn(&str) -> bool) -> Vec<String> {
    let mut by_name: BTreeMap<&str, BTreeSet<&Definition>> = BTreeMap::new();
    for definition in definitions.iter().filter(|definition| is_meant(&definition.name)) {
        by_name.entry(&definition.name).or_default().insert(definition);
    }
    by_name
        .into_iter()
        .filter(|(_, definitions)| {
            definitions.iter().map(|definition| &definition.module).collect::<BTreeSet<_>>().len() > 1
        })
        .map(|(name, definitions)| {
            let places: Vec<_> = definitions.iter().map(|definition| definition.place.to_string()).collect();
            format!("{name}: {}", places.join(", "))
        })
        .collect()
}

/// Collects the definitions of one source.
struct Walker<'a> {
    source: &'a Source,
    module: Vec<String>,
    found: &'a mut Vec<Definition>,
}

impl Walker<'_> {
    fn note(&mut self, name: &Ident) {
        self.found.push(Definition {
            name: name.to_string(),
            module: self.module.join("::"),
            place: self.source.place(name.span()),
        });
    }

    /// Notes what a macro's tokens define. `type` is left out: in tokens it may be a trait's.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut defines = false;
        for token in tokens {
            match &token {
                TokenTree::Ident(word) if defines => self.note(word),
                TokenTree::Group(group) => self.note_tokens(group.stream()),
                _ => {}
            }
            defines = matches!(&token, TokenTree::Ident(word)
                if ["struct", "enum", "union", "trait"].iter().any(|keyword| word == keyword));
        }
    }
}

impl<'ast> Visit<'ast> for Walker<'_> {
    fn visit_item_mod(&mut self, inline: &'ast ItemMod) {
        self.module.push(inline.ident.to_string());
        visit::visit_item_mod(self, inline);
        self.module.pop();
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.note(&item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        self.note(&item.ident);
    }

    fn visit_item_union(&mut self, item: &'ast ItemUnion) {
        self.note(&item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.note(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast ItemType) {
        self.note(&item.ident);
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        self.note_tokens(invocation.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Definition> {
        definitions(&Package::parse("x", [("x/src/a.rs".into(), text.to_owned())]))
    }

    #[test]
    fn every_kind_of_type_is_found() {
        let text =
            "struct A; enum B {} union C { c: u8 } trait D { type No; fn f() { struct E; } } type F = u8;
            impl D for A { type No = u8; }
            flags! { pub struct G: u8 { } }
            macro_rules! h { ($name:ident) => { pub struct $name; pub enum H {} } }
            mod inner { struct I; }
            #[cfg(test)] mod tests { struct No; }";
        let names: Vec<_> = found(text).into_iter().map(|definition| definition.name).collect();
        assert_eq!(names, ["A", "B", "C", "D", "E", "F", "G", "H", "I"]);
    }

    #[test]
    fn a_name_in_two_modules_is_a_double() {
        let found = found(
            "#[cfg(unix)] struct One;\n#[cfg(not(unix))] struct One;\nstruct Two;\nstruct Error;\n\
             mod m { struct Two;\n struct Error; }",
        );
        assert_eq!(doubles(&found, |name| name != "Error"), ["Two: x/src/a.rs:3, x/src/a.rs:5"]);
        assert_eq!(doubles(&found, |name| name == "Error").len(), 1);
        assert!(doubles(&found, |name| name == "One").is_empty());
    }
}
