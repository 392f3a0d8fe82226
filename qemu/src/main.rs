//! `cargo run`: prepares the machine, builds, packs and boots Cloister in QEMU.

use std::process::ExitCode;

fn main() -> ExitCode {
    qemu::main()
}
