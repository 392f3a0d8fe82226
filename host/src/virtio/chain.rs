//! A chain of buffers, read and written as two streams of bytes: devices make no assumption about how a
//! request is cut into buffers (2.7.4).

use alloc::vec::Vec;

use shared_abi::addr::Ipa;

use crate::memory::{GuestFault, GuestMemory, HostMemory};

/// A buffer of the guest's; its end is in the address space, no more is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its first byte.
    pub ipa: Ipa,
    /// Its length.
    pub bytes: u32,
}

/// A chain as it was when it was walked.
#[derive(Debug)]
pub struct Chain {
    /// The index of its first descriptor: its name.
    pub head: u16,
    /// What the device reads.
    pub readable: Stream,
    /// What the device writes.
    pub writable: Stream,
}

/// Buffers one behind the other, and how far they have been used.
#[derive(Debug)]
pub struct Stream {
    buffers: Vec<Buffer>,
    /// The buffer in use, and the next byte in it.
    at: (usize, u32),
    left: u64,
}

impl From<Vec<Buffer>> for Stream {
    fn from(buffers: Vec<Buffer>) -> Self {
        let left = buffers.iter().map(|buffer| u64::from(buffer.bytes)).sum();
        Self { buffers, at: (0, 0), left }
    }
}

impl Stream {
    /// How many bytes have not been used.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Copies the next bytes out of guest memory; fewer than asked for if there are no more.
    ///
    /// # Errors
    ///
    /// [`GuestFault`] where the guest's memory can't be reached.
    pub fn read<M: HostMemory>(
        &mut self,
        into: &mut [u8],
        memory: &GuestMemory<'_, M>,
    ) -> Result<usize, GuestFault> {
        let mut done = 0;
        while let Some((ipa, bytes)) = self.advance(into.len() - done) {
            memory.read(ipa, &mut into[done..done + bytes])?;
            done += bytes;
        }
        Ok(done)
    }

    /// Copies to the next bytes of guest memory; fewer than given if there are no more.
    ///
    /// # Errors
    ///
    /// [`GuestFault`] where the guest's memory can't be reached.
    pub fn write<M: HostMemory>(
        &mut self,
        from: &[u8],
        memory: &GuestMemory<'_, M>,
    ) -> Result<usize, GuestFault> {
        let mut done = 0;
        while let Some((ipa, bytes)) = self.advance(from.len() - done) {
            memory.write(ipa, &from[done..done + bytes])?;
            done += bytes;
        }
        Ok(done)
    }

    /// Cuts the last byte off; where it is, if there is one.
    pub fn split_last(&mut self) -> Option<Ipa> {
        while self.buffers.last()?.bytes == 0 {
            self.buffers.pop();
        }
        let last = self.buffers.last_mut()?;
        last.bytes -= 1;
        self.left -= 1;
        Some(Ipa(last.ipa.0 + u64::from(last.bytes)))
    }

    /// The next piece that lies in one buffer, of at most `most` bytes.
    fn advance(&mut self, most: usize) -> Option<(Ipa, usize)> {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        if most == 0 {
            return None;
        }
        loop {
            let (index, offset) = self.at;
            let buffer = self.buffers.get(index)?;
            let bytes = (buffer.bytes - offset).min(most);
            if bytes == 0 {
                self.at = (index + 1, 0);
                continue;
            }
            self.at.1 += bytes;
            self.left -= u64::from(bytes);
            return Some((Ipa(buffer.ipa.0 + u64::from(offset)), bytes as usize));
        }
    }
}
