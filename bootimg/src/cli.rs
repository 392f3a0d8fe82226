//! The `bootimg` tool's commands, for its own binary and for `cargo run -- image`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use shared_abi::record::Digest;

use crate::pack::{Input, PackError, pack};
use crate::{Error, Image, file};

/// Exit status: all is well.
pub const OK: u8 = 0;
/// Exit status: a check failed.
pub const FAILED: u8 = 1;
/// Exit status: bad usage or input.
pub const BAD_INPUT: u8 = 2;

/// The commands for an image.
#[derive(Clone, Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one command in a process")]
pub enum Command {
    /// Pack hypervisor, host and the guest's parts into one image
    Pack(PackArgs),
    /// List the parts of an image
    List(ReadArgs),
    /// Check every byte of an image against its manifest
    Verify(ReadArgs),
}

/// The arguments of `pack`.
#[derive(Clone, Debug, Args)]
pub struct PackArgs {
    /// The hypervisor: an ELF file or an arm64 Image
    #[arg(long, value_name = "FILE")]
    pub hypervisor: PathBuf,
    /// The host: an ELF file or an arm64 Image
    #[arg(long, value_name = "FILE")]
    pub host: PathBuf,
    /// The other parts.
    #[command(flatten)]
    pub parts: PartArgs,
}

/// The arguments of `pack` without the binaries, for a caller that builds those itself.
#[derive(Clone, Debug, Args)]
pub struct PartArgs {
    /// The guest's payload
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,
    /// The guest's initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Arguments for the host
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub host_args: String,
    /// Arguments for the guest (/chosen/bootargs)
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub guest_args: String,
    /// Arguments for the hypervisor, such as trace=on for one that has the trace
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub hypervisor_args: String,
    /// The launch measurement that the VM must have: 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = parse_digest)]
    pub measurement: Option<Digest>,
    /// The image to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The record.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// The arguments of `list` and `verify`.
#[derive(Clone, Debug, Args)]
pub struct ReadArgs {
    /// The image to read
    pub image: PathBuf,
    /// The record.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Where a record goes.
#[derive(Clone, Debug, Args)]
pub struct JsonArgs {
    /// Write a JSON record to FILE, or else to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub json: Option<Option<PathBuf>>,
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    let digits = || "a measurement has 64 hexadecimal digits: give all of them".to_owned();
    if text.len() != 64 || !text.is_ascii() {
        return Err(digits());
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| digits())?;
    }
    Ok(Digest(digest))
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("can't use the file {path}: {error}")]
    File { path: String, error: std::io::Error },
    #[error("{path}: {error}")]
    NoImage { path: String, error: Error },
    #[error("{path}: {error}. Pack the image again")]
    Corrupted { path: String, error: Error },
    #[error(transparent)]
    Pack(#[from] PackError),
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Self::Corrupted { .. } => FAILED,
            _ => BAD_INPUT,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::NoImage { error, .. } | Self::Corrupted { error, .. } => error.code(),
            Self::Pack(PackError::Image(error)) => error.code(),
            Self::Pack(PackError::Hypervisor(_) | PackError::HypervisorEnd(_)) => "hypervisor",
            Self::Pack(PackError::Host(_)) => "host",
        }
    }
}

/// The result of a command, for people and for programs.
struct Report {
    text: String,
    json: Value,
}

impl Command {
    /// Runs the command for `program`, prints the result, and returns the exit status.
    #[must_use]
    pub fn run(&self, program: &str) -> u8 {
        let (name, json, result) = match self {
            Self::Pack(args) => {
                let binaries =
                    read(&args.hypervisor).and_then(|hypervisor| Ok((hypervisor, read(&args.host)?)));
                let result = binaries.and_then(|(hypervisor, host)| args.parts.pack(&hypervisor, &host));
                ("image-pack", &args.parts.json, result)
            }
            Self::List(args) => ("image-list", &args.json, list(&args.image)),
            Self::Verify(args) => ("image-verify", &args.json, verify(&args.image)),
        };
        report(program, name, json, result)
    }
}

impl PartArgs {
    /// Packs these parts with a hypervisor and a host (ELF files or arm64 Images) for `program`, prints
    /// the result, and returns the exit status.
    #[must_use]
    pub fn run(&self, program: &str, hypervisor: &[u8], host: &[u8]) -> u8 {
        report(program, "image-pack", &self.json, self.pack(hypervisor, host))
    }

    fn pack(&self, hypervisor: &[u8], host: &[u8]) -> Result<Report, Failure> {
        let payload = self.payload.as_deref().map(read).transpose()?;
        let initrd = self.initrd.as_deref().map(read).transpose()?;
        let bytes = pack(&Input {
            hypervisor,
            host,
            payload: payload.as_deref(),
            initrd: initrd.as_deref(),
            host_args: &self.host_args,
            guest_args: &self.guest_args,
            hypervisor_args: &self.hypervisor_args,
            measurement: self.measurement,
        })?;
        file::write_by_rename(&self.output, &bytes).map_err(|error| file_failure(&self.output, error))?;
        describe(&self.output, &bytes, file::verify)
    }
}

fn list(path: &Path) -> Result<Report, Failure> {
    describe(path, &read(path)?, file::parse)
}

fn verify(path: &Path) -> Result<Report, Failure> {
    let bytes = read(path)?;
    let mut report = describe(path, &bytes, file::verify).map_err(|failure| match failure {
        Failure::NoImage { path, error } if error != Error::NoManifest => Failure::Corrupted { path, error },
        other => other,
    })?;
    report.text = format!("{}: every byte matches the manifest\n", path.display());
    Ok(report)
}

fn describe<'a>(
    path: &Path,
    bytes: &'a [u8],
    read: impl FnOnce(&'a [u8]) -> Result<Image<'a>, Error>,
) -> Result<Report, Failure> {
    let image = read(bytes).map_err(|error| Failure::NoImage { path: path.display().to_string(), error })?;
    Ok(Report { text: listing(&image), json: record(&image) })
}

/// The parts of an image as a table.
#[must_use]
pub fn listing(image: &Image<'_>) -> String {
    use std::fmt::Write as _;

    let manifest = image.manifest();
    let mut text = format!("{:<12} {:>10} {:>10} {:>10}  sha256\n", "part", "offset", "bytes", "memory");
    let mut row = |name: &str, offset: u64, bytes: u64, memory: u64, digest: Digest| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12} {offset:>#10x} {bytes:>10} {memory:>10}  {digest}");
    };
    let hypervisor = manifest.offset();
    row("hypervisor", 0, hypervisor, hypervisor, manifest.hypervisor_digest());
    for part in manifest.parts() {
        let (file, memory) = (part.file(), part.memory());
        row(part.kind().name(), file.start, file.end - file.start, memory.end - memory.start, part.digest());
    }
    let _ = writeln!(
        text,
        "{:<12} {:>10} {:>10} {:>10}",
        "total",
        "",
        manifest.file_bytes(),
        manifest.memory_bytes()
    );
    text
}

fn record(image: &Image<'_>) -> Value {
    let manifest = image.manifest();
    let parts: Vec<Value> = manifest
        .parts()
        .iter()
        .map(|part| {
            let (file, memory) = (part.file(), part.memory());
            json!({
                "kind": part.kind().name(),
                "offset": format!("{:#x}", file.start),
                "file_bytes": file.end - file.start,
                "memory_bytes": memory.end - memory.start,
                "sha256": part.digest().to_string(),
            })
        })
        .collect();
    json!({
        "file_bytes": manifest.file_bytes(),
        "memory_bytes": manifest.memory_bytes(),
        "hypervisor": {
            "memory_bytes": manifest.offset(),
            "sha256": manifest.hypervisor_digest().to_string(),
        },
        "parts": parts,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| file_failure(path, error))
}

fn file_failure(path: &Path, error: std::io::Error) -> Failure {
    Failure::File { path: path.display().to_string(), error }
}

/// Prints the result, and writes the record where it is wanted. An error names `program`.
fn report(program: &str, name: &str, json: &JsonArgs, result: Result<Report, Failure>) -> u8 {
    let mut status = result.as_ref().map_or_else(Failure::status, |_| OK);
    if let Err(failure) = &result {
        eprintln!("{program}: error: {failure}");
    }
    let Some(destination) = &json.json else {
        if let Ok(report) = &result {
            // Nobody is left to be told when standard output is closed.
            let _ = std::io::stdout().write_all(report.text.as_bytes());
        }
        return status;
    };
    let error = result
        .as_ref()
        .err()
        .map(|failure| json!({ "code": failure.code(), "message": failure.to_string() }));
    let record = json!({
        "schema": format!("cloister.{name}/1"),
        "ok": result.is_ok(),
        "error": error,
        "image": result.ok().map(|report| report.json),
    });
    let line = format!("{record}\n");
    match destination {
        None => {
            let _ = std::io::stdout().write_all(line.as_bytes());
        }
        Some(path) => {
            if let Err(error) = file::write_by_rename(path, line.as_bytes()) {
                eprintln!("{program}: error: {}: {error}", path.display());
                status = BAD_INPUT;
            }
        }
    }
    status
}
