//! `image`: packs, lists and verifies boot images.

use std::fs;

use bootimg::cli::PartArgs;
use host::config::{GuestKind, HostConfig};

use crate::bare::{Binary, HOST, HYPERVISOR};
use crate::cli::{ImageCommand, NAME};
use crate::directory;
use crate::disk::DemoDisk;
use crate::failure::{Failure, Result};
use crate::job::{GuestParts, disk_config};
use crate::setup;
use crate::trace;
use crate::ui::Ui;

/// Runs the command and returns the exit status.
#[must_use]
pub fn run(command: &ImageCommand) -> u8 {
    match command {
        ImageCommand::List(args) => bootimg::cli::Command::List(args.clone()).run(NAME),
        ImageCommand::Verify(args) => bootimg::cli::Command::Verify(args.clone()).run(NAME),
        ImageCommand::Pack(args) => {
            let ui = Ui::new(args.json.json == Some(None));
            pack(args, ui).unwrap_or_else(|failure| {
                ui.error(&failure.message);
                failure.kind.status()
            })
        }
    }
}

fn pack(args: &PartArgs, ui: Ui) -> Result<u8> {
    let toolchain = setup::prepare_toolchain(None, ui)?;
    let traced = args.hypervisor_args.split_ascii_whitespace().any(|word| word == trace::ARGUMENT);
    let features: &[&str] = if traced { &["trace"] } else { &[] };
    let hypervisor = Binary { features, ..HYPERVISOR }.build(toolchain, ui)?;
    let host = HOST.build(toolchain, ui)?;
    if args.payload.is_some() {
        return Ok(args.run(NAME, &hypervisor, &host));
    }
    if args.initrd.is_some() || !args.host_args.is_empty() || args.measurement.is_some() {
        return Err(Failure::usage(
            "the demo has its own initrd, host arguments and measurement: give --payload, or leave out \
             --initrd, --host-args and --measurement",
        ));
    }
    // The demo as `boot` packs it, with a generated disk: that is the same each time.
    let directory = directory::private()?;
    let disk = DemoDisk::new(None, directory.path())?;
    let config = HostConfig {
        attack: true,
        disk: disk_config(Some(disk.mode)),
        kind: GuestKind::Demo,
        ..HostConfig::default()
    };
    let guest = GuestParts::demo(config, disk.plan, &args.guest_args, toolchain, ui)?;
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, content).map(|()| path).map_err(|error| {
            Failure::system("can't write a part of the image to the temporary directory", error)
        })
    };
    let args = PartArgs {
        payload: Some(file("payload", &guest.payload)?),
        initrd: Some(file("plan", &guest.initrd)?),
        host_args: config.to_string(),
        measurement: Some(guest.measure()?),
        ..args.clone()
    };
    Ok(args.run(NAME, &hypervisor, &host))
}
