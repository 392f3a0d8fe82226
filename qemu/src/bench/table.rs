//! The figures for people.

use super::bars::{self, Bar};
use super::figures::Figure;
use crate::ui::{Style, paint};

/// Width of a column of numbers.
const NUMBER: usize = 9;
/// Width of a column of two: in all, and EL2's part.
const PAIR: usize = 15;

/// The table: a line for each operation.
#[must_use]
pub fn render(figures: &[Figure], colour: bool) -> String {
    let head = format!(
        "{:<24}{:>NUMBER$}{:>NUMBER$}{:>NUMBER$}{:>NUMBER$}{:>PAIR$}{:>PAIR$}",
        "instructions", "p50", "min", "max", "EL2 p50", "bar (EL2)", "upstream (EL2)"
    );
    let mut lines = vec![paint(colour, Style::Bold, &head)];
    lines.extend(figures.iter().map(|figure| row(figure, colour)));
    lines.join("\n")
}

fn row(figure: &Figure, colour: bool) -> String {
    let Figure { operation, p50, min, max, el2_p50, .. } = figure;
    let numbers = format!("{operation:<24}{p50:>NUMBER$}{min:>NUMBER$}{max:>NUMBER$}{el2_p50:>NUMBER$}");
    let Some(bar) = bars::bar(*operation) else {
        return numbers;
    };
    let Bar { total, el2, upstream, upstream_el2 } = bar;
    let (verdict, style) = if bar.is_met(figure) { ("met", Style::Good) } else { ("MISSED", Style::Bad) };
    format!(
        "{numbers}{:>PAIR$}{:>PAIR$}  {}",
        pair(total, el2),
        pair(upstream, upstream_el2),
        paint(colour, style, verdict)
    )
}

/// A number, and the part of it that is EL2's where that is told apart.
fn pair(total: u64, el2: Option<u64>) -> String {
    el2.map_or_else(|| total.to_string(), |el2| format!("{total} ({el2})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_abi::bench::Operation;

    #[test]
    fn each_line_says_whether_its_bar_is_met() {
        let figure = |p50| Figure {
            operation: Operation::FirstTouch,
            samples: 3,
            p50,
            min: 1,
            max: 99_999,
            el2_p50: 1550,
        };
        let text = render(&[figure(2150), figure(2151)], false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].ends_with("2150 (1550)    9205 (5960)  met"), "{text}");
        assert!(lines[2].ends_with("  MISSED"), "{text}");
    }
}
