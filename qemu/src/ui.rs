//! What people see: progress on standard error, results on standard output.

use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::NAME;

/// Time between two frames of a spinner.
const FRAME: Duration = Duration::from_millis(100);

/// Where text goes and how it may look.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    record_on_stdout: bool,
}

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Something holds.
    Good,
    /// Something does not.
    Bad,
    /// Less important than the rest.
    Dim,
    /// More important than the rest.
    Bold,
}

impl Style {
    /// The SGR parameter of ECMA-48.
    const fn code(self) -> u8 {
        match self {
            Self::Good => 32,
            Self::Bad => 31,
            Self::Dim => 2,
            Self::Bold => 1,
        }
    }
}

/// Puts `text` in a style, if colour is wanted.
#[must_use]
pub fn paint(colour: bool, style: Style, text: &str) -> String {
    if colour { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_owned() }
}

fn colour_wanted(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Ui {
    /// With `record_on_stdout`, standard output is left to a record.
    #[must_use]
    pub const fn new(record_on_stdout: bool) -> Self {
        Self { record_on_stdout }
    }

    /// Whether results may be coloured.
    #[must_use]
    pub fn colour(self) -> bool {
        colour_wanted(if self.record_on_stdout {
            io::stderr().is_terminal()
        } else {
            io::stdout().is_terminal()
        })
    }

    /// Writes a result: a line.
    pub fn line(self, line: &str) {
        self.bytes(format!("{line}\n").as_bytes());
    }

    /// Writes a result: bytes as they are.
    pub fn bytes(self, bytes: &[u8]) {
        // Whoever closed the other end does not want to know more.
        if self.record_on_stdout {
            let _ = io::stderr().write_all(bytes);
        } else {
            let mut out = io::stdout();
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
    }

    /// Writes a line beside the results.
    pub fn note(self, line: &str) {
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// Writes what went wrong.
    pub fn error(self, message: &str) {
        let colour = colour_wanted(io::stderr().is_terminal());
        self.note(&format!("{NAME}: {} {message}", paint(colour, Style::Bad, "error:")));
    }

    /// Begins a step of the work; what it is stays visible until it ends.
    #[must_use]
    pub fn step(self, what: &str) -> Step {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant; a wrong one would only look plainer.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg:.dim}") {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_owned());
            bar.enable_steady_tick(FRAME);
            bar
        });
        if bar.is_none() {
            self.note(&format!("{what} ..."));
        }
        Step { what: what.to_owned(), bar, start: Instant::now() }
    }
}

/// A step under way. Dropped without [`Step::done`], it failed and leaves no trace: the failure says so.
#[derive(Debug)]
pub struct Step {
    what: String,
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Step {
    /// Shows what the step is at, on a terminal.
    pub fn detail(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(detail.trim().to_owned());
        }
    }

    /// Writes a line above a spinner, or just writes it.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => {
                let _ = writeln!(io::stderr(), "{line}");
            }
        }
    }

    /// Writes results while the spinner is out of the way.
    pub fn around(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Ends the step well.
    pub fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            let seconds = self.start.elapsed().as_secs_f64();
            let _ = writeln!(io::stderr(), "{} ({seconds:.1} s)", self.what);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
