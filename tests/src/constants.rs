//! The constants of the sources, with their values.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{BinOp, Expr, Ident, ImplItemConst, ItemConst, Lit, TraitItemConst};

use crate::workspace::{files, is_test_file, root};

/// The integer constants of some sources.
#[derive(Default)]
pub struct Constants {
    expressions: BTreeMap<String, Vec<Expr>>,
}

impl Constants {
    /// Reads those of a directory of the workspace, tests apart.
    ///
    /// # Panics
    ///
    /// If a source can't be read or is no Rust.
    #[must_use]
    pub fn of(directories: &[&str]) -> Self {
        let mut constants = Self::default();
        for path in directories.iter().flat_map(|directory| files(directory, &["rs"])) {
            if !is_test_file(&path) {
                constants.read(&path);
            }
        }
        constants
    }

    /// Reads those of one file.
    ///
    /// # Panics
    ///
    /// If it can't be read or is no Rust.
    #[must_use]
    pub fn in_file(path: &str) -> Self {
        let mut constants = Self::default();
        constants.read(&root().join(path));
        constants
    }

    fn read(&mut self, path: &Path) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.parse(&text);
    }

    fn parse(&mut self, text: &str) {
        self.visit_file(&syn::parse_file(text).expect("a Rust source"));
    }

    fn note(&mut self, name: &Ident, value: &Expr) {
        self.expressions.entry(name.to_string()).or_default().push(value.clone());
    }

    /// The values of the constants of this name, as far as they are integers that can be computed here.
    #[must_use]
    pub fn values(&self, name: &str) -> BTreeSet<i128> {
        let expressions = self.expressions.get(name).map_or(&[][..], Vec::as_slice);
        expressions.iter().filter_map(|expression| self.value(expression)).collect()
    }

    fn value(&self, expression: &Expr) -> Option<i128> {
        match expression {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Int(number) => number.base10_parse().ok(),
                _ => None,
            },
            Expr::Paren(inner) => self.value(&inner.expr),
            Expr::Cast(cast) => self.value(&cast.expr),
            Expr::Path(path) => {
                let name = path.path.segments.last()?.ident.to_string();
                let values = self.values(&name);
                values.first().copied().filter(|_| values.len() == 1)
            }
            // A newtype's constructor: `Ipa(0x4000_0000)`.
            Expr::Call(call) if call.args.len() == 1 => self.value(call.args.first()?),
            Expr::Field(field) => self.value(&field.base),
            Expr::Binary(binary) => {
                let (left, right) = (self.value(&binary.left)?, self.value(&binary.right)?);
                match binary.op {
                    BinOp::Add(_) => left.checked_add(right),
                    BinOp::Sub(_) => left.checked_sub(right),
                    BinOp::Mul(_) => left.checked_mul(right),
                    BinOp::Shl(_) => left.checked_shl(right.try_into().ok()?),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

impl<'ast> Visit<'ast> for Constants {
    fn visit_item_const(&mut self, item: &'ast ItemConst) {
        self.note(&item.ident, &item.expr);
    }

    fn visit_impl_item_const(&mut self, item: &'ast ImplItemConst) {
        self.note(&item.ident, &item.expr);
    }

    fn visit_trait_item_const(&mut self, item: &'ast TraitItemConst) {
        if let Some((_, value)) = &item.default {
            self.note(&item.ident, value);
        }
        visit::visit_trait_item_const(self, item);
    }
}

/// The number that a text begins with, as documents write it: `4096`, `0x0800_0000`, `20 000`, `161,092`.
#[must_use]
pub fn leading_number(text: &str) -> Option<i128> {
    if let Some(digits) = text.strip_prefix("0x") {
        let end = digits.find(|c: char| !c.is_ascii_hexdigit() && c != '_').unwrap_or(digits.len());
        return i128::from_str_radix(&digits[..end].replace('_', ""), 16).ok();
    }
    let bytes = text.as_bytes();
    let mut digits = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        let three_follow = || {
            let rest = &bytes[index + 1..];
            rest.iter().take_while(|next| next.is_ascii_digit()).count() == 3
        };
        match byte {
            b'0'..=b'9' => digits.push(char::from(*byte)),
            b' ' | b',' | b'_' if !digits.is_empty() && three_follow() => {}
            _ => break,
        }
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_computed() {
        let mut constants = Constants::default();
        constants.parse(
            "const A: u64 = 2 << 20; trait T { const B: u64 = 0x10; } const C: Ipa = Ipa(A.0 + Self::B);
             fn f() { const D: usize = (3 * 4) as usize; } const E: f32 = 1.0;",
        );
        for (name, value) in [("A", 2 << 20), ("B", 16), ("C", (2 << 20) + 16), ("D", 12)] {
            assert_eq!(constants.values(name).into_iter().collect::<Vec<_>>(), [value], "{name}");
        }
        assert!(constants.values("E").is_empty());
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for (text, value) in [
            ("4096 bytes", Some(4096)),
            ("0x0800_0000, and", Some(0x0800_0000)),
            ("20 000 | 1", Some(20_000)),
            ("1 264 384 (512 calls)", Some(1_264_384)),
            ("161,092", Some(161_092)),
            ("8, 16", Some(8)),
            ("x", None),
        ] {
            assert_eq!(leading_number(text), value, "{text}");
        }
    }
}
