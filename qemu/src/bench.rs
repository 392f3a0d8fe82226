//! `bench primitives`: what each primitive costs, in instructions of an emulated CPU.
//!
//! * [`samples`]: what guest and host report, as they report it.
//! * [`figures`]: what that amounts to.
//! * [`bars`]: what it is held against.
//! * [`record`], [`table`]: for programs and for people.
//!
//! `docs/measuring.md` has the method.

pub mod bars;
pub mod figures;
pub mod record;
pub mod samples;
pub mod table;

use std::fs;
use std::time::Duration;

use bootimg::file;
use host::config::{GuestKind, HostConfig};
use tempfile::TempDir;

use crate::bare::BENCH;
use crate::cli::PrimitivesArgs;
use crate::directory;
use crate::facts::Facts;
use crate::failure::{Failure, Kind, Result};
use crate::job::GuestParts;
use crate::machine::{self, Clock, Console, IMAGE_FILE, QemuMachine};
use crate::record::Destination;
use crate::run::{self, Ended, Transcript, Verdict};
use crate::setup;
use crate::story;
use crate::ui::Ui;
use figures::Figure;
use record::PrimitivesRecord;
use samples::Samples;

/// Lines of each console that a failure shows.
const TAIL_LINES: usize = 12;

/// A machine on which primitives are measured, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// QEMU's version; `None` if it came to no boot.
    pub qemu: Option<String>,
    /// QEMU's command line; `None` if it came to no boot.
    pub command: Option<String>,
    /// What each operation costs.
    pub figures: Vec<Figure>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// Measures, tells, writes the record, and answers the exit status.
#[must_use]
pub fn primitives(args: &PrimitivesArgs) -> u8 {
    let destination = Destination::from_argument(args.json.as_ref());
    let ui = Ui::new(destination == Destination::Stdout);
    let mut measured = Measured::default();
    measured.failure = measure(args, &mut measured, ui).err();
    if !measured.figures.is_empty() {
        ui.line(&table::render(&measured.figures, ui.colour()));
    }
    if args.check && measured.failure.is_none() {
        measured.failure = bars::missed(&measured.figures);
    }
    if let Some(failure) = &measured.failure {
        ui.error(&failure.message);
    }
    let status = measured.failure.as_ref().map_or(0, |failure| failure.kind.status());
    match destination.write(&PrimitivesRecord::new(&measured)) {
        Ok(()) => status,
        Err(failure) => {
            ui.error(&failure.message);
            if status == 0 { failure.kind.status() } else { status }
        }
    }
}

fn measure(args: &PrimitivesArgs, measured: &mut Measured, ui: Ui) -> Result<()> {
    let toolchain = setup::prepare_toolchain(args.toolchain, ui)?;
    let config = HostConfig { kind: GuestKind::Bench, ..HostConfig::default() };
    let guest = GuestParts::ours(BENCH, config, toolchain, ui)?;
    let (image, _) = guest.pack(toolchain, ui)?;
    let directory = directory::private()?;
    fs::write(directory.path().join(IMAGE_FILE), &image)
        .map_err(|error| Failure::system("can't write the image to the temporary directory", error))?;
    let image_bytes = file::parse(&image).map_or(image.len() as u64, |image| image.manifest().memory_bytes());
    let machine = QemuMachine {
        cpus: 1,
        memory_bytes: machine::memory_bytes(config.memory_bytes, image_bytes),
        disk: None,
        debugger: false,
        clock: Clock::Instructions,
    };
    let qemu = setup::prepare_qemu(ui)?;
    measured.command = Some(machine.command_line());
    measured.qemu = Some(qemu.version);
    let samples = boot(&machine, &directory, args, ui)?;
    measured.figures = figures::figures(&samples)?;
    Ok(())
}

/// Boots the machine to its end; what was reported meanwhile.
fn boot(machine: &QemuMachine, directory: &TempDir, args: &PrimitivesArgs, ui: Ui) -> Result<Samples> {
    let step = ui.step("measuring: each tick of the machine's clock is an instruction");
    let mut facts = Facts::default();
    let mut samples = Samples::default();
    let mut transcripts: [Transcript; Console::ALL.len()] = Default::default();
    let limit = Duration::from_secs(args.timeout);
    let ended = run::run(machine, directory.path(), Some(limit), |console, bytes| {
        transcripts[console as usize].push(bytes, |line| {
            facts.observe(console, line);
            samples.observe(console, line);
        });
        if facts.ending() { Verdict::Ending } else { Verdict::Continue }
    })?;
    let failure = story::failure(&facts, &ended, Some(args.timeout)).or_else(|| {
        let off = facts
            .guest_end
            .is_some_and(|end| end.reason == shared_abi::record::GuestEnd::Off && ended == Ended::PoweredOff);
        (!off).then(|| {
            Failure::new(
                Kind::Run,
                "the benchmark payload did not reach its end: see the last lines of the consoles above",
            )
        })
    });
    match failure {
        None => {
            step.done();
            Ok(samples)
        }
        Some(failure) => {
            let tails: Vec<_> = Console::ALL
                .into_iter()
                .map(|console| (console, transcripts[console as usize].tail(TAIL_LINES)))
                .collect();
            drop(step);
            ui.note(&story::last_words(&tails));
            Err(failure)
        }
    }
}
