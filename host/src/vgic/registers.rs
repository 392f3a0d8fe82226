//! The memory-mapped registers: GICD (IHI 0069, 12.9) and GICR (12.11), with affinity routing on and one
//! security state.

use shared_abi::host_call::VcpuIndex;
use shared_abi::vcpu::AccessSize;

use super::interrupt::Interrupt;
use super::{PRIVATE, Restless, SPIS, Vgic};
use crate::machine::Spi;

/// GICD_CTLR.EnableGrp0 with one security state.
const ENABLE_GROUP_0: u32 = 1 << 0;
/// GICD_CTLR.EnableGrp1 with one security state.
pub(super) const ENABLE_GROUP_1: u32 = 1 << 1;
/// GICD_CTLR.ARE: affinity routing, always on.
const AFFINITY_ROUTING: u32 = 1 << 4;
/// GICD_CTLR.DS: one security state, always.
const ONE_SECURITY_STATE: u32 = 1 << 6;

/// GICD_TYPER: ITLinesNumber, IDbits (10 bits of INTID), No1N.
const GICD_TYPER: u32 = ((PRIVATE + SPIS) / 32 - 1) as u32 | 9 << 19 | 1 << 25;
/// GICD_IIDR and GICR_IIDR: ProductID only; no JEP106 code is ours.
const IIDR: u32 = (b'C' as u32) << 24;
/// GICD_PIDR2 and GICR_PIDR2: ArchRev = GICv3, JEDEC as Arm's implementations have it.
const PIDR2: u32 = 0x3b;
/// GICR_WAKER.ProcessorSleep and .ChildrenAsleep.
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;
/// GICR_TYPER.Last.
const LAST: u32 = 1 << 4;
/// GICD_IROUTER.Interrupt_Routing_Mode: any vCPU will do.
const ROUTE_TO_ANY: u64 = 1 << 31;
/// The priority bits that exist: 5, as on the reference CPU's virtual interface.
const PRIORITY_MASK: u8 = 0xf8;

/// Offsets of registers.
mod offset {
    pub(super) const CTLR: u64 = 0x0000;
    pub(super) const GICD_TYPER: u64 = 0x0004;
    pub(super) const GICD_IIDR: u64 = 0x0008;
    pub(super) const GICR_IIDR: u64 = 0x0004;
    pub(super) const GICR_TYPER: u64 = 0x0008;
    pub(super) const GICR_TYPER_HIGH: u64 = 0x000c;
    pub(super) const GICR_WAKER: u64 = 0x0014;
    pub(super) const IPRIORITYR: u64 = 0x0400;
    pub(super) const IPRIORITYR_END: u64 = 0x0800;
    pub(super) const ICFGR: u64 = 0x0c00;
    pub(super) const ICFGR_END: u64 = 0x0d00;
    pub(super) const IROUTER: u64 = 0x6000;
    pub(super) const IROUTER_END: u64 = 0x8000;
    pub(super) const PIDR2: u64 = 0xffe8;
}

/// A frame of registers, 64 KiB each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// GICD.
    Distributor,
    /// GICR RD_base of a vCPU.
    Redistributor(VcpuIndex),
    /// GICR SGI_base of a vCPU.
    Private(VcpuIndex),
}

/// The registers with a bit for each interrupt, in the order in which they lie, 0x80 bytes each.
#[derive(Clone, Copy)]
enum Bits {
    Group,
    Enable,
    Pending,
    Active,
}

/// What a write of 1 to such a register does.
#[derive(Clone, Copy)]
enum Effect {
    /// The bit takes the written value.
    Assign,
    /// 1 sets, 0 does nothing.
    Set,
    /// 1 clears, 0 does nothing.
    Clear,
}

/// The register at `offset` if it has a bit for each interrupt, and its first INTID.
fn bits(offset: u64) -> Option<(Bits, Effect, usize)> {
    let (bits, effect) = match offset / 0x80 {
        1 => (Bits::Group, Effect::Assign),
        2 => (Bits::Enable, Effect::Set),
        3 => (Bits::Enable, Effect::Clear),
        4 => (Bits::Pending, Effect::Set),
        5 => (Bits::Pending, Effect::Clear),
        6 => (Bits::Active, Effect::Set),
        7 => (Bits::Active, Effect::Clear),
        _ => return None,
    };
    Some((bits, effect, index(offset % 0x80) * 8))
}

impl Interrupt {
    fn bit(&self, bits: Bits) -> bool {
        match bits {
            Bits::Group => self.group_1,
            Bits::Enable => self.enabled,
            Bits::Pending => self.pending(),
            Bits::Active => self.active_on.is_some(),
        }
    }

    fn set_bit(&mut self, bits: Bits, value: bool) {
        match bits {
            Bits::Group => self.group_1 = value,
            Bits::Enable => self.enabled = value,
            Bits::Pending => self.latch = value,
            Bits::Active => self.active_on = value.then_some(self.target).flatten(),
        }
    }
}

/// The interrupts that a frame is about, beginning with INTID `first`.
struct Bank<'a> {
    interrupts: &'a mut [Interrupt],
    restless: &'a mut Restless,
    first: usize,
    /// Whether the trigger can be changed: that of SPIs.
    configurable: bool,
}

impl Bank<'_> {
    fn get(&self, intid: usize) -> Option<&Interrupt> {
        self.interrupts.get(intid.checked_sub(self.first)?)
    }

    /// The interrupt, to be changed: it is looked at from now on.
    fn get_mut(&mut self, intid: usize) -> Option<&mut Interrupt> {
        let number = intid.checked_sub(self.first)?;
        let interrupt = self.interrupts.get_mut(number)?;
        self.restless.add(number);
        Some(interrupt)
    }

    /// Reads the aligned word at `offset`, 0 for what is not there.
    fn read(&self, offset: u64) -> u32 {
        let collect = |per_word: usize, first: usize, field: &dyn Fn(&Interrupt) -> u32| {
            let width = 32 / per_word;
            (0..per_word)
                .filter_map(|n| Some(field(self.get(first + n)?) << (n * width)))
                .fold(0, |word, field| word | field)
        };
        if let Some((bits, _, first)) = bits(offset) {
            collect(32, first, &|interrupt| interrupt.bit(bits).into())
        } else if (offset::IPRIORITYR..offset::IPRIORITYR_END).contains(&offset) {
            let first = index(offset - offset::IPRIORITYR);
            collect(4, first, &|interrupt| interrupt.priority.into())
        } else if (offset::ICFGR..offset::ICFGR_END).contains(&offset) {
            let first = index(offset - offset::ICFGR) * 4;
            collect(16, first, &|interrupt| u32::from(interrupt.edge) << 1)
        } else {
            0
        }
    }

    /// Writes the bytes in `lanes` of the aligned word at `offset`; what is not there ignores it.
    fn write(&mut self, offset: u64, value: u32, lanes: u32) {
        if let Some((bits, effect, first)) = bits(offset) {
            for n in (0..32).filter(|n| lanes & (1 << n) != 0) {
                let one = value & (1 << n) != 0;
                if let Some(interrupt) = self.get_mut(first + n) {
                    match effect {
                        Effect::Assign => interrupt.set_bit(bits, one),
                        Effect::Set if one => interrupt.set_bit(bits, true),
                        Effect::Clear if one => interrupt.set_bit(bits, false),
                        Effect::Set | Effect::Clear => {}
                    }
                }
            }
        } else if (offset::IPRIORITYR..offset::IPRIORITYR_END).contains(&offset) {
            let bytes = value.to_le_bytes().into_iter().zip(lanes.to_le_bytes());
            for (n, (priority, lane)) in bytes.enumerate() {
                let intid = index(offset - offset::IPRIORITYR) + n;
                if lane != 0
                    && let Some(interrupt) = self.get_mut(intid)
                {
                    interrupt.priority = priority & PRIORITY_MASK;
                }
            }
        } else if (offset::ICFGR..offset::ICFGR_END).contains(&offset) && self.configurable {
            for n in (0..16).filter(|n| lanes & (2 << (2 * n)) != 0) {
                let intid = index(offset - offset::ICFGR) * 4 + n;
                if let Some(interrupt) = self.get_mut(intid) {
                    interrupt.edge = value & (2 << (2 * n)) != 0;
                }
            }
        }
    }
}

impl Vgic {
    /// Reads `size` bytes at `offset` of a frame. Registers that do not exist, and vCPUs that do not,
    /// read as zero.
    pub fn read(&mut self, frame: Frame, offset: u64, size: AccessSize) -> u64 {
        let word = offset & !3;
        let low = u64::from(self.read_word(frame, word));
        let value = match size {
            AccessSize::Double => low | u64::from(self.read_word(frame, word + 4)) << 32,
            _ => low >> (8 * (offset & 3)),
        };
        value & size.mask()
    }

    /// Writes `size` bytes at `offset` of a frame. Registers that do not exist ignore it.
    pub fn write(&mut self, frame: Frame, offset: u64, size: AccessSize, value: u64) {
        let word = offset & !3;
        let shift = match size {
            AccessSize::Double => 0,
            _ => 8 * (offset & 3),
        };
        let (value, lanes) = (value << shift, size.mask() << shift);
        self.write_word(frame, word, low(value), low(lanes));
        if size == AccessSize::Double {
            self.write_word(frame, word + 4, low(value >> 32), low(lanes >> 32));
        }
    }

    fn read_word(&mut self, frame: Frame, offset: u64) -> u32 {
        match (frame, offset) {
            (_, offset::PIDR2) => PIDR2,
            (Frame::Distributor, offset::CTLR) => self.control | AFFINITY_ROUTING | ONE_SECURITY_STATE,
            (Frame::Distributor, offset::GICD_TYPER) => GICD_TYPER,
            (Frame::Distributor, offset::GICD_IIDR) | (Frame::Redistributor(_), offset::GICR_IIDR) => IIDR,
            (Frame::Distributor, offset::IROUTER..offset::IROUTER_END) => {
                let (spi, shift) = route_of(offset);
                let route = spi.and_then(|spi| self.routes.get(spi));
                route.map_or(0, |route| low(*route >> shift))
            }
            (Frame::Redistributor(vcpu), offset::GICR_TYPER) => {
                let last = vcpu.0 as usize + 1 == self.cpus.len();
                vcpu.0 << 8 | if last { LAST } else { 0 }
            }
            (Frame::Redistributor(vcpu), offset::GICR_TYPER_HIGH) => vcpu.0,
            (Frame::Redistributor(vcpu), offset::GICR_WAKER) => match self.cpus.get(vcpu.0 as usize) {
                Some(cpu) if cpu.asleep => PROCESSOR_SLEEP | CHILDREN_ASLEEP,
                _ => 0,
            },
            (Frame::Redistributor(_), _) => 0,
            (Frame::Distributor | Frame::Private(_), _) => {
                self.bank(frame).map_or(0, |bank| bank.read(offset))
            }
        }
    }

    fn write_word(&mut self, frame: Frame, offset: u64, value: u32, lanes: u32) {
        match (frame, offset) {
            (Frame::Distributor, offset::CTLR) => {
                self.control = merge(self.control, value, lanes) & (ENABLE_GROUP_0 | ENABLE_GROUP_1);
            }
            (Frame::Distributor, offset::IROUTER..offset::IROUTER_END) => {
                let (spi, shift) = route_of(offset);
                let vcpus = self.cpus.len() as u64;
                if let Some(spi) = spi
                    && let (Some(route), Some(interrupt)) = (self.routes.get_mut(spi), self.spis.get_mut(spi))
                {
                    let half = merge(low(*route >> shift), value, lanes);
                    *route = *route & !(0xffff_ffff << shift) | u64::from(half) << shift;
                    interrupt.target = target(*route, vcpus);
                }
            }
            (Frame::Redistributor(vcpu), offset::GICR_WAKER) => {
                if let Some(cpu) = self.cpus.get_mut(vcpu.0 as usize)
                    && lanes & PROCESSOR_SLEEP != 0
                {
                    cpu.asleep = value & PROCESSOR_SLEEP != 0;
                }
            }
            (Frame::Redistributor(_), _) => {}
            (Frame::Distributor | Frame::Private(_), _) => {
                if let Some(mut bank) = self.bank(frame) {
                    bank.write(offset, value, lanes);
                }
            }
        }
    }

    fn bank(&mut self, frame: Frame) -> Option<Bank<'_>> {
        match frame {
            Frame::Distributor => Some(Bank {
                interrupts: &mut self.spis,
                restless: &mut self.restless,
                first: Spi::FIRST_INTID as usize,
                configurable: true,
            }),
            Frame::Private(vcpu) => {
                let cpu = self.cpus.get_mut(vcpu.0 as usize)?;
                Some(Bank {
                    interrupts: &mut cpu.private,
                    restless: &mut cpu.restless,
                    first: 0,
                    configurable: false,
                })
            }
            Frame::Redistributor(_) => None,
        }
    }
}

/// The SPI whose GICD_IROUTER has a word at `offset`, and how far that word is shifted.
fn route_of(offset: u64) -> (Option<usize>, u64) {
    let intid = index((offset - offset::IROUTER) / 8);
    let spi = intid.checked_sub(Spi::FIRST_INTID as usize);
    (spi, (offset & 4) * 8)
}

/// The vCPU that a route leads to, if there is one.
fn target(route: u64, vcpus: u64) -> Option<u32> {
    let affinity = route & !ROUTE_TO_ANY;
    if route & ROUTE_TO_ANY != 0 { Some(0) } else { (affinity < vcpus).then_some(low(affinity)) }
}

fn merge(old: u32, new: u32, lanes: u32) -> u32 {
    old & !lanes | new & lanes
}

#[expect(clippy::cast_possible_truncation, reason = "the low word is meant")]
const fn low(value: u64) -> u32 {
    value as u32
}

#[expect(clippy::cast_possible_truncation, reason = "offsets are below 64 KiB")]
const fn index(offset: u64) -> usize {
    offset as usize
}
