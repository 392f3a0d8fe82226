//! The tool `cloister`, for which `cargo run` stands: it prepares the machine, builds, packs and boots Cloister
//! in QEMU, and reports what happened.
//!
//! A boot passes through these modules:
//!
//! * [`cli`]: the arguments.
//! * [`setup`], [`toolchain`], [`bare`]: QEMU and a Rust for bare metal; the binaries built with it.
//! * [`disk`], [`job`]: the guest's disk, the boot image, and the expectations for the boot.
//! * [`machine`], [`run`]: QEMU's command line as data; the start, the consoles and the end of QEMU.
//! * [`facts`], [`story`], [`record`]: the parties' reports, judged, for people and for programs.
//!
//! [`mod@bench`] boots as well, to measure.
//!
//! Every error is a [`failure::Failure`], which has its exit status.

pub mod bare;
pub mod bench;
pub mod boot;
pub mod cli;
pub mod directory;
pub mod disk;
pub mod facts;
pub mod failure;
pub mod image;
pub mod interrupt;
pub mod job;
pub mod machine;
pub mod process;
pub mod record;
pub mod run;
pub mod setup;
pub mod story;
pub mod toolchain;
pub mod trace;
pub mod ui;
pub mod workspace;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::bench::Measured;
use crate::bench::record::PrimitivesRecord;
use crate::cli::{BenchCommand, Cli, Command, Recorded};
use crate::failure::{Failure, Result, status};
use crate::record::{BootResult, Destination, SetupRecord};
use crate::ui::Ui;

/// Runs the tool.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return bad_usage(&error),
    };
    let ui = Ui::new(false);
    if let Err(failure) = interrupt::watch() {
        ui.error(&failure.message);
        return ExitCode::from(failure.kind.status());
    }
    ExitCode::from(match &cli.command {
        None => boot::boot(&cli.boot),
        Some(Command::Boot(args)) => boot::boot(args),
        Some(Command::Setup(args)) => run_setup(args),
        Some(Command::Image(command)) => image::run(command),
        Some(Command::Bench(BenchCommand::Primitives(args))) => bench::primitives(args),
        Some(Command::Check(args)) => concluded(
            setup::prepare_toolchain(args.toolchain, ui).and_then(|toolchain| bare::check(toolchain, ui)),
            ui,
        ),
    })
}

/// Reports wrong arguments, also in a record if they ask for one.
fn bad_usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        // In front of clap's own "error:", as [`Ui::error`] has it. If standard error is closed, nobody
        // reads it.
        let _ = write!(io::stderr(), "{}: ", cli::NAME);
    }
    let _ = error.print();
    let status = u8::try_from(error.exit_code()).unwrap_or(status::USAGE);
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    if status != status::OK
        && let Some((recorded, destination)) = cli::record_of_bad_usage(&arguments)
    {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default();
        let failure = Failure::usage(message.trim_start_matches("error: "));
        let written = match recorded {
            Recorded::Boot => destination.write(&BootResult::not_booted(failure).record()),
            Recorded::Setup => destination.write(&SetupRecord::new(&Err(failure))),
            Recorded::Primitives => destination
                .write(&PrimitivesRecord::new(&Measured { failure: Some(failure), ..Measured::default() })),
        };
        if let Err(failure) = written {
            Ui::new(true).error(&failure.message);
        }
    }
    ExitCode::from(status)
}

fn concluded(result: Result<()>, ui: Ui) -> u8 {
    match result {
        Ok(()) => status::OK,
        Err(failure) => {
            ui.error(&failure.message);
            failure.kind.status()
        }
    }
}

fn run_setup(args: &cli::SetupArgs) -> u8 {
    let destination = Destination::from_argument(args.json.as_ref());
    let ui = Ui::new(destination == Destination::Stdout);
    let prepared = setup::prepare(args.toolchain, !args.check, ui);
    if let Ok(prepared) = &prepared {
        ui.line(&format!(
            "ready: QEMU {}, bare-metal Rust from {}",
            prepared.qemu.version,
            prepared.toolchain.name()
        ));
    }
    let written = destination.write(&SetupRecord::new(&prepared));
    concluded(prepared.map(drop).and(written), ui)
}
