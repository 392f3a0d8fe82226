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
        Ok(Self { transport, transmit })
    }
}

impl embedded_io::ErrorType for ConsolePort {
    type Error = embedded_io::ErrorKind;
}

impl embedded_io::Write for ConsolePort {
    /// Writes all of it, and sleeps until the device has taken it.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        if !bytes.is_empty() {
            devices::request(&mut self.transmit, &mut self.transport, TRANSMIT, &[bytes], &mut [])
                .map_err(|_| embedded_io::ErrorKind::Other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}
