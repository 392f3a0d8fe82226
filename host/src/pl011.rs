//! A PL011 that prints (Arm PrimeCell UART, DDI 0183): enough for a polling driver, for one that never
//! looks at the flags, and for Linux's, which sends by interrupt.
//!
//! Nothing is ever received. A byte is sent the moment that it is written, so the transmit FIFO is
//! always empty and its interrupt becomes pending with each byte, as hardware's does when it drains.

use shared_abi::vcpu::AccessSize;

/// Offsets of registers (DDI 0183, 3.2).
mod offset {
    pub(super) const DR: u64 = 0x000;
    pub(super) const FR: u64 = 0x018;
    pub(super) const IBRD: u64 = 0x024;
    pub(super) const FBRD: u64 = 0x028;
    pub(super) const LCR_H: u64 = 0x02c;
    pub(super) const CR: u64 = 0x030;
    pub(super) const IFLS: u64 = 0x034;
    pub(super) const IMSC: u64 = 0x038;
    pub(super) const RIS: u64 = 0x03c;
    pub(super) const MIS: u64 = 0x040;
    pub(super) const ICR: u64 = 0x044;
    pub(super) const ID: u64 = 0xfe0;
    pub(super) const ID_END: u64 = 0x1000;
}

/// UARTFR: the transmit FIFO is empty.
const FR_TXFE: u16 = 1 << 7;
/// UARTFR: the receive FIFO is empty.
const FR_RXFE: u16 = 1 << 4;
/// The transmit interrupt.
const INT_TX: u16 = 1 << 5;
/// UARTCR at reset: receive and transmit enabled.
const CR_RESET: u16 = 0x300;
/// UARTIFLS at reset: both FIFOs at half.
const IFLS_RESET: u16 = 0x12;
/// UARTPeriphID0 to 3 (PL011 r1p5), UARTPCellID0 to 3; a word each.
const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The UART.
#[derive(Debug)]
pub struct Pl011 {
    baud_integer: u16,
    baud_fraction: u16,
    line_control: u16,
    control: u16,
    fifo_levels: u16,
    mask: u16,
    raw: u16,
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pl011 {
    /// A UART after reset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            baud_integer: 0,
            baud_fraction: 0,
            line_control: 0,
            control: CR_RESET,
            fifo_levels: IFLS_RESET,
            mask: 0,
            raw: 0,
        }
    }

    /// Whether its interrupt line is high.
    #[must_use]
    pub const fn line(&self) -> bool {
        self.raw & self.mask != 0
    }

    /// Reads `size` bytes at `offset`; what is not there reads as zero.
    #[must_use]
    pub fn read(&self, offset: u64, size: AccessSize) -> u64 {
        let register = match offset & !3 {
            offset::FR => FR_TXFE | FR_RXFE,
            offset::IBRD => self.baud_integer,
            offset::FBRD => self.baud_fraction,
            offset::LCR_H => self.line_control,
            offset::CR => self.control,
            offset::IFLS => self.fifo_levels,
            offset::IMSC => self.mask,
            offset::RIS => self.raw,
            offset::MIS => self.raw & self.mask,
            id @ offset::ID..offset::ID_END => {
                let index = (id - offset::ID) / 4;
                let byte = IDENTIFICATION.iter().zip(0..).find(|(_, n)| *n == index);
                byte.map_or(0, |(byte, _)| u16::from(*byte))
            }
            _ => 0,
        };
        (u64::from(register) >> (8 * (offset & 3))) & size.mask()
    }

    /// Writes a register, in any width; the byte that goes out, if one does.
    pub fn write(&mut self, offset: u64, value: u64) -> Option<u8> {
        let [byte, high, ..] = value.to_le_bytes();
        let value = u16::from_le_bytes([byte, high]);
        match offset {
            offset::DR => {
                self.raw |= INT_TX;
                return Some(byte);
            }
            offset::IBRD => self.baud_integer = value,
            offset::FBRD => self.baud_fraction = value,
            offset::LCR_H => self.line_control = value,
            offset::CR => self.control = value,
            offset::IFLS => self.fifo_levels = value,
            offset::IMSC => self.mask = value,
            offset::ICR => self.raw &= !value,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_without_set_up() {
        let mut uart = Pl011::new();
        assert_eq!(uart.write(offset::DR, 0x1_41), Some(0x41));
        assert_eq!(uart.read(offset::FR, AccessSize::Word), 0x90);
        assert!(!uart.line());
    }

    #[test]
    fn the_transmit_interrupt_follows_each_byte() {
        let mut uart = Pl011::new();
        uart.write(offset::IMSC, u64::from(INT_TX));
        assert!(!uart.line());
        uart.write(offset::DR, 0x41);
        assert!(uart.line());
        assert_eq!(uart.read(offset::MIS, AccessSize::Half), u64::from(INT_TX));
        uart.write(offset::ICR, 0x7ff);
        assert!(!uart.line());
        uart.write(offset::DR, 0x42);
        uart.write(offset::IMSC, 0);
        assert!(!uart.line());
        assert_eq!(uart.read(offset::RIS, AccessSize::Word), u64::from(INT_TX));
    }

    #[test]
    fn a_primecell_says_what_it_is() {
        let uart = Pl011::new();
        let id: Vec<u64> = (0..8).map(|n| uart.read(0xfe0 + 4 * n, AccessSize::Word)).collect();
        assert_eq!(id, [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }
}
