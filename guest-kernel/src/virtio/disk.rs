//! A disk: virtio-blk, one request at a time.

use core::fmt;

use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport;

use super::hal::PoolHal;
use super::{REQUEST_TIMEOUT, Transport};
use crate::time;

/// Bytes of one request; longer transfers are made of several.
pub const REQUEST_BYTES: usize = 64 * 1024;
const SECTOR_BYTES: u64 = SECTOR_SIZE as u64;

/// Why a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Offset or length is no multiple of a sector.
    Unaligned,
    /// The transfer would end beyond the disk's end.
    BeyondEnd,
    /// It is a write, and the disk is read-only.
    ReadOnly,
    /// The device said so, or broke the protocol.
    Device(virtio_drivers::Error),
    /// The device did not answer in [`REQUEST_TIMEOUT`].
    Timeout,
    /// A request before this one was never answered properly: the device is not used any more.
    Broken,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned => f.write_str("a transfer is not made of whole sectors"),
            Self::BeyondEnd => f.write_str("a transfer ends beyond the end of the disk"),
            Self::ReadOnly => f.write_str("the disk is read-only"),
            Self::Device(error) => write!(f, "the disk failed a request: {error}"),
            Self::Timeout => f.write_str("the disk does not answer"),
            Self::Broken => f.write_str("the disk failed before and is not used any more"),
        }
    }
}

impl core::error::Error for Error {}

/// A virtio-blk device.
///
/// What it reads is the host's word: verify it. Errors that are only a failed request leave the disk
/// usable; a device that does not answer, or answers something else, is not used again.
pub struct Disk<T: transport::Transport = Transport> {
    device: VirtIOBlk<PoolHal, T>,
    broken: bool,
}

impl<T: transport::Transport> fmt::Debug for Disk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("bytes", &self.bytes())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl<T: transport::Transport> Disk<T> {
    pub(crate) fn new(transport: T) -> Result<Self, virtio_drivers::Error> {
        Ok(Self { device: VirtIOBlk::new(transport)?, broken: false })
    }

    /// Bytes of the disk, as the device says.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.device.capacity().saturating_mul(SECTOR_BYTES)
    }

    /// Whether the device refuses writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.device.readonly()
    }

    /// Fills `data` from byte `offset` of the disk on.
    ///
    /// # Errors
    ///
    /// As [`Error`] says; `data` may hold anything then.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Error> {
        self.check(offset, data.len())?;
        let mut sector = (offset / SECTOR_BYTES) as usize;
        for part in data.chunks_mut(REQUEST_BYTES) {
            self.read_request(sector, part)?;
            sector += part.len() / SECTOR_SIZE;
        }
        Ok(())
    }

    /// Writes `data` from byte `offset` of the disk on.
    ///
    /// # Errors
    ///
    /// As [`Error`] says; some of `data` may be written then.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.check(offset, data.len())?;
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        let mut sector = (offset / SECTOR_BYTES) as usize;
        for part in data.chunks(REQUEST_BYTES) {
            self.write_request(sector, part)?;
            sector += part.len() / SECTOR_SIZE;
        }
        Ok(())
    }

    fn check(&self, offset: u64, length: usize) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Broken);
        }
        let length = length as u64;
        if !offset.is_multiple_of(SECTOR_BYTES) || !length.is_multiple_of(SECTOR_BYTES) {
            return Err(Error::Unaligned);
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.bytes() => Ok(()),
            _ => Err(Error::BeyondEnd),
        }
    }

    fn read_request(&mut self, sector: usize, data: &mut [u8]) -> Result<(), Error> {
        let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
        // SAFETY: the device gets copies (`PoolHal`), so that none of the three is accessed before
        // `complete_read_blocks`, nor at all if that is never reached.
        let token = unsafe { self.device.read_blocks_nb(sector, &mut request, data, &mut response) }
            .map_err(Error::Device)?;
        self.wait_for(token)?;
        // SAFETY: `read_blocks_nb` above gave `token` for these three buffers, and `wait_for` has seen it
        // come back.
        let outcome = unsafe { self.device.complete_read_blocks(token, &request, data, &mut response) };
        self.complete(outcome)
    }

    fn write_request(&mut self, sector: usize, data: &[u8]) -> Result<(), Error> {
        let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
        // SAFETY: the device gets copies (`PoolHal`), so that none of the three is accessed before
        // `complete_write_blocks`, nor at all if that is never reached.
        let token = unsafe { self.device.write_blocks_nb(sector, &mut request, data, &mut response) }
            .map_err(Error::Device)?;
        self.wait_for(token)?;
        // SAFETY: `write_blocks_nb` above gave `token` for these three buffers, and `wait_for` has seen it
        // come back.
        let outcome = unsafe { self.device.complete_write_blocks(token, &request, data, &mut response) };
        self.complete(outcome)
    }

    /// Sleeps until the device has used something. It is the one request that is out, or the device is
    /// broken: its buffers stay in the pool, and the device is not asked again. Until
    /// [`Self::complete`] it counts as broken.
    fn wait_for(&mut self, token: u16) -> Result<(), Error> {
        self.broken = true;
        let device = &mut self.device;
        if !time::wait_until(REQUEST_TIMEOUT, || device.peek_used().is_some()) {
            return Err(Error::Timeout);
        }
        if self.device.peek_used() != Some(token) {
            return Err(Error::Device(virtio_drivers::Error::WrongToken));
        }
        Ok(())
    }

    /// Says what became of the request. Its answer was looked at again: only one that is still the
    /// request's own, if it says that it failed, leaves the device usable.
    fn complete(&mut self, outcome: virtio_drivers::Result) -> Result<(), Error> {
        use virtio_drivers::Error::{IoError, Unsupported};
        self.broken = !matches!(outcome, Ok(()) | Err(IoError | Unsupported));
        outcome.map_err(Error::Device)
    }
}
