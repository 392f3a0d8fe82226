//! The console device (5.3): it prints. Nothing is received; buffers for it stay with the device.

use super::Served;
use super::queue::{Queue, QueueError};
use crate::memory::{GuestMemory, HostMemory};

/// The device type.
pub const DEVICE_ID: u32 = 3;
/// It has two queues: receive, transmit.
pub const QUEUES: usize = 2;
/// The index of the transmit queue.
pub const TRANSMIT: usize = 1;

/// What is copied at once.
const CHUNK_BYTES: usize = 512;
/// The most that a driver may send in one chain; no honest one comes near.
const MAX_CHAIN_BYTES: u64 = 1 << 20;

/// Prints what is in the transmit queue. What `output` does not take is lost, as with any serial line.
///
/// # Errors
///
/// [`QueueError`] if the queue makes no sense; the device needs a reset then.
pub fn transmit<M: HostMemory>(
    queue: &mut Queue,
    memory: &GuestMemory<'_, M>,
    output: &mut impl embedded_io::Write,
) -> Result<Served, QueueError> {
    let mut served = Served::default();
    for _ in 0..queue.size() {
        let Some(mut chain) = queue.pop(memory)? else {
            break;
        };
        let bytes = chain.readable.left();
        if bytes > MAX_CHAIN_BYTES {
            return Err(QueueError::Malformed);
        }
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            let count = chain.readable.read(&mut chunk, memory)?;
            if count == 0 || output.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        queue.push(chain.head, 0, memory)?;
        served.copied_bytes += bytes;
        served.requests += 1;
    }
    served.interrupt = served.requests != 0 && queue.wants_interrupt(memory)?;
    Ok(served)
}
