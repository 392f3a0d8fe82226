//! Target: the registers of the guest's devices: virtio-mmio, PL011 and GICv3.
//!
//! The input accesses any register in any width at any time. The target checks:
//!
//! * A read has no side effect, and its value is no wider than the access.
//! * A virtio device serves a queue only after a valid negotiation, and never after it failed the driver.
//! * The hypervisor accepts the list registers, and they name each interrupt at most once.
//! * No interrupt is lost or invented between an entry and an exit.

use host::machine::Spi;
use host::pl011::Pl011;
use host::vgic::{Frame, Vgic};
use host::virtio::mmio::{Event, Registers};
use host::virtio::{block, console, feature};
use shared_abi::host_call::VcpuIndex;
use shared_abi::vcpu::{AccessSize, InterruptState, LIST_REGISTERS, ListRegister};

use crate::input::Input;

/// Runs the target on an input: steps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut virtio = [
        Virtio::new(console::DEVICE_ID, 0, console::QUEUES, Vec::new()),
        Virtio::new(block::DEVICE_ID, 0x224, block::QUEUES, vec![7; 16]),
    ];
    let mut uart = Pl011::new();
    let mut gic = Gic(Vgic::new(VCPUS));
    while !input.is_empty() {
        match input.u8() % 8 {
            0 => {
                let device = &mut virtio[usize::from(input.u8() % 2)];
                let (offset, size) = place(&mut input);
                device.write(offset, size, value(&mut input) & size.mask());
            }
            1 => {
                let device = &mut virtio[usize::from(input.u8() % 2)];
                let (offset, size) = place(&mut input);
                device.read(offset, size);
            }
            2 => {
                let (offset, size) = place(&mut input);
                let written = value(&mut input) & size.mask();
                let sent = uart.write(offset, written);
                assert!(sent.is_none_or(|byte| u64::from(byte) == written & 0xff));
                let read = uart.read(offset, size);
                assert_eq!(read & !size.mask(), 0);
            }
            3 => {
                let frame = frame(&mut input);
                let (offset, size) = place(&mut input);
                gic.0.write(frame, offset, size, value(&mut input) & size.mask());
            }
            4 => {
                let frame = frame(&mut input);
                let (offset, size) = place(&mut input);
                let read = gic.0.read(frame, offset, size);
                assert_eq!(read & !size.mask(), 0);
                assert_eq!(gic.0.read(frame, offset, size), read, "a read changed it");
            }
            5 => {
                let spi = Spi(u32::from(input.u8()));
                match input.u8() % 3 {
                    0 => gic.0.pulse(spi),
                    line => gic.0.set_line(spi, line == 1),
                }
            }
            6 => gic.run(&mut input),
            _ => {
                let vcpu = VcpuIndex(u32::from(input.u8()) % (VCPUS + 1));
                match input.u8() % 2 {
                    0 => gic.0.send_sgi(vcpu, input.u64()),
                    _ => gic.0.expire_timer(vcpu),
                }
            }
        }
    }
}

/// Reads an access: an offset in a frame of 64 KiB and a size. The access stays in a page and may be unaligned.
fn place(input: &mut Input<'_>) -> (u64, AccessSize) {
    let size = 1 << (input.u8() % 4);
    let offset = u64::from(input.u16());
    // The hypervisor never passes on an access that crosses a page boundary.
    let offset = if offset % 4096 + size > 4096 { offset & !7 } else { offset };
    let size = AccessSize::from_bytes(size).expect("a power of two up to 8");
    (offset, size)
}

fn value(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        0xff => u64::MAX,
        0xfe => input.u64(),
        0xfd => input.u32().into(),
        small => small.into(),
    }
}

const VCPUS: u32 = 2;

fn frame(input: &mut Input<'_>) -> Frame {
    let byte = input.u8();
    // One vCPU more than exist.
    let vcpu = VcpuIndex(u32::from(byte >> 4) % (VCPUS + 1));
    match byte & 3 {
        0 => Frame::Redistributor(vcpu),
        1 => Frame::Private(vcpu),
        _ => Frame::Distributor,
    }
}

/// The registers of virtio-mmio (virtio 1.3, 4.2.2) that this target checks.
mod register {
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_READY: u64 = 0x44;
}

/// Bits of the Status register.
mod status {
    pub(super) const DRIVER_OK: u64 = 4;
    pub(super) const FEATURES_OK: u64 = 8;
    pub(super) const NEEDS_RESET: u64 = 64;
}

/// A virtio device's registers, and the state of its negotiation.
struct Virtio {
    registers: Registers,
    queues: usize,
    offered: u64,
    selected: u64,
    driver: u64,
}

impl Virtio {
    fn new(device: u32, features: u64, queues: usize, config: Vec<u8>) -> Self {
        Self {
            registers: Registers::new(device, features, queues, config),
            queues,
            offered: features | feature::REQUIRED,
            selected: 0,
            driver: 0,
        }
    }

    fn status(&self) -> u64 {
        self.registers.read(register::STATUS, AccessSize::Word)
    }

    fn read(&self, offset: u64, size: AccessSize) {
        let value = self.registers.read(offset, size);
        assert_eq!(value & !size.mask(), 0);
        assert_eq!(self.registers.read(offset, size), value);
    }

    fn write(&mut self, offset: u64, size: AccessSize, value: u64) {
        let before = self.status();
        let event = self.registers.write(offset, size, value);
        let after = self.status();
        if size == AccessSize::Word {
            self.follow(offset, value, before);
        }
        if after & status::FEATURES_OK != 0 {
            assert_eq!(self.driver & !self.offered, 0, "a feature never offered");
            assert_eq!(self.driver & feature::REQUIRED, feature::REQUIRED);
        }
        assert!(
            after & status::DRIVER_OK == 0 || after & status::FEATURES_OK != 0,
            "it runs with nothing negotiated"
        );
        if before & status::NEEDS_RESET != 0 {
            let reset = offset == register::STATUS && size == AccessSize::Word && value == 0;
            assert!(after & status::NEEDS_RESET != 0 || reset);
        }
        for queue in 0..self.queues + 1 {
            let served = self.registers.queue(queue).is_some();
            assert!(!served || (queue < self.queues && self.runs()));
        }
        match event {
            Event::None => {}
            Event::Doorbell(queue) => {
                assert!(self.runs() && self.registers.queue(queue).is_some());
            }
            Event::Interrupt => {
                assert!(after & status::NEEDS_RESET != 0);
                let ready = self.registers.read(register::QUEUE_READY, AccessSize::Word);
                assert_eq!(ready, 0, "a queue that makes no sense is ready");
            }
        }
    }

    fn runs(&self) -> bool {
        self.status() & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    /// Follows the driver's side of the negotiation.
    fn follow(&mut self, offset: u64, value: u64, before: u64) {
        match offset {
            register::STATUS if value == 0 => (self.selected, self.driver) = (0, 0),
            register::DRIVER_FEATURES_SEL => self.selected = value,
            register::DRIVER_FEATURES if before & status::FEATURES_OK == 0 => match self.selected {
                0 => self.driver = self.driver & !0xffff_ffff | value,
                1 => self.driver = self.driver & 0xffff_ffff | value << 32,
                _ => {}
            },
            _ => {}
        }
    }
}

/// Offsets of GICD_ISPENDR and GICD_ISACTIVER (IHI 0069).
const ISPENDR: u64 = 0x200;
const ISACTIVER: u64 = 0x300;
/// The words that have bits for the implemented SPIs.
const SPI_WORDS: std::ops::Range<u64> = 1..3;

struct Gic(Vgic);

impl Gic {
    /// Reads the pending and active interrupts, as a vCPU would.
    fn state(&mut self) -> Vec<u64> {
        let mut words = Vec::new();
        for base in [ISPENDR, ISACTIVER] {
            for vcpu in 0..VCPUS {
                let frame = Frame::Private(VcpuIndex(vcpu));
                words.push(self.0.read(frame, base, AccessSize::Word));
            }
            for word in SPI_WORDS {
                words.push(self.0.read(Frame::Distributor, base + 4 * word, AccessSize::Word));
            }
        }
        words
    }

    /// Runs all vCPUs at once. The guest takes and ends interrupts as the input says.
    fn run(&mut self, input: &mut Input<'_>) {
        let choices = input.u16();
        let timer_fired = choices & 1 != 0;
        let quiet = choices & 2 != 0;
        let vcpus = [VcpuIndex(0), VcpuIndex(1)];
        // Set the timers' lines first, so that a run without instructions changes nothing.
        for vcpu in vcpus {
            self.0.fold(vcpu, &[ListRegister::EMPTY; LIST_REGISTERS], timer_fired);
        }
        let before = self.state();
        let expected = vcpus.map(|vcpu| self.0.has_pending(vcpu));
        let mut loaded = vcpus.map(|vcpu| self.0.load(vcpu));

        let mut names = Vec::new();
        for (vcpu, (registers, expected)) in loaded.iter().zip(expected).enumerate() {
            let mut pending = false;
            for register in registers.iter() {
                assert_eq!(register.check(), Ok(()), "the hypervisor refuses it");
                if register.state() == InterruptState::Inactive {
                    continue;
                }
                pending |= register.state() != InterruptState::Active;
                // SGIs and PPIs are private to each vCPU.
                let name = match register.intid() {
                    own @ 0..32 => (vcpu, own),
                    shared => (usize::MAX, shared),
                };
                assert!(!names.contains(&name), "interrupt {name:?} is loaded twice");
                names.push(name);
            }
            let full = registers.iter().all(|register| register.state() != InterruptState::Inactive);
            assert!(pending || full || !expected, "vCPU {vcpu} misses an interrupt");
        }

        if !quiet {
            for (choice, register) in loaded.iter_mut().flatten().enumerate() {
                *register = advance(*register, choices >> (2 + choice) & 1 != 0);
            }
        }
        for (vcpu, registers) in vcpus.iter().zip(&loaded) {
            self.0.fold(*vcpu, registers, timer_fired);
        }
        let after = self.state();
        if quiet {
            assert_eq!(after, before, "a run of no instruction changed an interrupt");
        } else {
            let half = before.len() / 2;
            for (new, old) in after[..half].iter().zip(&before[..half]) {
                assert_eq!(new & !old, 0, "an interrupt became pending by itself");
            }
        }
    }
}

/// Advances an interrupt as a guest would: takes it or ends it.
fn advance(register: ListRegister, act: bool) -> ListRegister {
    let state = match (register.state(), act) {
        (InterruptState::Pending, true) => InterruptState::Active,
        (InterruptState::Active, true) => InterruptState::Inactive,
        (InterruptState::PendingActive, true) => InterruptState::Pending,
        (state, _) => state,
    };
    register.with_state(state)
}

/// The bytes of a seed's steps.
#[derive(Default)]
struct Steps(Vec<u8>);

impl Steps {
    fn word(mut self, step: [u8; 2], offset: u16, value: u32) -> Self {
        self.0.extend(step);
        self.0.push(2);
        self.0.extend(offset.to_le_bytes());
        self.0.push(0xfd);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn virtio(self, device: u8, offset: u16, value: u32) -> Self {
        self.word([0, device], offset, value)
    }

    fn distributor(self, offset: u16, value: u32) -> Self {
        self.word([3, 2], offset, value)
    }

    fn private(self, vcpu: u8, offset: u16, value: u32) -> Self {
        self.word([3, vcpu << 4 | 1], offset, value)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A driver that sets up a device as the specification says (virtio 1.3, 3.1.1).
    fn negotiate(self, device: u8) -> Self {
        self.virtio(device, 0x70, 1)
            .virtio(device, 0x70, 3)
            .virtio(device, 0x24, 1)
            .virtio(device, 0x20, 3)
            .virtio(device, 0x70, 11)
    }

    fn queue(self, device: u8, size: u32) -> Self {
        self.virtio(device, 0x30, 0)
            .virtio(device, 0x38, size)
            .virtio(device, 0x80, 0x4000_0000)
            .virtio(device, 0x90, 0x4000_1000)
            .virtio(device, 0xa0, 0x4000_2000)
            .virtio(device, 0x44, 1)
    }
}

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let new = Steps::default;
    let ready = |size| new().negotiate(1).queue(1, size).virtio(1, 0x70, 15).virtio(1, 0x50, 0);
    let gic = || new().distributor(0, 0x12);
    let spi =
        || gic().distributor(0x84, u32::MAX).distributor(0x104, u32::MAX).distributor(0xc08, 0xaaaa_aaaa);
    vec![
        ("virtio", ready(8).0),
        ("virtio-size-0", ready(0).0),
        ("virtio-size-3", ready(3).0),
        ("virtio-size-0x10000", ready(0x1_0000).0),
        ("virtio-reset", ready(8).virtio(1, 0x70, 0).virtio(1, 0x50, 0).0),
        ("virtio-config", new().bytes(&[1, 1, 3, 0, 1, 1, 1, 0, 0xff, 0x0f]).0),
        ("uart", new().bytes(&[2, 0, 0, 0, b'a', 2, 1, 0x38, 0, 0x20]).0),
        ("spi", spi().bytes(&[5, 3, 0, 6, 0xfc, 0xff, 6, 0xfc, 0xff]).0),
        ("spi-quiet", spi().bytes(&[5, 3, 0, 6, 2, 0]).0),
        ("timer", gic().private(1, 0x100, 1 << 27).bytes(&[7, 1, 1, 6, 5, 0, 6, 7, 0]).0),
        (
            "sgi",
            gic()
                .private(0, 0x100, 0xffff)
                .private(1, 0x100, 0xffff)
                .bytes(&[7, 0, 0, 3, 0, 0, 5, 0, 0, 0, 0])
                .bytes(&[6, 2, 0, 6, 0xfc, 0xff])
                .0,
        ),
        ("level", gic().distributor(0x104, 1).bytes(&[5, 0, 1, 6, 4, 0, 5, 0, 2, 6, 4, 0]).0),
    ]
}
