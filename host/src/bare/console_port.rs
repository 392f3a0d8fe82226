//! The machine's virtio console: the guest's console bytes go out there, as they are.

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use super::devices::{self, HostTransport};
use super::dma::Dma;

/// The transmit queue of port 0 (virtio 1.3, 5.3.2).
const TRANSMIT: u16 = 1;
/// One request at a time.
const QUEUE_SIZE: usize = 2;

bitflags::bitflags! {
    /// Nothing that a console offers is needed.
    #[derive(Clone, Copy, Debug)]
    struct Features: u64 {}
}

/// Port 0 of a virtio console.
pub(crate) struct ConsolePort {
    transport: HostTransport,
    transmit: VirtQueue<Dma, QUEUE_SIZE>,
}

impl ConsolePort {
    /// Negotiates and starts.
    ///
    /// # Errors
    ///
    /// The queue can't be set up.
    pub(crate) fn new(mut transport: HostTransport) -> virtio_drivers::Result<Self> {
        transport.begin_init(Features::empty());
        let transmit = VirtQueue::new(&mut transport, TRANSMIT, false, false)?;
        transport.finish_init();
        Ok(Self {
            transport,
            transmit,
        })
    }

    /// Writes bytes, and sleeps until the device has taken them.
    ///
    /// # Errors
    ///
    /// The queue's.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> virtio_drivers::Result {
        if bytes.is_empty() {
            return Ok(());
        }
        devices::request(
            &mut self.transmit,
            &mut self.transport,
            TRANSMIT,
            &[bytes],
            &mut [],
        )
        .map(drop)
    }
}
