//! `bootimg`: packs, lists and verifies Cloister's boot images.

use std::process::ExitCode;

use clap::Parser;

/// Packs, lists and verifies Cloister's boot images
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: bootimg::cli::Command,
}

fn main() -> ExitCode {
    ExitCode::from(Arguments::parse().command.run(env!("CARGO_BIN_NAME")))
}
