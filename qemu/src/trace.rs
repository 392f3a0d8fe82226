//! The trace of a boot: the events that the hypervisor prints, as a file with one event per line.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use bootimg::Image;
use hyp_trace::{InWords, LINE, Traced, in_order};

use crate::failure::{Failure, Result};

/// The word of `hypervisor-args` by which an image asks for the trace: a hypervisor without it refuses to boot.
pub const ARGUMENT: &str = "trace=on";

/// Whether the hypervisor of an image has the trace: what starts the line of an event is in it then.
#[must_use]
pub fn is_in(image: &Image<'_>, bytes: &[u8]) -> bool {
    let end = usize::try_from(image.manifest().offset()).unwrap_or(usize::MAX);
    let hypervisor = bytes.get(..end).unwrap_or(bytes);
    hypervisor.windows(LINE.len()).any(|window| window == LINE.as_bytes())
}

/// The events of a run so far.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    events: Vec<Traced>,
    garbled: usize,
}

impl Trace {
    /// Takes in a line of the hypervisor's console. Returns true if it was an event.
    pub fn observe(&mut self, line: &str) -> bool {
        let is_event = line.starts_with(LINE);
        match Traced::parse(line) {
            Some(event) => self.events.push(event),
            None if is_event => self.garbled += 1,
            None => {}
        }
        is_event
    }

    /// Writes the events to a file, in their order: the line that [`Traced::parse`] reads, and what it
    /// means. Returns a summary.
    ///
    /// # Errors
    ///
    /// When the file can't be written.
    pub fn write(&self, path: &Path) -> Result<String> {
        let mut events = self.events.clone();
        events.sort_by_key(|traced| traced.number);
        let write = || {
            let mut file = BufWriter::new(File::create(path)?);
            for traced in &events {
                writeln!(file, "{:<44} ; {}", traced.line(), InWords(traced.event))?;
            }
            file.flush()
        };
        write().map_err(|error: std::io::Error| Failure::input(path, error))?;
        let state = match (in_order(events), self.garbled) {
            (Ok(_), 0) => "complete".to_owned(),
            (Ok(_), garbled) => format!("but {garbled} garbled lines are missing"),
            (Err(incomplete), _) => format!("incomplete: {incomplete}"),
        };
        let count = self.events.len();
        Ok(format!("trace: wrote {count} events to {}, {state}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_written_in_their_order() {
        let mut trace = Trace::default();
        assert!(trace.observe("@event 1 1 3 0"));
        assert!(trace.observe("@event 0 0 303 0"));
        assert!(!trace.observe("@cloister 1 panic"));
        assert!(trace.observe("@event 0 0 zz"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace");
        let said = trace.write(&path).unwrap();
        assert!(said.contains("2 events") && said.contains("1 garbled"), "{said}");
        let text = std::fs::read_to_string(&path).unwrap();
        let back: Vec<_> = text.lines().map(|line| line.split(" ; ").next()).collect();
        let numbers: Vec<_> = back.iter().map(|line| Traced::parse(line.unwrap()).unwrap().number).collect();
        assert_eq!(numbers, [0, 1]);
        assert!(text.contains("isb"));
    }
}
