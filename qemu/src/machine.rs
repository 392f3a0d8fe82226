//! The machine that QEMU makes, as data: its size and its command line.
//!
//! Every file has a fixed name in QEMU's working directory, which is private to the run: no path of
//! the user's, with whatever characters, reaches QEMU's option parser, and socket names stay short.

use std::fmt;

use crate::setup::QEMU;

/// The boot image, in the run's directory.
pub const IMAGE_FILE: &str = "cloister.img";
/// The disk, in the run's directory.
pub const DISK_FILE: &str = "disk.img";
/// Where a debugger connects with `--gdb`.
pub const GDB_PORT: u16 = 1234;

/// Where the machine's RAM starts (hw/arm/virt.c of QEMU) and how far above that `-kernel` puts an
/// Image (hw/arm/boot.c): only `--gdb` needs it, to tell a debugger where the symbols are.
pub const IMAGE_ADDRESS: u64 = 0x4020_0000;

/// CPUs that the machine may have.
pub const MAX_CPUS: u32 = 8;

const MIB: u64 = 1 << 20;
/// Memory for the host itself: its heap, its tables, its buffers.
const HOST_BYTES: u64 = 96 * MIB;
/// The machine has at least this: QEMU puts its device tree 128 MiB into RAM, or behind a bigger image.
const MIN_BYTES: u64 = 512 * MIB;
/// The machine's memory is a multiple of this.
const STEP_BYTES: u64 = 64 * MIB;

/// The machine's memory in bytes, for a guest and an image of these sizes.
#[must_use]
pub const fn memory_bytes(guest_bytes: u64, image_bytes: u64) -> u64 {
    // The image twice: what it holds of the guest is copied before it is donated.
    let wanted = guest_bytes.saturating_add(HOST_BYTES).saturating_add(image_bytes.saturating_mul(2));
    let wanted = if wanted < MIN_BYTES { MIN_BYTES } else { wanted };
    wanted.saturating_add(STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES
}

/// A console of the machine: whose words it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Console {
    /// The first PL011.
    Host,
    /// The second PL011.
    Hypervisor,
    /// The virtio console that the host drives; it carries the guest's bytes.
    Guest,
}

impl Console {
    /// All of them, in the order in which QEMU is told.
    pub const ALL: [Self; 3] = [Self::Host, Self::Hypervisor, Self::Guest];

    /// Its name, which is also its chardev's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Hypervisor => "hypervisor",
            Self::Guest => "guest",
        }
    }

    /// Its socket, in the run's directory.
    #[must_use]
    pub fn socket(self) -> String {
        format!("{}.sock", self.name())
    }
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the guest may write its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskMode {
    /// It may.
    ReadWrite,
    /// It may not, and neither may the host.
    ReadOnly,
}

/// What the machine's time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// That of the machine it runs on.
    Wall,
    /// The instructions that it has executed: a tick of CNTVCT_EL0 is one. The same boot takes the
    /// same time, each time.
    Instructions,
}

impl Clock {
    /// `-icount` of [`Self::Instructions`]: 2^0 ns an instruction, and no waiting for time to pass.
    pub const ICOUNT: &str = "shift=0,sleep=off";
    /// CNTFRQ_EL0 of [`Self::Instructions`]: 1 ns a tick.
    pub const FREQUENCY_HZ: u64 = 1_000_000_000;
}

/// The CPU's model.
pub const CPU: &str = "cortex-a76";

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QemuMachine {
    /// CPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// RAM in bytes; a multiple of 1 MiB.
    pub memory_bytes: u64,
    /// The disk, if there is one.
    pub disk: Option<DiskMode>,
    /// Whether it waits for a debugger at its first instruction.
    pub debugger: bool,
    /// What its time is.
    pub clock: Clock,
}

impl QemuMachine {
    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        /// Without `iommu_platform`, QEMU's virtio-pci goes around the SMMU.
        const VIRTIO: &str = "iommu_platform=on,disable-legacy=on";

        let mut line = Line::default();
        line.flag("-nodefaults");
        self.clocked(&mut line);
        line.option("-smp", self.cpus.to_string())
            .option("-m", format!("{}M", self.memory_bytes / MIB))
            .option("-display", "none")
            .flag("-no-reboot")
            .option("-kernel", IMAGE_FILE);
        for console in Console::ALL {
            line.option("-chardev", format!("socket,id={console},path={}", console.socket()));
        }
        line.option("-serial", format!("chardev:{}", Console::Host))
            .option("-serial", format!("chardev:{}", Console::Hypervisor))
            .option("-device", format!("virtio-serial-pci,{VIRTIO}"))
            .option("-device", format!("virtconsole,chardev={}", Console::Guest));
        if let Some(mode) = self.disk {
            let read_only = if mode == DiskMode::ReadOnly { "on" } else { "off" };
            line.option(
                "-blockdev",
                format!("driver=file,node-name=file,filename={DISK_FILE},read-only={read_only}"),
            )
            .option("-blockdev", format!("driver=raw,node-name=disk,file=file,read-only={read_only}"))
            .option("-device", format!("virtio-blk-pci,drive=disk,{VIRTIO}"));
        }
        if self.debugger {
            line.flag("-S").option("-gdb", format!("tcp:127.0.0.1:{GDB_PORT}"));
        }
        line.0
    }

    /// The board, the emulator and the CPU, which the clock has a say in.
    fn clocked(&self, line: &mut Line) {
        const BOARD: &str = "virt,virtualization=on,gic-version=3,iommu=smmuv3,its=off";
        match self.clock {
            Clock::Wall => line.option("-machine", BOARD).option("-accel", "tcg").option("-cpu", CPU),
            Clock::Instructions => line
                .option("-machine", format!("{BOARD},dtb-randomness=off"))
                .option("-accel", "tcg,thread=single")
                .option("-icount", Clock::ICOUNT)
                .option("-cpu", format!("{CPU},cntfrq={}", Clock::FREQUENCY_HZ))
                .option("-rtc", "base=2026-01-01,clock=vm")
                .option("-seed", "1"),
        };
    }

    /// The whole command, as one could type it in the run's directory.
    #[must_use]
    pub fn command_line(&self) -> String {
        format!("{QEMU} {}", self.arguments().join(" "))
    }
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.push(name.to_owned());
        self.0.push(value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: QemuMachine = QemuMachine {
        cpus: 4,
        memory_bytes: 512 * MIB,
        disk: Some(DiskMode::ReadWrite),
        debugger: false,
        clock: Clock::Wall,
    };

    fn values(arguments: &[String], option: &str) -> Vec<String> {
        arguments.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn the_machine_is_the_one_that_the_design_names() {
        let arguments = PLAIN.arguments();
        assert!(arguments.contains(&"-nodefaults".to_owned()));
        assert!(arguments.contains(&"-no-reboot".to_owned()));
        assert_eq!(
            values(&arguments, "-machine"),
            ["virt,virtualization=on,gic-version=3,iommu=smmuv3,its=off"]
        );
        assert_eq!(values(&arguments, "-cpu"), ["cortex-a76"]);
        assert_eq!(values(&arguments, "-accel"), ["tcg"]);
        assert_eq!(values(&arguments, "-smp"), ["4"]);
        assert_eq!(values(&arguments, "-m"), ["512M"]);
        assert_eq!(values(&arguments, "-display"), ["none"]);
        assert_eq!(values(&arguments, "-serial"), ["chardev:host", "chardev:hypervisor"]);
    }

    #[test]
    fn a_machine_that_counts_instructions_leaves_nothing_to_chance() {
        let counting = QemuMachine { clock: Clock::Instructions, ..PLAIN };
        let arguments = counting.arguments();
        assert_eq!(values(&arguments, "-icount"), ["shift=0,sleep=off"]);
        assert_eq!(values(&arguments, "-accel"), ["tcg,thread=single"]);
        assert_eq!(values(&arguments, "-cpu"), ["cortex-a76,cntfrq=1000000000"]);
        assert!(values(&arguments, "-machine")[0].ends_with(",dtb-randomness=off"));
        assert!(values(&PLAIN.arguments(), "-icount").is_empty());
    }

    #[test]
    fn every_virtio_device_goes_through_the_smmu() {
        let devices = values(&PLAIN.arguments(), "-device");
        let pci: Vec<_> = devices.iter().filter(|d| d.contains("-pci")).collect();
        assert_eq!(pci.len(), 2);
        for device in pci {
            assert!(device.contains("iommu_platform=on") && device.contains("disable-legacy=on"), "{device}");
        }
    }

    #[test]
    fn there_is_neither_semihosting_nor_a_network_nor_a_monitor() {
        let text = PLAIN.command_line();
        for word in ["semihosting", "net", "nic", "monitor", "qmp", "fw_cfg"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }

    #[test]
    fn the_disk_is_there_when_asked_for_and_as_asked_for() {
        let none = QemuMachine { disk: None, ..PLAIN };
        assert!(values(&none.arguments(), "-blockdev").is_empty());
        let read_only = QemuMachine { disk: Some(DiskMode::ReadOnly), ..PLAIN };
        for node in values(&read_only.arguments(), "-blockdev") {
            assert!(node.contains("read-only=on"), "{node}");
        }
        for node in values(&PLAIN.arguments(), "-blockdev") {
            assert!(node.contains("read-only=off"), "{node}");
        }
    }

    #[test]
    fn a_debugger_is_waited_for_on_this_machine_only() {
        assert!(!PLAIN.arguments().contains(&"-S".to_owned()));
        let debugged = QemuMachine { debugger: true, ..PLAIN };
        assert!(debugged.arguments().contains(&"-S".to_owned()));
        assert_eq!(values(&debugged.arguments(), "-gdb"), ["tcp:127.0.0.1:1234"]);
    }

    #[test]
    fn memory_follows_from_guest_and_image() {
        assert_eq!(memory_bytes(128 * MIB, 4 * MIB), 512 * MIB);
        assert_eq!(memory_bytes(1024 * MIB, 4 * MIB), 1152 * MIB);
        assert!(memory_bytes(128 * MIB, 300 * MIB) >= (128 + 96 + 600) * MIB);
    }
}
