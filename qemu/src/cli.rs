//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bare::{Binary, HYPERVISOR};
use crate::disk::DiskArgument;
use crate::machine::MAX_CPUS;
use crate::record::Destination;
use crate::toolchain::Toolchain;
use crate::trace;

/// The tool's name, in usage lines and in front of errors.
pub const NAME: &str = "cloister";

/// Boots Cloister, an Arm EL2 hypervisor with protected guests, in QEMU.
///
/// Without a command it runs `boot`: it prepares the machine if necessary, builds, packs and boots the demo.
///
/// Exit status: 0 success; 1 a run or a check failed; 2 bad usage or input; 3 the machine is not
/// prepared and can't be; 4 a build failed; 124 the run outlasted --timeout.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The arguments of `boot`, if there is no command.
    #[command(flatten)]
    pub boot: BootArgs,
}

/// The default time limit of a run, in seconds.
const DEFAULT_SECONDS: u64 = 120;

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Boot the demo, or your own payload, in a protected VM
    Boot(BootArgs),
    /// Prepare this machine: install QEMU and a Rust that builds for bare metal
    Setup(SetupArgs),
    /// Measure costs
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Pack, list and verify boot images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Run clippy on the bare-metal crates, and deny warnings
    Check(CheckArgs),
}

/// The arguments of `boot`.
#[derive(Clone, Debug, Args)]
pub struct BootArgs {
    /// The payload, instead of the demo: a static ELF file, an arm64 Image or a flat binary
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,
    /// Boot arguments for the guest (/chosen/bootargs)
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// The payload's initial RAM disk
    #[arg(long, value_name = "FILE", requires = "payload")]
    pub initrd: Option<PathBuf>,
    /// The guest's disk. The demo works on a copy. Your own payload writes to the file itself, unless
    /// ",readonly" follows
    #[arg(long, value_name = "FILE[,readonly]", value_parser = DiskArgument::parse)]
    pub disk: Option<DiskArgument>,
    /// CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CPUS)))]
    pub cpus: u32,
    /// vCPUs of the guest
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(host::machine::MAX_VCPUS)))]
    pub smp: u32,
    /// Memory of the guest: bytes, or a number with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = parse_size)]
    pub mem: u64,
    /// Boot an ordinary VM: the host can reach its memory
    #[arg(long)]
    pub unprotected: bool,
    /// Boot a hypervisor that compares its tables with its owner map after every call and stops at the
    /// first difference. Slow
    #[arg(long)]
    pub oracle: bool,
    /// Boot a hypervisor with this seeded bug and the oracle, to see that the run finds it (`cargo seeded` lists
    /// the bugs)
    #[arg(long, value_name = "BUG", conflicts_with = "image", value_parser = parse_bug)]
    pub seeded: Option<String>,
    /// Wait for a debugger at the first instruction
    #[arg(long)]
    pub gdb: bool,
    /// End the run after this many seconds [default: 120; none with --gdb]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Boot this image without building, packing or verifying it
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["payload", "append", "initrd", "smp", "mem", "unprotected", "oracle"])]
    pub image: Option<PathBuf>,
    /// Boot a hypervisor that traces each CPU, and write its events to FILE. With --image, the image must have
    /// such a hypervisor
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Show all consoles while the machine runs
    #[arg(short, long)]
    pub verbose: bool,
    /// Write a JSON record to FILE, or else to standard output, which then has only the record
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub json: Option<Option<PathBuf>>,
    /// The Rust that builds for bare metal [default: the installed one]
    #[arg(long, value_name = "NAME")]
    pub toolchain: Option<Toolchain>,
}

/// The arguments of `setup`.
#[derive(Clone, Debug, Args)]
pub struct SetupArgs {
    /// The Rust that builds for bare metal [default: the installed one, else rustup, else debian]
    #[arg(long, value_name = "NAME")]
    pub toolchain: Option<Toolchain>,
    /// Check only, and install nothing
    #[arg(long)]
    pub check: bool,
    /// Write a JSON record to FILE, or else to standard output, which then has only the record
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub json: Option<Option<PathBuf>>,
}

/// The measurements.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Count the instructions of each primitive: hypercalls, sharing, first touch, exits
    Primitives(PrimitivesArgs),
}

/// The arguments of `bench primitives`.
#[derive(Clone, Debug, Args)]
pub struct PrimitivesArgs {
    /// Fail if a bar is missed
    #[arg(long)]
    pub check: bool,
    /// End the run after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Write a JSON record to FILE, or else to standard output, which then has only the record
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub json: Option<Option<PathBuf>>,
    /// The Rust that builds for bare metal [default: the installed one]
    #[arg(long, value_name = "NAME")]
    pub toolchain: Option<Toolchain>,
}

/// The commands for images.
#[derive(Clone, Debug, Subcommand)]
pub enum ImageCommand {
    /// Build hypervisor and host, and pack them into one image with the demo or with the given parts
    Pack(bootimg::cli::PartArgs),
    /// List the parts of an image
    List(bootimg::cli::ReadArgs),
    /// Check every byte of an image against its manifest
    Verify(bootimg::cli::ReadArgs),
}

/// The arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The Rust that builds for bare metal [default: the installed one]
    #[arg(long, value_name = "NAME")]
    pub toolchain: Option<Toolchain>,
}

impl BootArgs {
    /// The time limit of the run, in seconds; `None` for none.
    #[must_use]
    pub fn limit_seconds(&self) -> Option<u64> {
        self.timeout.or((!self.gdb).then_some(DEFAULT_SECONDS))
    }

    /// The words of the part `hypervisor-args`.
    #[must_use]
    pub fn hypervisor_args(&self) -> String {
        let trace = self.trace.as_ref().map(|_| trace::ARGUMENT.to_owned());
        let seeded = self.seeded.as_ref().map(|bug| format!("seeded={bug}"));
        [trace, seeded].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// The hypervisor to boot.
    #[must_use]
    pub const fn hypervisor(&self) -> Binary {
        let features: &[&str] = match (&self.seeded, self.oracle, &self.trace) {
            (Some(_), _, None) => &["seeded-bugs"],
            (Some(_), _, Some(_)) => &["seeded-bugs", "trace"],
            (None, true, None) => &["oracle"],
            (None, true, Some(_)) => &["oracle", "trace"],
            (None, false, Some(_)) => &["trace"],
            (None, false, None) => &[],
        };
        Binary { features, ..HYPERVISOR }
    }
}

/// A command that writes its record even if its arguments are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// `boot`, or no command.
    Boot,
    /// `setup`.
    Setup,
    /// `bench primitives`.
    Primitives,
}

/// Finds the record that unparsable arguments ask for: its command, and its destination.
#[must_use]
pub fn record_of_bad_usage(arguments: &[String]) -> Option<(Recorded, Destination)> {
    let recorded = match arguments.iter().find(|argument| !argument.starts_with('-')) {
        Some(command) if command == "setup" => Recorded::Setup,
        Some(command) if command == "bench" => Recorded::Primitives,
        Some(command) if ["image", "check", "help"].contains(&&command[..]) => return None,
        _ => Recorded::Boot,
    };
    let destination = arguments.iter().enumerate().find_map(|(index, argument)| {
        let file = match argument.strip_prefix("--json")? {
            "" => arguments.get(index + 1).filter(|next| !next.starts_with('-')).map(String::as_str),
            rest => Some(rest.strip_prefix('=')?),
        };
        Some(Destination::from_argument(Some(&file.map(PathBuf::from))))
    })?;
    Some((recorded, destination))
}

/// Reads the name of a seeded bug. The hypervisor checks that the bug exists.
fn parse_bug(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(
            "the name of a bug has letters and digits only: `cargo seeded` lists the names".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// Reads a size in bytes, with an optional binary unit: `134217728`, `128M`, `1G`.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const PAGE: u64 = shared_abi::addr::PAGE_SIZE;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..].to_ascii_uppercase()[..] {
        "" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        other => return Err(format!("unknown unit {other:?}: use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| "this is no number: give a size such as 128M".to_owned())?;
    let bytes =
        number.checked_mul(unit).ok_or_else(|| "the size is too large: give one below 16 EiB".to_owned())?;
    if bytes == 0 || !bytes.is_multiple_of(PAGE) {
        return Err(format!("the size is no multiple of {PAGE} bytes, a page: round it up"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(NAME).chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_boot() {
        let cli = parse("").unwrap();
        assert!(cli.command.is_none());
        assert_eq!((cli.boot.cpus, cli.boot.smp, cli.boot.mem), (4, 1, 128 << 20));
        assert_eq!(cli.boot.limit_seconds(), Some(120));
        let cli = parse("--cpus 2 --disk a,readonly").unwrap();
        assert_eq!(cli.boot.cpus, 2);
        assert!(cli.boot.disk.is_some());
    }

    #[test]
    fn boot_takes_what_the_contract_names() {
        let cli = parse(
            "boot --payload p --append a --initrd i --disk d --cpus 1 --smp 2 --mem 64M \
             --unprotected --gdb --json out.json --trace t",
        )
        .unwrap();
        let Some(Command::Boot(boot)) = cli.command else {
            panic!("not boot");
        };
        assert_eq!(boot.json, Some(Some("out.json".into())));
        assert_eq!(boot.limit_seconds(), None);
        assert_eq!(parse("--json").unwrap().boot.json, Some(None));
        assert_eq!(parse("--gdb --timeout 9").unwrap().boot.limit_seconds(), Some(9));
    }

    #[test]
    fn the_hypervisor_has_what_was_asked_for_and_no_more() {
        for (line, features, arguments) in [
            ("", &[][..], ""),
            ("--trace t", &["trace"], "trace=on"),
            ("--oracle", &["oracle"], ""),
            ("--oracle --trace t", &["oracle", "trace"], "trace=on"),
            ("--seeded B", &["seeded-bugs"], "seeded=B"),
            ("--seeded B --oracle --trace t", &["seeded-bugs", "trace"], "trace=on seeded=B"),
        ] {
            let boot = parse(line).unwrap().boot;
            assert_eq!(boot.hypervisor(), Binary { features, ..HYPERVISOR }, "{line}");
            assert_eq!(boot.hypervisor_args(), arguments, "{line}");
        }
    }

    #[test]
    fn bad_usage_is_status_2() {
        for line in [
            "--cpus 0",
            "--cpus 9",
            "--smp 0",
            "--mem 1",
            "--mem x",
            "--timeout 0",
            "--timeout soon",
            "--initrd i",
            "--image i --payload p",
            "frobnicate",
            "setup --toolchain nightly",
            "bench",
            "bench primitives --timeout 0",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn bad_usage_is_recorded_where_a_record_was_asked_for() {
        let wanted = |line: &str| {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            record_of_bad_usage(&arguments)
        };
        assert_eq!(wanted("--cpus 0"), None);
        assert_eq!(wanted("image frob --json"), None);
        assert_eq!(wanted("--json --cpus 0"), Some((Recorded::Boot, Destination::Stdout)));
        assert_eq!(
            wanted("boot --cpus 0 --json r.json"),
            Some((Recorded::Boot, Destination::File("r.json".into())))
        );
        assert_eq!(
            wanted("setup --frob --json=r.json"),
            Some((Recorded::Setup, Destination::File("r.json".into())))
        );
        assert_eq!(
            wanted("bench primitives --json --frob"),
            Some((Recorded::Primitives, Destination::Stdout))
        );
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("8k"), Ok(8192));
        assert_eq!(parse_size("128M"), Ok(128 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        for bad in ["", "M", "0", "100", "1T", "-1", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
