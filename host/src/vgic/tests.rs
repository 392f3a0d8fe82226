use super::registers::Frame;
use super::*;
use shared_abi::vcpu::AccessSize;

const CPU0: VcpuIndex = VcpuIndex(0);
const CPU1: VcpuIndex = VcpuIndex(1);
const SPI: Spi = Spi(16);
const INTID: u32 = 48;

/// Offsets of registers that the tests touch (IHI 0069, 12.9 and 12.11).
mod offset {
    pub(super) const CTLR: u64 = 0x0;
    pub(super) const TYPER: u64 = 0x8;
    pub(super) const WAKER: u64 = 0x14;
    pub(super) const ISENABLER: u64 = 0x100;
    pub(super) const ICENABLER: u64 = 0x180;
    pub(super) const ISPENDR: u64 = 0x200;
    pub(super) const ICPENDR: u64 = 0x280;
    pub(super) const ISACTIVER: u64 = 0x300;
    pub(super) const ICACTIVER: u64 = 0x380;
    pub(super) const IPRIORITYR: u64 = 0x400;
    pub(super) const ICFGR: u64 = 0xc00;
    pub(super) const IROUTER: u64 = 0x6000;
    pub(super) const PIDR2: u64 = 0xffe8;
}

fn word(gic: &mut Vgic, frame: Frame, offset: u64, value: u64) {
    gic.write(frame, offset, AccessSize::Word, value);
}

/// Two vCPUs; all SGIs and PPIs, and SPIs 0 to 31 are enabled, the latter as edges to vCPU 0.
fn gic() -> Vgic {
    let mut gic = Vgic::new(2);
    word(&mut gic, Frame::Distributor, offset::CTLR, 0x13);
    word(&mut gic, Frame::Distributor, offset::ISENABLER + 4, 0xffff_ffff);
    for register in [8, 12] {
        word(&mut gic, Frame::Distributor, offset::ICFGR + register, 0xaaaa_aaaa);
    }
    for cpu in [CPU0, CPU1] {
        word(&mut gic, Frame::Private(cpu), offset::ISENABLER, 0xffff_ffff);
    }
    gic
}

fn intids(registers: &[ListRegister; LIST_REGISTERS]) -> Vec<u32> {
    registers
        .iter()
        .filter(|register| register.state() != InterruptState::Inactive)
        .map(|register| register.intid())
        .collect()
}

/// The guest takes the first interrupt.
fn take(registers: &mut [ListRegister; LIST_REGISTERS]) {
    registers[0] = registers[0].with_state(InterruptState::Active);
}

#[test]
fn an_edge_is_delivered_once() {
    let mut gic = gic();
    gic.pulse(SPI);
    assert!(gic.has_pending(CPU0));
    assert!(!gic.has_pending(CPU1));
    let mut registers = gic.load(CPU0);
    assert_eq!(intids(&registers), [INTID]);
    assert!(!gic.has_pending(CPU0));
    assert!(registers.iter().all(|register| register.check().is_ok()));

    take(&mut registers);
    gic.fold(CPU0, &registers, false);
    let registers = gic.load(CPU0);
    assert_eq!(registers[0].state(), InterruptState::Active);
    gic.fold(CPU0, &[ListRegister::EMPTY; LIST_REGISTERS], false);
    assert!(intids(&gic.load(CPU0)).is_empty());
}

#[test]
fn an_edge_that_comes_while_the_vcpu_runs_is_not_lost() {
    let mut gic = gic();
    gic.pulse(SPI);
    let mut registers = gic.load(CPU0);
    gic.pulse(SPI);
    take(&mut registers);
    gic.fold(CPU0, &registers, false);
    assert_eq!(gic.load(CPU0)[0].state(), InterruptState::PendingActive);
}

#[test]
fn a_level_follows_its_line() {
    let mut gic = gic();
    let level = Spi(40);
    word(&mut gic, Frame::Distributor, offset::ISENABLER + 8, 1 << 8);
    gic.set_line(level, true);
    let mut registers = gic.load(CPU0);
    assert_eq!(intids(&registers), [72]);
    take(&mut registers);
    gic.set_line(level, false);
    gic.fold(CPU0, &registers, false);
    assert_eq!(gic.load(CPU0)[0].state(), InterruptState::Active);
    gic.fold(CPU0, &[ListRegister::EMPTY; LIST_REGISTERS], false);
    gic.set_line(level, true);
    assert!(gic.has_pending(CPU0));
    gic.set_line(level, false);
    assert!(!gic.has_pending(CPU0));
}

#[test]
fn what_finds_no_list_register_waits() {
    let mut gic = gic();
    for spi in 0..6 {
        gic.pulse(Spi(spi));
        let priority = 0x80 - 8 * u64::from(spi);
        let at = offset::IPRIORITYR + 32 + u64::from(spi);
        gic.write(Frame::Distributor, at, AccessSize::Byte, priority);
    }
    let mut registers = gic.load(CPU0);
    assert_eq!(intids(&registers), [37, 36, 35, 34]);
    assert!(gic.has_pending(CPU0));
    take(&mut registers);
    registers[1] = ListRegister::EMPTY;
    gic.fold(CPU0, &registers, false);
    assert_eq!(intids(&gic.load(CPU0)), [37, 35, 34, 33]);
}

#[test]
fn the_timer_is_linked_to_hardware() {
    let mut gic = gic();
    gic.fold(CPU0, &[ListRegister::EMPTY; LIST_REGISTERS], true);
    assert!(gic.timer_line_active(CPU0));
    assert!(!gic.timer_line_active(CPU1));
    assert_eq!(gic.enter(CPU1), ([ListRegister::EMPTY; LIST_REGISTERS], false));
    let mut registers = gic.load(CPU0);
    assert_eq!(registers[0], ListRegister::virtual_timer(0));
    take(&mut registers);
    gic.fold(CPU0, &registers, true);
    let registers = gic.load(CPU0);
    assert_eq!(registers[0].state(), InterruptState::Active);
    assert!(registers[0].is_hardware());
    assert!(gic.timer_line_active(CPU0));
    gic.fold(CPU0, &[ListRegister::EMPTY; LIST_REGISTERS], false);
    assert!(!gic.timer_line_active(CPU0));
    assert!(intids(&gic.load(CPU0)).is_empty());
}

#[test]
fn a_timer_that_the_guest_stops_is_no_longer_pending() {
    let mut gic = gic();
    gic.expire_timer(CPU1);
    assert!(gic.has_pending(CPU1));
    let registers = gic.load(CPU1);
    gic.fold(CPU1, &registers, false);
    assert!(intids(&gic.load(CPU1)).is_empty());
}

#[test]
fn a_timer_interrupt_that_the_guest_does_not_take_stays_active_in_hardware() {
    let mut gic = gic();
    word(&mut gic, Frame::Private(CPU0), offset::ICENABLER, 1 << 27);
    gic.fold(CPU0, &[ListRegister::EMPTY; LIST_REGISTERS], true);
    assert!(intids(&gic.load(CPU0)).is_empty());
    assert!(gic.timer_line_active(CPU0));
}

#[test]
fn sgis_reach_whom_they_name() {
    let mut gic = gic();
    gic.send_sgi(CPU0, 5 << 24 | 0b10);
    assert!(gic.has_pending(CPU1));
    assert!(!gic.has_pending(CPU0));
    assert_eq!(intids(&gic.load(CPU1)), [5]);
    gic.send_sgi(CPU1, 1 << 40 | 6 << 24);
    assert_eq!(intids(&gic.load(CPU0)), [6]);
    for elsewhere in [1 << 16, 1 << 32, 1 << 44, 1 << 48] {
        let mut gic = self::gic();
        gic.send_sgi(CPU0, elsewhere | 0xffff);
        assert!(!gic.has_pending(CPU0) && !gic.has_pending(CPU1));
    }
}

#[test]
fn spis_go_where_they_are_routed() {
    let mut gic = gic();
    let router = offset::IROUTER + 8 * u64::from(INTID);
    gic.write(Frame::Distributor, router, AccessSize::Double, 1);
    assert_eq!(gic.read(Frame::Distributor, router, AccessSize::Double), 1);
    gic.pulse(SPI);
    assert!(gic.has_pending(CPU1) && !gic.has_pending(CPU0));
    gic.write(Frame::Distributor, router, AccessSize::Double, 1 << 32 | 1);
    assert!(!gic.has_pending(CPU1) && !gic.has_pending(CPU0));
    gic.write(Frame::Distributor, router, AccessSize::Double, 1 << 31);
    assert!(gic.has_pending(CPU0));
}

#[test]
fn nothing_is_delivered_that_is_disabled() {
    let mut gic = gic();
    gic.pulse(SPI);
    word(&mut gic, Frame::Distributor, offset::CTLR, 1);
    assert!(!gic.has_pending(CPU0));
    assert!(intids(&gic.load(CPU0)).is_empty());
    word(&mut gic, Frame::Distributor, offset::CTLR, 2);
    word(&mut gic, Frame::Distributor, offset::ICENABLER + 4, 1 << 16);
    assert!(!gic.has_pending(CPU0));
    word(&mut gic, Frame::Distributor, offset::ISENABLER + 4, 1 << 16);
    assert!(gic.has_pending(CPU0));
    word(&mut gic, Frame::Distributor, offset::ICPENDR + 4, 1 << 16);
    assert!(!gic.has_pending(CPU0));
}

#[test]
fn set_and_clear_registers_show_the_same_state() {
    let mut gic = Vgic::new(1);
    for (set, clear) in [
        (offset::ISENABLER, offset::ICENABLER),
        (offset::ISPENDR, offset::ICPENDR),
        (offset::ISACTIVER, offset::ICACTIVER),
    ] {
        for frame in [Frame::Distributor, Frame::Private(CPU0)] {
            let at = if frame == Frame::Distributor { 4 } else { 0 };
            word(&mut gic, frame, set + at, 0b101);
            assert_eq!(gic.read(frame, clear + at, AccessSize::Word), 0b101);
            word(&mut gic, frame, clear + at, 0b001);
            assert_eq!(gic.read(frame, set + at, AccessSize::Word), 0b100);
        }
    }
}

#[test]
fn a_driver_finds_what_it_looks_for() {
    let mut gic = Vgic::new(2);
    let mut read = |frame, offset, size| gic.read(frame, offset, size);
    for frame in [Frame::Distributor, Frame::Redistributor(CPU1)] {
        let pidr2 = read(frame, offset::PIDR2, AccessSize::Word);
        assert_eq!(pidr2 >> 4 & 0xf, 3);
    }
    assert_eq!(read(Frame::Redistributor(CPU0), offset::TYPER, AccessSize::Double), 0);
    assert_eq!(
        read(Frame::Redistributor(CPU1), offset::TYPER, AccessSize::Double),
        1 << 32 | 1 << 8 | 1 << 4
    );
    assert_eq!(read(Frame::Distributor, 4, AccessSize::Word) & 0x1f, 2);
    let waker = Frame::Redistributor(CPU0);
    assert_eq!(read(waker, offset::WAKER, AccessSize::Word), 0b110);
    word(&mut gic, waker, offset::WAKER, 0);
    assert_eq!(gic.read(waker, offset::WAKER, AccessSize::Word), 0);
}

#[test]
fn no_access_reaches_outside() {
    let mut gic = Vgic::new(1);
    for frame in [Frame::Distributor, Frame::Redistributor(CPU0), Frame::Private(CPU0), Frame::Private(CPU1)]
    {
        for offset in 0..0x1_0000 {
            for size in [AccessSize::Byte, AccessSize::Half, AccessSize::Word, AccessSize::Double] {
                gic.write(frame, offset, size, size.mask());
                gic.read(frame, offset, size);
            }
        }
    }
    assert!(gic.load(CPU0).iter().all(|register| register.check().is_ok()));
    assert_eq!(gic.load(VcpuIndex(7)), [ListRegister::EMPTY; LIST_REGISTERS]);
}

#[test]
fn a_level_that_is_pended_while_active_is_not_lost() {
    let mut gic = gic();
    // Level-sensitive, active, and pended by software; the group is off.
    word(&mut gic, Frame::Distributor, offset::ICFGR + 12, 0);
    word(&mut gic, Frame::Distributor, offset::ISACTIVER + 4, 1 << 16);
    word(&mut gic, Frame::Distributor, offset::ISPENDR + 4, 1 << 16);
    word(&mut gic, Frame::Distributor, offset::CTLR, 0x10);

    let registers = gic.load(CPU0);
    assert_eq!(registers[0].state(), InterruptState::Active);
    gic.fold(CPU0, &registers, false);
    let pending = gic.read(Frame::Distributor, offset::ISPENDR + 4, AccessSize::Word);
    assert_eq!(pending, 1 << 16);
}
