//! The machine's virtio disk.

use host::virtio::block::{BlockBackend, DiskError};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use super::devices::{self, HostTransport};
use super::dma::Dma;

/// The one request queue (virtio 1.3, 5.2.2).
const QUEUE: u16 = 0;
/// One request at a time takes three descriptors.
const QUEUE_SIZE: usize = 4;
/// Offset of the capacity in sectors in the device's configuration (virtio 1.3, 5.2.4).
const CAPACITY: usize = 0;

bitflags::bitflags! {
    /// Device features (virtio 1.3, 5.2.3).
    #[derive(Clone, Copy, Debug)]
    struct Features: u64 {
        /// The disk can't be written.
        const RO = 1 << 5;
        /// The disk has a cache that can be flushed.
        const FLUSH = 1 << 9;
    }
}

/// Types of requests (virtio 1.3, 5.2.6).
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
enum RequestType {
    Read = 0,
    Write = 1,
    Flush = 4,
}

impl RequestType {
    /// `struct virtio_blk_req` up to the data.
    fn header(self, sector: u64) -> [u8; 16] {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&(self as u32).to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        header
    }
}

/// VIRTIO_BLK_S_OK.
const STATUS_OK: u8 = 0;
/// No status that a disk answers: it wrote none.
const STATUS_NOT_WRITTEN: u8 = 0xff;

/// A virtio disk.
pub(crate) struct Disk {
    transport: HostTransport,
    queue: VirtQueue<Dma, QUEUE_SIZE>,
    sectors: u64,
    features: Features,
}

impl Disk {
    /// Negotiates and starts.
    ///
    /// # Errors
    ///
    /// The queue can't be set up, or the disk has no configuration.
    pub(crate) fn new(mut transport: HostTransport) -> virtio_drivers::Result<Self> {
        let features = transport.begin_init(Features::all());
        let [low, high] = transport.read_consistent(|| transport.read_config_space::<[u32; 2]>(CAPACITY))?;
        let queue = VirtQueue::new(&mut transport, QUEUE, false, false)?;
        transport.finish_init();
        Ok(Self { transport, queue, sectors: u64::from(high) << 32 | u64::from(low), features })
    }

    /// Makes it a disk that refuses writes, whatever the device allows.
    pub(crate) fn forbid_writes(&mut self) {
        self.features |= Features::RO;
    }

    fn request<'a>(
        &mut self,
        inputs: &'a [&'a [u8]],
        outputs: &'a mut [&'a mut [u8]],
    ) -> Result<(), DiskError> {
        devices::request(&mut self.queue, &mut self.transport, QUEUE, inputs, outputs)
            .map(drop)
            .map_err(|_| DiskError)
    }
}

impl BlockBackend for Disk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn is_read_only(&self) -> bool {
        self.features.contains(Features::RO)
    }

    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let mut status = [STATUS_NOT_WRITTEN];
        let header = RequestType::Read.header(sector);
        self.request(&[&header], &mut [into, &mut status])?;
        succeeded(status)
    }

    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let mut status = [STATUS_NOT_WRITTEN];
        let header = RequestType::Write.header(sector);
        self.request(&[&header, from], &mut [&mut status])?;
        succeeded(status)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if !self.features.contains(Features::FLUSH) {
            return Ok(());
        }
        let mut status = [STATUS_NOT_WRITTEN];
        let header = RequestType::Flush.header(0);
        self.request(&[&header], &mut [&mut status])?;
        succeeded(status)
    }
}

fn succeeded(status: [u8; 1]) -> Result<(), DiskError> {
    match status {
        [STATUS_OK] => Ok(()),
        _ => Err(DiskError),
    }
}
