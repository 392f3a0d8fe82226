//! What one console said: its text, in bounds, and its lines as they end.

/// The most text that is kept; of more, the end is.
const KEPT_BYTES: usize = 1 << 20;
/// The longest line; a longer one is cut into several.
const LINE_BYTES: usize = 4096;

/// A console's words so far.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    kept: Vec<u8>,
    line: Vec<u8>,
}

impl Transcript {
    /// Takes bytes in and hands on each line that they end, without its end and fit to be shown.
    pub fn push(&mut self, bytes: &[u8], mut on_line: impl FnMut(&str)) {
        self.kept.extend_from_slice(bytes);
        if self.kept.len() > 2 * KEPT_BYTES {
            self.kept.drain(..self.kept.len() - KEPT_BYTES);
        }
        for byte in bytes {
            let ends = *byte == b'\n' || self.line.len() == LINE_BYTES;
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if ends {
                on_line(&printable(&self.line));
                self.line.clear();
            }
        }
    }

    /// All text; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }

    /// Whether nothing was said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The last `count` lines that say something.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<String> {
        let text = self.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].iter().map(|line| printable(line.as_bytes())).collect()
    }
}

/// A line as it may be shown: whoever said it must not steer the terminal that shows it.
fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end().replace(|c: char| c.is_control() && c != '\t', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut transcript = Transcript::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            transcript.push(chunk, |line| lines.push(line.to_owned()));
        }
        lines
    }

    #[test]
    fn lines_end_where_they_end_and_not_where_chunks_do() {
        assert_eq!(lines(&[b"on", b"e\r\ntw", b"o\nthree"]), ["one", "two"]);
        assert_eq!(lines(&[b"\n\n"]), ["", ""]);
        assert_eq!(lines(&[b"\xff\n"]), ["\u{fffd}"]);
        assert_eq!(lines(&[b"\x1b[2Jgone\n"]), ["\u{fffd}[2Jgone"]);
    }

    #[test]
    fn a_console_that_never_ends_is_kept_in_bounds() {
        let mut transcript = Transcript::default();
        let mut count = 0;
        for _ in 0..1024 {
            transcript.push(&[b'x'; 4096], |line| {
                count += 1;
                assert!(line.len() <= LINE_BYTES + 1);
            });
        }
        assert!(count > 900);
        assert!(transcript.text().len() <= 2 * KEPT_BYTES);
    }

    #[test]
    fn the_tail_is_what_was_said_last() {
        let mut transcript = Transcript::default();
        transcript.push(b"a\nb\n\nc\n", |_| ());
        assert_eq!(transcript.tail(2), ["b", "c"]);
        assert_eq!(transcript.tail(9), ["a", "b", "c"]);
    }
}
