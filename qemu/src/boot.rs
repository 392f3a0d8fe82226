//! `boot`: the whole way from the sources to the story.

use std::time::Duration;

use crate::bare::{DEMO, HOST};
use crate::cli::BootArgs;
use crate::facts::Facts;
use crate::failure::Result;
use crate::job::Job;
use crate::machine::{Console, GDB_PORT, IMAGE_ADDRESS};
use crate::record::{BootResult, Destination};
use crate::run::{self, Ended, Transcript, Verdict};
use crate::setup::{self, Qemu};
use crate::story;
use crate::trace::Trace;
use crate::ui::{Step, Ui};
use crate::workspace;

/// Lines of each console that a failure shows.
const TAIL_LINES: usize = 12;

/// Boots, tells the story, writes the record, and answers the exit status.
#[must_use]
pub fn boot(args: &BootArgs) -> u8 {
    let destination = Destination::from_argument(args.json.as_ref());
    let ui = Ui::new(destination == Destination::Stdout);
    let result = attempt(args, ui).unwrap_or_else(BootResult::not_booted);
    if let Some(failure) = &result.failure {
        ui.error(&failure.message);
    }
    match destination.write(&result.record()) {
        Ok(()) => result.status(),
        Err(failure) => {
            ui.error(&failure.message);
            match result.status() {
                0 => failure.kind.status(),
                status => status,
            }
        }
    }
}

fn attempt(args: &BootArgs, ui: Ui) -> Result<BootResult> {
    let toolchain = || setup::prepare_toolchain(args.toolchain, ui);
    let mut job = Job::new(args, toolchain, ui)?;
    let qemu = setup::prepare_qemu(ui)?;
    if args.gdb {
        ui.note(&debugger_hint(&job, args)?);
    }
    let watched = watch(&job, args, &qemu, ui)?;
    if let Some(path) = &args.trace {
        let trace = &watched.trace;
        ui.note(&trace.write(path)?);
    }

    if let (Some(expected), Some(disk)) = (&mut job.expected.demo, &job.demo_disk) {
        expected.file = Some(disk.digest()?);
    }
    let mut lines = story::tell(&watched.facts, &watched.ended, &job.expected);
    let mut failure = story::failure(&watched.facts, &watched.ended, args.limit_seconds());
    if failure.is_some() {
        // The run ended before its time: what it did not come to is no news.
        lines.retain(|line| line.holds);
    } else {
        failure = story::contradiction(&lines);
    }
    let is_demo = job.expected.demo.is_some();
    let colour = ui.colour();
    for line in &lines {
        // A payload's own output is the result; what Cloister has to say goes beside it.
        if is_demo {
            ui.line(&line.render(colour));
        } else {
            ui.note(&line.render(colour));
        }
    }
    if failure.is_some() {
        ui.note(&story::last_words(&watched.tails()));
    }
    Ok(BootResult {
        facts: watched.facts,
        expected: Some(job.expected),
        console: Some(watched.transcripts[index(Console::Guest)].text()),
        failure,
    })
}

/// A run that is over.
struct Watched {
    facts: Facts,
    ended: Ended,
    transcripts: [Transcript; Console::ALL.len()],
    trace: Trace,
}

impl Watched {
    fn tails(&self) -> Vec<(Console, Vec<String>)> {
        [Console::Hypervisor, Console::Host, Console::Guest]
            .into_iter()
            .map(|console| (console, self.transcripts[index(console)].tail(TAIL_LINES)))
            .collect()
    }
}

const fn index(console: Console) -> usize {
    console as usize
}

fn watch(job: &Job, args: &BootArgs, qemu: &Qemu, ui: Ui) -> Result<Watched> {
    let machine = &job.machine;
    let step = ui.step(&format!(
        "booting in QEMU {}: {}, {} of memory",
        qemu.version,
        story::count(machine.cpus.into(), "CPU"),
        story::bytes(machine.memory_bytes)
    ));
    if args.verbose {
        step.note(&machine.command_line());
    }
    let is_demo = job.expected.demo.is_some();
    let mut facts = Facts::default();
    let mut transcripts: [Transcript; Console::ALL.len()] = Default::default();
    let mut trace = Trace::default();
    let limit = args.limit_seconds().map(Duration::from_secs);
    let ended = run::run(machine, job.directory.path(), limit, |console, bytes| {
        if console == Console::Guest && !is_demo {
            step.around(|| ui.bytes(bytes));
        }
        transcripts[index(console)].push(bytes, |line| {
            if console == Console::Hypervisor && trace.observe(line) {
                return;
            }
            facts.observe(console, line);
            show(&step, console, line, args.verbose);
        });
        if facts.ending() { Verdict::Ending } else { Verdict::Continue }
    })?;
    if ended == Ended::PoweredOff {
        step.done();
    }
    Ok(Watched { facts, ended, transcripts, trace })
}

fn show(step: &Step, console: Console, line: &str, verbose: bool) {
    if verbose {
        step.note(&format!("{console:>10} | {line}"));
    } else if !line.starts_with(shared_abi::record::PREFIX) {
        step.detail(line);
    }
}

/// How to attach a debugger that knows the symbols.
fn debugger_hint(job: &Job, args: &BootArgs) -> Result<String> {
    let root = workspace::root()?;
    let mut command = format!("gdb-multiarch -ex 'target remote 127.0.0.1:{GDB_PORT}'");
    let mut symbols = |elf: std::path::PathBuf, address: u64| {
        if elf.is_file() {
            command
                .push_str(&format!(" \\\n        -ex 'add-symbol-file {} -o {address:#x}'", elf.display()));
        }
    };
    symbols(args.hypervisor().elf(&root), IMAGE_ADDRESS);
    if let Some(address) = job.host_address {
        symbols(HOST.elf(&root), address);
    }
    if job.expected.demo.is_some() {
        // The guest's own addresses: they hold while a vCPU runs.
        symbols(DEMO.elf(&root), host::machine::PAYLOAD_BASE.0);
    }
    Ok(format!(
        "QEMU waits at its first instruction. Run this in another terminal:\n    {command}\n\
         (in lldb: gdb-remote {GDB_PORT}). Ctrl-C in this terminal ends the run."
    ))
}
