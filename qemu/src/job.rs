//! What a boot consists of: its private directory with image and disk, the machine, and what the boot
//! is held to.

use std::fs;
use std::path::Path;

use bootimg::flat::FlatImage;
use bootimg::measure::LaunchMeasurement;
use bootimg::pack::{Input, PackError, pack};
use bootimg::{Image, Kind as PartKind, file};
use host::config::{Disk, GuestKind, HostConfig};
use host::layout::{GuestConfig, GuestLayout};
use shared_abi::record::Digest;
use tempfile::TempDir;

use crate::bare::{Binary, DEMO, HOST, HYPERVISOR};
use crate::cli::BootArgs;
use crate::directory;
use crate::disk::{self, DemoDisk, DiskArgument};
use crate::failure::{Failure, Kind, Result};
use crate::machine::{self, Clock, DiskMode, IMAGE_FILE, QemuMachine};
use crate::story::{Expected, ExpectedDisk};
use crate::toolchain::Toolchain;
use crate::trace;
use crate::ui::Ui;

/// A boot that can start.
pub struct Job {
    /// Where QEMU runs; it goes with the job.
    pub directory: TempDir,
    /// The machine.
    pub machine: QemuMachine,
    /// What the boot is held to.
    pub expected: Expected,
    /// The demo's disk.
    pub demo_disk: Option<DemoDisk>,
    /// Where the host is in memory, for a debugger; `None` if the image does not tell.
    pub host_address: Option<u64>,
}

/// The guest's part of an image.
pub struct GuestParts {
    /// The payload file.
    pub payload: Vec<u8>,
    /// The initial RAM disk; empty for none.
    pub initrd: Vec<u8>,
    /// Boot arguments; empty for none.
    pub bootargs: String,
    /// What the host is told.
    pub config: HostConfig,
    /// Whether the payload was built from this workspace, so that its measurement is packed.
    pub ours: bool,
}

impl GuestParts {
    /// The demo and the plan of its disk.
    ///
    /// # Errors
    ///
    /// Those of a build.
    pub fn demo(
        config: HostConfig,
        plan: Vec<u8>,
        bootargs: &str,
        toolchain: Toolchain,
        ui: Ui,
    ) -> Result<Self> {
        Ok(Self { initrd: plan, bootargs: bootargs.to_owned(), ..Self::ours(DEMO, config, toolchain, ui)? })
    }

    /// A payload of this workspace, by itself.
    ///
    /// # Errors
    ///
    /// Those of a build.
    pub fn ours(payload: Binary, config: HostConfig, toolchain: Toolchain, ui: Ui) -> Result<Self> {
        let elf = payload.build(toolchain, ui)?;
        let image = FlatImage::new(&elf)
            .map_err(|error| Failure::system(format_args!("{} is no arm64 Image", payload.name), error))?;
        Ok(Self {
            payload: image.bytes().to_vec(),
            initrd: Vec::new(),
            bootargs: String::new(),
            config,
            ours: true,
        })
    }

    /// Sees that there is such a guest, and foretells its launch measurement.
    ///
    /// # Errors
    ///
    /// What the payload is instead, or what does not fit.
    pub fn measure(&self) -> Result<Digest> {
        let devices: Vec<_> = self.config.virtio_devices().collect();
        let layout = GuestLayout::new(&GuestConfig {
            vcpus: self.config.vcpus,
            memory_bytes: self.config.memory_bytes,
            devices: &devices,
            bootargs: &self.bootargs,
            payload: &self.payload,
            initrd: &self.initrd,
        })
        .map_err(|error| Failure::usage(error.to_string()))?;
        let mut measurement = LaunchMeasurement::new();
        for gfn in layout.pages() {
            measurement.page(gfn, &layout.content(gfn));
        }
        Ok(measurement.finish(layout.entry, layout.device_tree.0))
    }

    /// Builds hypervisor and host and packs them with the guest and arguments for the hypervisor; the
    /// image, and the measurement in it.
    ///
    /// # Errors
    ///
    /// A failed build, or what does not fit.
    pub fn pack(&self, toolchain: Toolchain, ui: Ui) -> Result<(Vec<u8>, Option<Digest>)> {
        self.pack_with(HYPERVISOR, "", toolchain, ui)
    }

    /// The same with a hypervisor of the caller's choice, and arguments for it.
    ///
    /// # Errors
    ///
    /// As [`Self::pack`].
    pub fn pack_with(
        &self,
        hypervisor: Binary,
        hypervisor_args: &str,
        toolchain: Toolchain,
        ui: Ui,
    ) -> Result<(Vec<u8>, Option<Digest>)> {
        let hypervisor = hypervisor.build(toolchain, ui)?;
        let host = HOST.build(toolchain, ui)?;
        let measurement = if self.ours && self.config.protected { Some(self.measure()?) } else { None };
        let host_args = self.config.to_string();
        let image = pack(&Input {
            hypervisor: &hypervisor,
            host: &host,
            payload: Some(&self.payload),
            initrd: (!self.initrd.is_empty()).then_some(&self.initrd),
            host_args: &host_args,
            guest_args: &self.bootargs,
            hypervisor_args,
            measurement,
        })
        .map_err(|error| {
            let kind = match error {
                // What is wrong with the binaries that were just built is nobody's input.
                PackError::Hypervisor(_) | PackError::HypervisorEnd(_) | PackError::Host(_) => Kind::Build,
                PackError::Image(_) => Kind::Usage,
            };
            Failure::new(kind, format!("can't pack the image: {error}"))
        })?;
        Ok((image, measurement))
    }
}

impl Job {
    /// Makes everything that the boot needs: builds, packs, and prepares the disk.
    ///
    /// # Errors
    ///
    /// Bad input, or a failed build.
    pub fn new(args: &BootArgs, toolchain: impl FnOnce() -> Result<Toolchain>, ui: Ui) -> Result<Self> {
        let directory = directory::private()?;
        if let Some(image) = &args.image {
            return Self::from_image(image, args, directory);
        }
        match &args.payload {
            None => Self::from_demo(args, directory, toolchain, ui),
            Some(payload) => {
                // Bad input is told before anything is built.
                let guest = foreign(payload, args)?;
                guest.measure()?;
                if let Some(disk) = &args.disk {
                    disk::link(disk, directory.path())?;
                }
                Self::from_parts(args, directory, &guest, None, toolchain()?, ui)
            }
        }
    }

    fn from_demo(
        args: &BootArgs,
        directory: TempDir,
        toolchain: impl FnOnce() -> Result<Toolchain>,
        ui: Ui,
    ) -> Result<Self> {
        let disk = DemoDisk::new(args.disk.as_ref(), directory.path())?;
        let toolchain = toolchain()?;
        let config = HostConfig {
            vcpus: args.smp,
            memory_bytes: args.mem,
            protected: !args.unprotected,
            // An ordinary VM's memory is the host's: reaching it is no attack.
            attack: !args.unprotected,
            disk: disk_config(Some(disk.mode)),
            kind: GuestKind::Demo,
        };
        let bootargs = args.append.as_deref().unwrap_or_default();
        let guest = GuestParts::demo(config, disk.plan.clone(), bootargs, toolchain, ui)?;
        Self::from_parts(args, directory, &guest, Some(disk), toolchain, ui)
    }

    fn from_parts(
        args: &BootArgs,
        directory: TempDir,
        guest: &GuestParts,
        demo_disk: Option<DemoDisk>,
        toolchain: Toolchain,
        ui: Ui,
    ) -> Result<Self> {
        let (image, measurement) =
            guest.pack_with(args.hypervisor(), &args.hypervisor_args(), toolchain, ui)?;
        Self::assemble(args, directory, &image, guest.config, demo_disk, measurement)
    }

    /// A job for an image that was packed before: it says itself what the boot is to be.
    fn from_image(path: &Path, args: &BootArgs, directory: TempDir) -> Result<Self> {
        let image = fs::read(path).map_err(|error| Failure::input(path, error))?;
        if image.is_empty() {
            return Err(Failure::input(path, "the image is an empty file: pack it again"));
        }
        // It may be damaged, which is for the hypervisor to find; then it is held to nothing but that.
        let parsed = file::parse(&image).ok();
        if args.trace.is_some() && !parsed.as_ref().is_some_and(|parsed| trace::is_in(parsed, &image)) {
            return Err(Failure::input(
                path,
                "the hypervisor in this image has no trace: pack the image with --hypervisor-args trace=on, \
                 or leave out --trace",
            ));
        }
        let config: HostConfig = parsed
            .as_ref()
            .and_then(|image| image.text(PartKind::HostArgs)?.parse().ok())
            .unwrap_or_default();
        let measurement = parsed.as_ref().and_then(Image::measurement);
        let demo_disk = match (config.kind, config.disk, &args.disk) {
            (GuestKind::Demo, Disk::ReadOnly, Some(disk)) => {
                let disk = DiskArgument { mode: DiskMode::ReadOnly, ..disk.clone() };
                Some(DemoDisk::new(Some(&disk), directory.path())?)
            }
            (GuestKind::Demo, Disk::ReadWrite, disk) => Some(DemoDisk::new(disk.as_ref(), directory.path())?),
            (_, Disk::ReadWrite | Disk::ReadOnly, None) => {
                return Err(Failure::usage("the guest of this image needs a disk: give it with --disk"));
            }
            (_, _, Some(disk)) => {
                disk::link(disk, directory.path())?;
                None
            }
            (_, Disk::None, None) => None,
        };
        Self::assemble(args, directory, &image, config, demo_disk, measurement)
    }

    fn assemble(
        args: &BootArgs,
        directory: TempDir,
        image: &[u8],
        config: HostConfig,
        demo_disk: Option<DemoDisk>,
        measurement: Option<Digest>,
    ) -> Result<Self> {
        fs::write(directory.path().join(IMAGE_FILE), image)
            .map_err(|error| Failure::system("can't write the image to the temporary directory", error))?;
        let parsed = file::parse(image).ok();
        let image_bytes = parsed.as_ref().map_or(image.len() as u64, |image| image.manifest().memory_bytes());
        let disk = match (&demo_disk, &args.disk) {
            (Some(disk), _) => Some(disk.mode),
            (None, Some(argument)) => Some(argument.mode),
            (None, None) => None,
        };
        Ok(Self {
            machine: QemuMachine {
                cpus: args.cpus,
                memory_bytes: machine::memory_bytes(config.memory_bytes, image_bytes),
                disk,
                debugger: args.gdb,
                clock: Clock::Wall,
            },
            expected: Expected {
                cpus: args.cpus,
                vcpus: config.vcpus,
                memory_bytes: config.memory_bytes,
                protected: config.protected,
                measurement,
                oracle: args.oracle || args.seeded.is_some(),
                demo: demo_disk.as_ref().map(|disk| ExpectedDisk {
                    blocks: disk.blocks(),
                    write_bytes: disk.write_bytes(),
                    mode: disk.mode,
                    expected: disk.expected,
                    file: None,
                }),
            },
            demo_disk,
            host_address: parsed.map(|image| machine::IMAGE_ADDRESS + image.manifest().host().memory().start),
            directory,
        })
    }
}

/// The parts of a guest from elsewhere.
fn foreign(payload: &Path, args: &BootArgs) -> Result<GuestParts> {
    let read = |path: &Path| {
        let metadata = fs::metadata(path).map_err(|error| Failure::input(path, error))?;
        if !metadata.is_file() {
            return Err(Failure::input(path, "this is no regular file: give a file"));
        }
        if metadata.len() > args.mem {
            return Err(Failure::input(
                path,
                format!(
                    "the file has {} bytes, more than the guest's memory of {}: give it more with --mem",
                    metadata.len(),
                    args.mem
                ),
            ));
        }
        fs::read(path).map_err(|error| Failure::input(path, error))
    };
    let guest = GuestParts {
        payload: read(payload)?,
        initrd: args.initrd.as_deref().map(read).transpose()?.unwrap_or_default(),
        bootargs: args.append.clone().unwrap_or_default(),
        config: HostConfig {
            vcpus: args.smp,
            memory_bytes: args.mem,
            protected: !args.unprotected,
            attack: false,
            disk: disk_config(args.disk.as_ref().map(|disk| disk.mode)),
            kind: GuestKind::Foreign,
        },
        ours: false,
    };
    if let Some(initrd) = args.initrd.as_ref().filter(|_| guest.initrd.is_empty()) {
        return Err(Failure::input(initrd, "the initrd is an empty file: leave out --initrd"));
    }
    Ok(guest)
}

/// What the host is told about the disk.
#[must_use]
pub fn disk_config(mode: Option<DiskMode>) -> Disk {
    match mode {
        None => Disk::None,
        Some(DiskMode::ReadWrite) => Disk::ReadWrite,
        Some(DiskMode::ReadOnly) => Disk::ReadOnly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(payload: &[u8]) -> GuestParts {
        GuestParts {
            payload: payload.to_vec(),
            initrd: Vec::new(),
            bootargs: String::new(),
            config: HostConfig::default(),
            ours: false,
        }
    }

    #[test]
    fn the_measurement_covers_all_that_the_guest_starts_with() {
        let reference = guest(b"payload").measure().unwrap();
        assert_eq!(guest(b"payload").measure().unwrap(), reference);
        let mut others = vec![guest(b"Payload"), guest(b"payload"), guest(b"payload")];
        others[1].initrd = b"plan".to_vec();
        others[2].bootargs = "quiet".into();
        for other in others {
            assert_ne!(other.measure().unwrap(), reference);
        }
    }

    #[test]
    fn files_that_are_no_payloads_are_bad_input() {
        for file in [&b""[..], b"\x1f\x8b\x08", b"MZ\0\0zimg", b"\x7fELF"] {
            let failure = guest(file).measure().unwrap_err();
            assert_eq!(failure.kind.status(), 2, "{failure}");
        }
    }

    #[test]
    fn a_payload_file_is_looked_at_before_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("payload");
        fs::write(&file, vec![1; 3 << 20]).unwrap();
        let mut args = <crate::cli::Cli as clap::Parser>::parse_from([crate::cli::NAME]).boot;
        args.mem = 2 << 20;
        let failure = foreign(&file, &args).err().unwrap();
        assert!(failure.message.contains("more than the guest's memory"));
        assert!(foreign(&directory.path().join("missing"), &args).is_err());
        assert!(foreign(directory.path(), &args).is_err());
        args.mem = 128 << 20;
        assert!(foreign(&file, &args).is_ok());
    }
}
