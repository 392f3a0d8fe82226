//! The physical GICv3, as the host uses it.
//!
//! EOImode is 1: an interrupt's priority is dropped when it has been taken, and it is deactivated
//! apart from that. So the virtual timer's interrupt can stay active until the guest deactivates it
//! through its list register, and does not fire again before.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicError, GicV3, SgiTarget, SgiTargetGroup};
use arm_gic::{IntId, InterruptGroup};
use arm_sysregs::el1::accessors::{write_icc_ctlr_el1, write_icc_dir_el1};
use arm_sysregs::el1::registers::{IccCtlrEl1, IccDirEl1};
use bare_rt::el1::cpu;
use bare_rt::el1::lock::IrqLock;
use safe_mmio::{UniqueMmioPointer, field};
use shared_abi::vcpu::VIRTUAL_TIMER_INTID;

use super::platform::{MAX_CPUS, Platform};
use super::{cpus, devices, timer};

/// The SGI that makes a CPU look around: it ends WFI and a vCPU's run.
const KICK: IntId = IntId::sgi(0);
/// Interrupts of every priority are taken.
const LOWEST_PRIORITY: u8 = 0xff;
/// The virtual timer's bit in GICR_ISACTIVER0 and GICR_ICACTIVER0.
const VIRTUAL_TIMER_BIT: u32 = 1 << VIRTUAL_TIMER_INTID;

static GIC: IrqLock<Option<GicV3<'static>>> = IrqLock::new(None);
/// INTID of the physical timer.
static PHYSICAL_TIMER: AtomicU64 = AtomicU64::new(0);
/// Affinities of the CPUs, by the host's numbers.
static AFFINITIES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Each CPU's own part of the GIC, by the host's numbers.
static PRIVATE: [Private; MAX_CPUS] = [const { Private::new() }; MAX_CPUS];

/// What one CPU has of its own; only that CPU changes it once it runs.
struct Private {
    /// The address of its redistributor.
    redistributor: AtomicU64,
    /// Whether the virtual timer's interrupt may be active on it. It becomes active by what the host
    /// does alone: if the host has not done so since it made it inactive, it still is.
    timer_may_be_active: AtomicBool,
}

impl Private {
    /// Of a CPU about which nothing is known.
    const fn new() -> Self {
        Self { redistributor: AtomicU64::new(0), timer_may_be_active: AtomicBool::new(true) }
    }

    #[cold]
    fn set_virtual_timer_active(&self, active: bool) {
        let address = self.redistributor.load(Ordering::Relaxed);
        let Some(registers) =
            NonNull::new(core::ptr::with_exposed_provenance_mut::<GicrSgi>(address as usize))
        else {
            return;
        };
        self.timer_may_be_active.store(active, Ordering::Relaxed);
        // SAFETY: `init` stored the address of this CPU's mapped redistributor; of its registers only
        // these two are used, which act on the bits that are written as ones and which nothing else uses.
        let mut registers = unsafe { UniqueMmioPointer::new(registers) };
        let mut private = field!(registers, sgi);
        let mut bank = if active { field!(private, isactiver) } else { field!(private, icactiver) };
        if let Some(mut register) = bank.get(0) {
            register.write(VIRTUAL_TIMER_BIT);
        }
        cpu::dsb_sy();
    }
}

/// Why the GIC can't be used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    /// The driver's reason.
    Gic(GicError),
    /// A CPU has no redistributor.
    NoRedistributor(u64),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Gic(error) => write!(f, "GIC: {error}"),
            Self::NoRedistributor(affinity) => {
                write!(f, "GIC: CPU {affinity:#x} has no redistributor")
            }
        }
    }
}

impl From<GicError> for Error {
    fn from(error: GicError) -> Self {
        Self::Gic(error)
    }
}

/// Sets up the distributor, and the redistributors of all CPUs.
///
/// # Errors
///
/// What is wrong with it.
///
/// # Safety
///
/// Called once, by the boot CPU, with the GIC's registers mapped as a device for good.
pub(crate) unsafe fn init(platform: &Platform) -> Result<(), Error> {
    let missing = Error::NoRedistributor(0);
    let distributor =
        NonNull::new(core::ptr::with_exposed_provenance_mut::<Gicd>(platform.distributor.start as usize))
            .ok_or(missing)?;
    let first = NonNull::new(core::ptr::with_exposed_provenance_mut::<GicrSgi>(
        platform.redistributors.start as usize,
    ))
    .ok_or(missing)?;
    // SAFETY: the caller calls this once, with the distributor mapped as a device for good.
    let distributor = unsafe { UniqueMmioPointer::new(distributor) };
    // SAFETY: the caller calls this once, with all redistributors mapped as devices for good. The only alias
    // is in `set_virtual_timer_active`, to two registers that the driver does not use.
    let mut gic = unsafe { GicV3::new(distributor, first, platform.cpus.len())? };
    gic.setup(0);
    for (number, affinity) in platform.cpus.iter().enumerate() {
        AFFINITIES[number].store(*affinity, Ordering::Relaxed);
        let index = redistributor_of(&mut gic, *affinity, platform.cpus.len())?;
        // GICv4 redistributors have two frames more (IHI 0069, 12.10): their stride is twice as big.
        let frames = if gic.gicr_typer(index)?.virtual_lpis_supported() { 2 } else { 1 };
        let address = platform.redistributors.start + (index * frames * size_of::<GicrSgi>()) as u64;
        PRIVATE[number].redistributor.store(address, Ordering::Relaxed);
    }
    PHYSICAL_TIMER.store(platform.physical_timer.into(), Ordering::Relaxed);
    *GIC.lock() = Some(gic);
    Ok(())
}

/// The position of a CPU's redistributor among all of them.
fn redistributor_of(gic: &mut GicV3<'_>, affinity: u64, cpus: usize) -> Result<usize, Error> {
    for index in 0..cpus {
        if gic.gicr_typer(index)?.core_mpidr() == affinity {
            return Ok(index);
        }
    }
    Err(Error::NoRedistributor(affinity))
}

/// Lets this CPU have its interrupts: kicks, the host's tick, and the virtual timer's.
///
/// # Errors
///
/// What is wrong with the GIC.
pub(crate) fn init_cpu(number: usize) -> Result<(), Error> {
    let affinity = AFFINITIES[number].load(Ordering::Relaxed);
    let missing = Error::NoRedistributor(affinity);
    let timer = physical_timer().ok_or(missing)?;
    let virtual_timer = IntId::try_from(VIRTUAL_TIMER_INTID).map_err(|_| missing)?;
    let mut guard = GIC.lock();
    let gic = guard.as_mut().ok_or(missing)?;
    let index = redistributor_of(gic, affinity, cpus::present())?;
    gic.init_cpu(index);
    for intid in [KICK, timer, virtual_timer] {
        gic.enable_interrupt(intid, Some(index), true)?;
    }
    write_icc_ctlr_el1(IccCtlrEl1::EOIMODE);
    GicCpuInterface::set_priority_mask(LOWEST_PRIORITY);
    GicCpuInterface::enable_group1(true);
    Ok(())
}

fn physical_timer() -> Option<IntId> {
    let raw = u32::try_from(PHYSICAL_TIMER.load(Ordering::Relaxed)).ok()?;
    IntId::try_from(raw).ok()
}

/// Enables a device's interrupt, level triggered, and sends it to the boot CPU.
///
/// # Errors
///
/// It is no such interrupt.
pub(crate) fn enable_device(intid: u32) -> Result<(), Error> {
    let mut guard = GIC.lock();
    let gic = guard.as_mut().ok_or(Error::NoRedistributor(0))?;
    let intid = IntId::try_from(intid).map_err(|_| GicError::InvalidGicdIntid(KICK))?;
    let boot_cpu = AFFINITIES[0].load(Ordering::Relaxed);
    gic.distributor().set_routing(intid, Some(boot_cpu))?;
    gic.enable_interrupt(intid, None, true)?;
    Ok(())
}

/// Makes another CPU (or this one) look around.
pub(crate) fn kick(number: usize) {
    let [aff0, aff1, aff2, _, aff3, ..] = AFFINITIES[number].load(Ordering::Relaxed).to_le_bytes();
    let target = SgiTarget::List {
        affinity3: aff3,
        affinity2: aff2,
        affinity1: aff1,
        target_list: 1 << (aff0 & 0xf), // `Platform::parse` refuses a greater one
    };
    cpu::dsb_sy(); // what the CPU is to see is written
    // An SGI is what `KICK` is, so that there is nothing to refuse.
    let _ = GicCpuInterface::send_sgi(KICK, target, SgiTargetGroup::CurrentGroup1);
}

/// Takes every interrupt that is pending for this CPU.
#[inline]
pub(crate) fn drain() {
    while let Some(intid) = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1) {
        handle(intid);
    }
}

/// Handles an interrupt that was acknowledged, and ends it.
#[cold]
#[inline(never)] // most exits are for another reason: they ask, and find none
fn handle(intid: IntId) {
    let raw = u32::from(intid);
    let keep_active = raw == VIRTUAL_TIMER_INTID;
    if keep_active {
        PRIVATE[cpus::current()].timer_may_be_active.store(true, Ordering::Relaxed);
    } else if Some(intid) == physical_timer() {
        timer::arm(None);
    } else if intid.is_spi() {
        devices::acknowledge(raw);
    }
    GicCpuInterface::end_interrupt(intid, InterruptGroup::Group1);
    if !keep_active {
        write_icc_dir_el1(IccDirEl1::empty().with_intid(raw));
    }
}

/// Makes the virtual timer's interrupt active or inactive on this CPU.
///
/// Active: a vCPU that is about to run has it in a list register, and it must not fire again until the
/// guest has dealt with it. Inactive: it may fire.
#[inline]
pub(crate) fn set_virtual_timer_active(active: bool) {
    let this = &PRIVATE[cpus::current()];
    // The guest deactivates it unseen, so that what was active may have to be made so again.
    if active || this.timer_may_be_active.load(Ordering::Relaxed) {
        this.set_virtual_timer_active(active);
    }
}
