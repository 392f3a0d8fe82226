//! Which device an access is for, and what virtio devices do about a doorbell.

use alloc::vec::Vec;

use shared_abi::addr::{Ipa, PAGE_SIZE};
use shared_abi::host_call::VcpuIndex;
use shared_abi::vcpu::AccessSize;

use super::{Notice, Vmm};
use crate::attack::private_page;
use crate::machine::{
    GICD_BASE, GICD_BYTES, GICR_BASE, GICR_BYTES, MAX_VCPUS, UART_BASE, UART_SPI, VirtioKind, VirtioSlot,
};
use crate::memory::GuestMemory;
use crate::platform::Platform;
use crate::vgic::Frame;
use crate::virtio::block::{self, Block};
use crate::virtio::console;
use crate::virtio::mmio::{Event, Registers};

/// A virtio device: its registers, and what is behind them.
pub(super) struct VirtioDevice<P: Platform> {
    slot: VirtioSlot,
    registers: Registers,
    kind: Kind<P>,
}

enum Kind<P: Platform> {
    Block(Block<P::Disk>),
    Console,
}

/// The devices in the slots. A block device with no disk behind it is left out: reads of its page are
/// aborted.
pub(super) fn virtio<P: Platform>(slots: &[VirtioSlot], mut disk: Option<P::Disk>) -> Vec<VirtioDevice<P>> {
    let device = |slot: &VirtioSlot| {
        let (registers, kind) = match slot.kind {
            VirtioKind::Console => {
                (Registers::new(console::DEVICE_ID, 0, console::QUEUES, Vec::new()), Kind::Console)
            }
            VirtioKind::Block => {
                let block = Block::new(disk.take()?);
                let registers =
                    Registers::new(block::DEVICE_ID, block.features(), block::QUEUES, block.config());
                (registers, Kind::Block(block))
            }
        };
        Some(VirtioDevice { slot: *slot, registers, kind })
    };
    slots.iter().filter_map(device).collect()
}

/// What is at an address.
enum Target {
    Gic(Frame, u64),
    Uart(u64),
    Virtio(usize, u64),
}

impl<P: Platform> Vmm<P> {
    /// Reads a device; `None` if none is there.
    pub(super) fn mmio_read(&mut self, ipa: Ipa, size: AccessSize) -> Option<u64> {
        Some(match self.target(ipa)? {
            Target::Gic(frame, offset) => self.gic.read(frame, offset, size),
            Target::Uart(offset) => self.uart.read(offset, size),
            Target::Virtio(index, offset) => self.virtio.get(index)?.registers.read(offset, size),
        })
    }

    /// Writes a device; `None` if none is there.
    pub(super) fn mmio_write(&mut self, ipa: Ipa, size: AccessSize, value: u64) -> Option<()> {
        match self.target(ipa)? {
            Target::Gic(frame, offset) => self.gic.write(frame, offset, size, value),
            Target::Uart(offset) => {
                if let Some(byte) = self.uart.write(offset, value) {
                    // What the console does not take is lost, as with any serial line.
                    let _ = embedded_io::Write::write_all(&mut self.console, &[byte]);
                }
                self.gic.set_line(UART_SPI, self.uart.line());
            }
            Target::Virtio(index, offset) => {
                let device = self.virtio.get_mut(index)?;
                match device.registers.write(offset, size, value) {
                    Event::None => {}
                    Event::Interrupt => self.gic.pulse(device.slot.spi),
                    Event::Doorbell(queue) => self.serve(index, queue),
                }
            }
        }
        Some(())
    }

    #[inline(always)] // small, and what it answers is taken apart at once
    fn target(&self, ipa: Ipa) -> Option<Target> {
        if let Some(offset) = within(ipa, GICD_BASE, GICD_BYTES) {
            return Some(Target::Gic(Frame::Distributor, offset));
        }
        if let Some(offset) = within(ipa, GICR_BASE, GICR_BYTES * u64::from(MAX_VCPUS)) {
            let vcpu = VcpuIndex((offset / GICR_BYTES) as u32);
            if vcpu.0 as usize >= self.vcpus.len() {
                return None;
            }
            /// RD_base and SGI_base share a redistributor's space.
            const FRAME_BYTES: u64 = GICR_BYTES / 2;
            let frame = if offset % GICR_BYTES < FRAME_BYTES {
                Frame::Redistributor(vcpu)
            } else {
                Frame::Private(vcpu)
            };
            return Some(Target::Gic(frame, offset % FRAME_BYTES));
        }
        if let Some(offset) = within(ipa, UART_BASE, PAGE_SIZE) {
            return Some(Target::Uart(offset));
        }
        let mut devices = self.virtio.iter().enumerate();
        devices.find_map(|(index, device)| {
            let offset = within(ipa, device.slot.base, PAGE_SIZE)?;
            Some(Target::Virtio(index, offset))
        })
    }

    /// Serves a queue after a doorbell.
    fn serve(&mut self, index: usize, queue: usize) {
        let Some(device) = self.virtio.get_mut(index) else {
            return;
        };
        let Some(ready) = device.registers.queue(queue) else {
            return;
        };
        let memory = GuestMemory::new(self.vm.pages(), &self.resources.memory);
        let served = match &mut device.kind {
            Kind::Block(block) => {
                if let Some(pfn) = self.attack.take().and_then(|gfn| self.vm.pages().lookup(gfn)) {
                    let outcome = private_page::attempt(&self.resources.memory, pfn);
                    self.notice = Some(Notice::Attack(outcome));
                }
                let served = block.serve(ready, &memory);
                self.cost.requests += served.map_or(0, |served| served.requests);
                served
            }
            Kind::Console if queue == console::TRANSMIT => {
                console::transmit(ready, &memory, &mut self.console)
            }
            // Receive buffers stay with the device: it never receives.
            Kind::Console => return,
        };
        match served {
            Ok(served) => {
                self.cost.copied_bytes += served.copied_bytes;
                if served.interrupt {
                    device.registers.used_buffers();
                    self.gic.pulse(device.slot.spi);
                }
            }
            Err(error) => {
                self.notice = Some(Notice::BrokenQueue(error));
                device.registers.needs_reset();
                self.gic.pulse(device.slot.spi);
            }
        }
    }
}

/// The offset of an address in a region, if it is in it.
fn within(ipa: Ipa, base: Ipa, bytes: u64) -> Option<u64> {
    // What is below the base comes out far above the end.
    let offset = ipa.0.wrapping_sub(base.0);
    (offset < bytes).then_some(offset)
}
