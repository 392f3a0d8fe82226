//! The devices and their backends.

use std::convert::Infallible;

use host::memory::GuestMemory;
use host::virtio::Served;
use host::virtio::block::{Block, BlockBackend, DiskError, SECTOR_BYTES};
use host::virtio::console;
use host::virtio::queue::{Queue, QueueError};

use super::memory::Memory;

const SECTORS: usize = 8;

/// A disk that checks that every request is for a sector that it has.
#[derive(Debug)]
pub(super) struct Disk {
    bytes: Vec<u8>,
    read_only: bool,
}

impl Disk {
    fn range(sector: u64, bytes: usize) -> std::ops::Range<usize> {
        assert!(bytes.is_multiple_of(SECTOR_BYTES));
        let start = usize::try_from(sector).expect("small") * SECTOR_BYTES;
        start..start + bytes
    }
}

impl BlockBackend for Disk {
    fn sectors(&self) -> u64 {
        SECTORS as u64
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        into.copy_from_slice(&self.bytes[Self::range(sector, into.len())]);
        Ok(())
    }

    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        assert!(!self.read_only, "a read-only disk is written to");
        self.bytes[Self::range(sector, from.len())].copy_from_slice(from);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Counts the bytes that were printed.
#[derive(Debug, Default)]
pub(super) struct Printed(u64);

impl embedded_io::ErrorType for Printed {
    type Error = Infallible;
}

impl embedded_io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[derive(Debug)]
pub(super) enum Device {
    Block(Block<Disk>),
    Console { printed: Printed, copied: u64 },
}

impl Device {
    pub(super) fn new(kind: u8) -> Self {
        match kind % 3 {
            0 => Self::Console { printed: Printed::default(), copied: 0 },
            kind => Self::Block(Block::new(Disk {
                bytes: vec![0xd1; SECTORS * SECTOR_BYTES],
                read_only: kind == 2,
            })),
        }
    }

    pub(super) fn serve(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemory<'_, Memory>,
    ) -> Result<Served, QueueError> {
        match self {
            Self::Block(block) => block.serve(queue, memory),
            Self::Console { printed, copied } => {
                let served = console::transmit(queue, memory, printed)?;
                *copied += served.copied_bytes;
                Ok(served)
            }
        }
    }

    pub(super) fn check(&self) {
        if let Self::Console { printed, copied } = self {
            // Printed bytes exceed the reported ones only if the request ended in an error.
            assert!(*copied <= printed.0);
        }
    }
}
