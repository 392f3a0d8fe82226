//! The output half of virtio-console (virtio 1.3, 5.3): port 0, without multiport.

use bitflags::bitflags;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport;
use virtio_drivers::{Error, PAGE_SIZE};

use super::hal::PoolHal;
use super::{REQUEST_TIMEOUT, Transport};
use crate::time;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const QUEUE_SIZE: usize = 2;

bitflags! {
    /// The features that this driver wants: none but the modern interface.
    #[derive(Clone, Copy, Debug)]
    struct Features: u64 {
        const VERSION_1 = virtio_guard::feature::VERSION_1;
    }
}

/// A virtio-console device.
pub(crate) struct VirtioConsole<T: transport::Transport = Transport> {
    transport: T,
    transmit: VirtQueue<PoolHal, QUEUE_SIZE>,
    /// A device may expect both queues to exist. Nothing is ever offered on this one.
    _receive: VirtQueue<PoolHal, QUEUE_SIZE>,
    broken: bool,
}

impl<T: transport::Transport> VirtioConsole<T> {
    pub(crate) fn new(mut transport: T) -> Result<Self, Error> {
        transport.begin_init(Features::VERSION_1);
        let receive = VirtQueue::new(&mut transport, RECEIVE, false, false)?;
        let transmit = VirtQueue::new(&mut transport, TRANSMIT, false, false)?;
        transport.finish_init();
        Ok(Self { transport, transmit, _receive: receive, broken: false })
    }

    /// Prints `bytes`, and sleeps until the device has taken them.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for part in bytes.chunks(PAGE_SIZE) {
            if self.broken {
                return Err(Error::NotReady);
            }
            self.broken = true; // until the request has come back
            self.write_request(part)?;
            self.broken = false;
        }
        Ok(())
    }

    fn write_request(&mut self, part: &[u8]) -> Result<(), Error> {
        // SAFETY: the device gets a copy (`PoolHal`); `part` is not accessed after `pop_used`, nor at
        // all if that is never reached.
        let token = unsafe { self.transmit.add(&[part], &mut [])? };
        if self.transmit.should_notify() {
            self.transport.notify(TRANSMIT);
        }
        let transmit = &self.transmit;
        if !time::wait_until(REQUEST_TIMEOUT, || transmit.can_pop()) {
            return Err(Error::NotReady);
        }
        // SAFETY: `part` is the buffer that `add` above gave `token` for.
        unsafe { self.transmit.pop_used(token, &[part], &mut [])? };
        Ok(())
    }
}
