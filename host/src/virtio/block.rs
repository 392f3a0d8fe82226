//! The block device (5.2).

use alloc::vec;
use alloc::vec::Vec;

use shared_abi::addr::Ipa;

use super::Served;
use super::chain::Chain;
use super::queue::{MAX_SIZE, Queue, QueueError};
use crate::memory::{GuestMemory, HostMemory};

/// Bytes of a sector, whatever the disk's own block size.
pub const SECTOR_BYTES: usize = 512;
/// The device type.
pub const DEVICE_ID: u32 = 2;
/// It has one queue.
pub const QUEUES: usize = 1;

/// What is copied at once between guest memory and the backend.
const BOUNCE_BYTES: usize = 64 * 1024;

/// Feature bits (5.2.3).
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const FLUSH: u64 = 1 << 9;
}

/// Request types (5.2.6).
mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const HEADER_BYTES: usize = 16;
    pub(super) const ID_BYTES: usize = 20;
}

/// The answer to GET_ID.
const ID: &[u8] = b"cloister";

/// The disk did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk failed")]
pub struct DiskError;

/// A disk. Its methods return when the transfer is complete; they may sleep until their device's
/// interrupt.
pub trait BlockBackend {
    /// Its size in sectors of [`SECTOR_BYTES`].
    fn sectors(&self) -> u64;

    /// Whether it refuses writes.
    fn is_read_only(&self) -> bool;

    /// Reads whole sectors from `sector` on; they exist.
    ///
    /// # Errors
    ///
    /// [`DiskError`]; the content of `into` is arbitrary.
    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError>;

    /// Writes whole sectors from `sector` on; they exist, and the disk is not read-only.
    ///
    /// # Errors
    ///
    /// [`DiskError`]; the content of the sectors is arbitrary.
    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError>;

    /// Makes what was written permanent.
    ///
    /// # Errors
    ///
    /// [`DiskError`].
    fn flush(&mut self) -> Result<(), DiskError>;
}

/// Why a request fails, as its status byte says (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Failure {
    Io = 1,
    Unsupported = 2,
}

impl From<DiskError> for Failure {
    fn from(_: DiskError) -> Self {
        Self::Io
    }
}

impl From<crate::memory::GuestFault> for Failure {
    /// A buffer that the guest does not share is an error of this one request.
    fn from(_: crate::memory::GuestFault) -> Self {
        Self::Io
    }
}

/// The device.
#[derive(Debug)]
pub struct Block<B> {
    backend: B,
    bounce: Vec<u8>,
    copied_bytes: u64,
}

impl<B: BlockBackend> Block<B> {
    /// A device that serves `backend`.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self { backend, bounce: vec![0; BOUNCE_BYTES], copied_bytes: 0 }
    }

    /// The features of its type that it offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        let read_only = if self.backend.is_read_only() { feature::RO } else { 0 };
        feature::SEG_MAX | feature::FLUSH | read_only
    }

    /// Its configuration (5.2.4): capacity, size_max, seg_max.
    #[must_use]
    pub fn config(&self) -> Vec<u8> {
        /// What a chain has beside its data: header and status.
        const OVERHEAD: u32 = 2;
        let mut config = Vec::new();
        config.extend_from_slice(&self.backend.sectors().to_le_bytes());
        config.extend_from_slice(&0_u32.to_le_bytes());
        config.extend_from_slice(&(u32::from(MAX_SIZE) - OVERHEAD).to_le_bytes());
        config
    }

    /// Serves what is in the queue.
    ///
    /// # Errors
    ///
    /// [`QueueError`] if the queue makes no sense; the device needs a reset then.
    pub fn serve<M: HostMemory>(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemory<'_, M>,
    ) -> Result<Served, QueueError> {
        let before = self.copied_bytes;
        let mut requests = 0;
        for _ in 0..queue.size() {
            let Some(mut chain) = queue.pop(memory)? else {
                break;
            };
            let written = self.request(&mut chain, memory)?;
            queue.push(chain.head, written, memory)?;
            requests += 1;
        }
        Ok(Served {
            interrupt: requests != 0 && queue.wants_interrupt(memory)?,
            copied_bytes: self.copied_bytes - before,
            requests,
        })
    }

    /// Serves one request; how many bytes of the chain were written.
    fn request<M: HostMemory>(
        &mut self,
        chain: &mut Chain,
        memory: &GuestMemory<'_, M>,
    ) -> Result<u32, QueueError> {
        let mut header = [0; request::HEADER_BYTES];
        let status: Ipa = chain.writable.split_last().ok_or(QueueError::Malformed)?;
        if chain.readable.read(&mut header, memory)? != header.len() {
            return Err(QueueError::Malformed);
        }
        let [kind, _reserved, sector_low, sector_high] = words(&header);
        let sector = u64::from(sector_high) << 32 | u64::from(sector_low);
        let room = chain.writable.left();
        let outcome = match kind {
            request::IN => self.read(sector, chain, memory),
            request::OUT => self.write(sector, chain, memory),
            request::FLUSH => self.backend.flush().map_err(Failure::from),
            request::GET_ID => Self::identify(chain, memory),
            _ => Err(Failure::Unsupported),
        };
        let byte = outcome.map_or_else(|failure| failure as u8, |()| 0);
        memory.write(status, &[byte])?;
        let written = room - chain.writable.left() + 1;
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }

    fn read<M: HostMemory>(
        &mut self,
        sector: u64,
        chain: &mut Chain,
        memory: &GuestMemory<'_, M>,
    ) -> Result<(), Failure> {
        self.check(sector, chain.writable.left())?;
        let mut sector = sector;
        while chain.writable.left() != 0 {
            let bytes = self.portion(chain.writable.left());
            let bounce = &mut self.bounce[..bytes];
            self.backend.read(sector, bounce)?;
            chain.writable.write(bounce, memory)?;
            self.copied_bytes += bytes as u64;
            sector += (bytes / SECTOR_BYTES) as u64;
        }
        Ok(())
    }

    fn write<M: HostMemory>(
        &mut self,
        sector: u64,
        chain: &mut Chain,
        memory: &GuestMemory<'_, M>,
    ) -> Result<(), Failure> {
        self.check(sector, chain.readable.left())?;
        if self.backend.is_read_only() {
            return Err(Failure::Io);
        }
        let mut sector = sector;
        while chain.readable.left() != 0 {
            let bytes = self.portion(chain.readable.left());
            let bounce = &mut self.bounce[..bytes];
            chain.readable.read(bounce, memory)?;
            self.backend.write(sector, bounce)?;
            self.copied_bytes += bytes as u64;
            sector += (bytes / SECTOR_BYTES) as u64;
        }
        Ok(())
    }

    fn identify<M: HostMemory>(chain: &mut Chain, memory: &GuestMemory<'_, M>) -> Result<(), Failure> {
        let mut id = [0; request::ID_BYTES];
        id[..ID.len()].copy_from_slice(ID);
        chain.writable.write(&id, memory)?;
        Ok(())
    }

    /// Whether the request is for whole sectors that exist.
    fn check(&self, sector: u64, bytes: u64) -> Result<(), Failure> {
        let sectors = bytes / SECTOR_BYTES as u64;
        let whole = bytes.is_multiple_of(SECTOR_BYTES as u64);
        let end = sector.checked_add(sectors);
        if whole && end.is_some_and(|end| end <= self.backend.sectors()) { Ok(()) } else { Err(Failure::Io) }
    }

    /// How much of `left` bytes goes at once.
    fn portion(&self, left: u64) -> usize {
        usize::try_from(left).map_or(self.bounce.len(), |left| left.min(self.bounce.len()))
    }
}

fn words(header: &[u8; request::HEADER_BYTES]) -> [u32; 4] {
    let (words, _) = header.as_chunks();
    core::array::from_fn(|n| u32::from_le_bytes(words[n]))
}
