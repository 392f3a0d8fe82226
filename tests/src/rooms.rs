//! The graph of a crate's rooms: its top-level modules, and which of them names which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, Macro, Path, UseTree};

use crate::rust::{Package, Place, Source};

/// Which room names which, and where.
#[derive(Debug, Default)]
pub struct Rooms {
    rooms: BTreeSet<String>,
    arrows: BTreeMap<(String, String), Vec<Place>>,
}

impl Rooms {
    /// The rooms of a crate. An arrow goes from a room to each one that it names by a path from the
    /// crate's root, in a `use` or inline, in code or in a macro's arguments. What the root re-exports
    /// counts as its room's.
    #[must_use]
    pub fn of(package: &Package) -> Self {
        let mut names = Names::default();
        for source in &package.sources {
            names.rooms.extend(source.module.first().cloned());
            if source.module.is_empty() {
                let inline = source.syntax.items.iter().filter_map(|item| match item {
                    Item::Mod(inline) => Some(inline.ident.to_string()),
                    _ => None,
                });
                names.rooms.extend(inline);
            }
        }
        for source in package.sources.iter().filter(|source| source.module.is_empty()) {
            for item in &source.syntax.items {
                if let Item::Use(import) = item {
                    names.note_aliases(&import.tree, &mut Vec::new());
                }
            }
        }
        let mut rooms = Self { rooms: names.rooms.clone(), arrows: BTreeMap::new() };
        for source in &package.sources {
            let mut walker =
                Walker { names: &names, source, module: source.module.clone(), arrows: &mut rooms.arrows };
            walker.visit_file(&source.syntax);
        }
        rooms
    }

    /// The rooms' names.
    #[must_use]
    pub const fn names(&self) -> &BTreeSet<String> {
        &self.rooms
    }

    /// The places where one room names another.
    #[must_use]
    pub fn places(&self, from: &str, to: &str) -> &[Place] {
        self.arrows.get(&(from.to_owned(), to.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// The rooms that a room names.
    fn named_by<'a>(&'a self, room: &'a str) -> impl Iterator<Item = &'a str> {
        self.arrows.keys().filter(move |(from, _)| from == room).map(|(_, to)| to.as_str())
    }

    /// A shortest way from a room to another over at least one arrow: all rooms on it, both ends included.
    fn way<'a>(&'a self, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut pending = VecDeque::from([from]);
        while let Some(room) = pending.pop_front() {
            for next in self.named_by(room) {
                if next == to {
                    let mut way = vec![next, room];
                    while let Some(before) =
                        way.last().filter(|room| **room != from).map(|room| came_from[room])
                    {
                        way.push(before);
                    }
                    way.reverse();
                    return Some(way);
                }
                if next != from && !came_from.contains_key(next) {
                    came_from.insert(next, room);
                    pending.push_back(next);
                }
            }
        }
        None
    }

    /// The groups of rooms that reach each other.
    #[must_use]
    pub fn knots(&self) -> Vec<BTreeSet<&str>> {
        let mut knots: Vec<BTreeSet<&str>> = Vec::new();
        for room in &self.rooms {
            if knots.iter().any(|knot| knot.contains(room.as_str())) || self.way(room, room).is_none() {
                continue;
            }
            let around = self.rooms.iter().map(String::as_str).filter(|other| {
                *other == room || (self.way(room, other).is_some() && self.way(other, room).is_some())
            });
            knots.push(around.collect());
        }
        knots
    }

    /// What is to be said of the circles: for each knot its rooms, a shortest circle with its places, and
    /// all arrows within. Empty if there is no circle.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = String::new();
        for knot in self.knots() {
            let circle =
                knot.iter().filter_map(|room| self.way(room, room)).min_by_key(Vec::len).unwrap_or_default();
            let names: Vec<_> = knot.iter().copied().collect();
            let _ = writeln!(report, "a circle in {} rooms: {}", names.len(), names.join(", "));
            let _ = writeln!(report, "  the shortest: {}", circle.join(" -> "));
            for pair in circle.windows(2) {
                for place in self.places(pair[0], pair[1]) {
                    let _ = writeln!(report, "    {} -> {}: {place}", pair[0], pair[1]);
                }
            }
            let _ = writeln!(report, "  all its arrows:");
            for ((from, to), places) in &self.arrows {
                if knot.contains(from.as_str()) && knot.contains(to.as_str()) {
                    let _ =
                        writeln!(report, "    {from} -> {to}: {} times, first {}", places.len(), places[0]);
                }
            }
        }
        report
    }
}

/// The names that are known at the crate's root.
#[derive(Default)]
struct Names {
    rooms: BTreeSet<String>,
    /// What the root imports or re-exports, and from which room.
    aliases: BTreeMap<String, String>,
}

impl Names {
    /// The room that a name at the root belongs to.
    fn room(&self, name: &str) -> Option<&str> {
        self.rooms.get(name).or_else(|| self.aliases.get(name)).map(String::as_str)
    }

    /// Notes what a `use` of the root's brings from a room.
    fn note_aliases(&mut self, tree: &UseTree, prefix: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.note_aliases(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Name(name) => self.note_alias(&name.ident, prefix),
            UseTree::Rename(name) => self.note_alias(&name.rename, prefix),
            UseTree::Glob(_) => {}
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_aliases(tree, prefix);
                }
            }
        }
    }

    fn note_alias(&mut self, name: &Ident, prefix: &[String]) {
        let from = prefix.iter().find(|part| !matches!(part.as_str(), "crate" | "self"));
        if let Some(room) = from.filter(|part| self.rooms.contains(*part)) {
            self.aliases.insert(name.to_string(), room.clone());
        }
    }
}

/// Collects the arrows of one source.
struct Walker<'a> {
    names: &'a Names,
    source: &'a Source,
    module: Vec<String>,
    arrows: &'a mut BTreeMap<(String, String), Vec<Place>>,
}

impl Walker<'_> {
    /// Notes the room that a path names. Only paths that say from where they count can leave a room.
    fn note(&mut self, path: &[String], span: Span) {
        let mut base = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => drop(base.pop()),
                other => {
                    base.push(other.to_owned());
                    break;
                }
            }
        }
        let (Some(from), Some(to)) = (self.module.first(), base.first()) else {
            return;
        };
        if let Some(to) = self.names.room(to)
            && to != from
        {
            self.arrows.entry((from.clone(), to.to_owned())).or_default().push(self.source.place(span));
        }
    }

    fn note_use(&mut self, tree: &UseTree, prefix: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.note_use(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Name(name) => self.note_leaf(&name.ident, prefix),
            UseTree::Rename(name) => self.note_leaf(&name.ident, prefix),
            UseTree::Glob(glob) => self.note(prefix, glob.star_token.spans[0]),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_use(tree, prefix);
                }
            }
        }
    }

    fn note_leaf(&mut self, name: &Ident, prefix: &[String]) {
        self.note(&[prefix, &[name.to_string()]].concat(), name.span());
    }

    /// Notes the paths in a macro's tokens, which no parser has seen.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut index = 0;
        while let Some(token) = tokens.get(index) {
            match token {
                TokenTree::Ident(ident) if ident == "crate" || ident == "self" || ident == "super" => {
                    let mut path = vec![ident.to_string()];
                    while let Some(next) = after_colons(&tokens, index) {
                        match next {
                            TokenTree::Ident(part) => path.push(part.to_string()),
                            TokenTree::Group(group) => {
                                for part in first_names(group.stream()) {
                                    self.note_leaf(&part, &path);
                                }
                                break;
                            }
                            TokenTree::Punct(_) | TokenTree::Literal(_) => break,
                        }
                        index += 3;
                    }
                    self.note(&path, ident.span());
                }
                TokenTree::Group(group) => self.note_tokens(group.stream()),
                _ => {}
            }
            index += 1;
        }
    }
}

/// The token behind the two colons that follow the token at `index`, if they do.
fn after_colons(tokens: &[TokenTree], index: usize) -> Option<&TokenTree> {
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    let [first, second, next] = tokens.get(index + 1..index + 4)? else {
        return None;
    };
    (is_colon(first) && is_colon(second)).then_some(next)
}

/// The first name of each part of a `use` group.
fn first_names(tokens: TokenStream) -> Vec<Ident> {
    let mut names = Vec::new();
    let mut begins = true;
    for token in tokens {
        if let TokenTree::Ident(name) = &token
            && begins
        {
            names.push(name.clone());
        }
        begins = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',');
    }
    names
}

impl<'ast> Visit<'ast> for Walker<'_> {
    fn visit_item_mod(&mut self, inline: &'ast ItemMod) {
        self.module.push(inline.ident.to_string());
        visit::visit_item_mod(self, inline);
        self.module.pop();
    }

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        self.note_use(&import.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if let Some(first) = path.segments.first() {
            self.note(&parts, first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        self.visit_path(&invocation.path);
        self.note_tokens(invocation.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(texts: &[(&str, &str)]) -> Rooms {
        let texts = texts.iter().map(|(path, text)| (format!("x/src/{path}").into(), (*text).to_owned()));
        Rooms::of(&Package::parse("x", texts))
    }

    /// All arrows, as `from to line`.
    fn arrows(rooms: &Rooms) -> Vec<String> {
        let lines = rooms.arrows.iter().map(|((from, to), places)| {
            let lines: Vec<_> = places.iter().map(|place| place.line.to_string()).collect();
            format!("{from} {to} {}", lines.join(" "))
        });
        lines.collect()
    }

    #[test]
    fn an_arrow_is_a_path_from_the_root() {
        let rooms = rooms(&[
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b::B;\nuse crate::{c::{self, C}, a::X};\nuse other::d::D;"),
            ("b.rs", "fn f() {\n crate::c::g::<crate::d::D>();\n d::nothing();\n}"),
            ("c.rs", ""),
            ("d.rs", "pub(in crate::c) struct D;"),
        ]);
        assert_eq!(arrows(&rooms), ["a b 1", "a c 2 2", "b c 2", "b d 2", "d c 1"]);
        assert_eq!(rooms.report(), "");
    }

    #[test]
    fn super_counts_from_its_module() {
        let rooms = rooms(&[
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "use super::b::B;\nmod inline { use super::b::own;\n use super::super::b;\n fn f() { self::g(); } }",
            ),
            ("a/below.rs", "use super::inline;\nuse super::super::b::B;"),
            ("b.rs", ""),
        ]);
        assert_eq!(arrows(&rooms), ["a b 1 3 2"]);
    }

    #[test]
    fn macros_are_read() {
        let rooms = rooms(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            (
                "a.rs",
                "fn f() {\n check!(x, crate::b::ON => [crate::c::OFF]);\n}\nmacro_rules! m { () => { use $crate::{b::B, c}; } }",
            ),
            ("b.rs", "fn g() { crate::c::shout!(self.x, y::c::z); }"),
            ("c.rs", ""),
        ]);
        assert_eq!(arrows(&rooms), ["a b 2 4", "a c 2 4", "b c 1"]);
    }

    #[test]
    fn what_the_root_re_exports_is_its_rooms() {
        let rooms = rooms(&[
            ("lib.rs", "mod a; mod b; pub use a::{Thing, Other as Another}; fn own() {}"),
            ("a.rs", ""),
            ("b.rs", "use crate::Thing;\nuse crate::Another;\nuse crate::own;"),
        ]);
        assert_eq!(arrows(&rooms), ["b a 1 2"]);
    }

    #[test]
    fn a_circle_is_found_and_told_with_its_places() {
        let rooms = rooms(&[
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
            ("a.rs", "use crate::b;"),
            ("b.rs", "\nuse crate::c;"),
            ("c.rs", "use crate::a;\nuse crate::b;\nuse crate::d;"),
            ("d.rs", "use crate::e;"),
            ("e.rs", ""),
        ]);
        assert_eq!(rooms.knots(), [BTreeSet::from(["a", "b", "c"])]);
        let report = rooms.report();
        assert!(report.contains("the shortest: b -> c -> b\n"), "{report}");
        assert!(report.contains("b -> c: x/src/b.rs:2"), "{report}");
        assert!(report.contains("c -> b: x/src/c.rs:2"), "{report}");
        assert!(report.contains("c -> a: 1 times"), "{report}");
        assert!(!report.contains("-> d"), "{report}");
    }
}
