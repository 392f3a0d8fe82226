//! Reads the fuzzer's bytes as a stream of choices.
//!
//! Integers are little-endian. Missing bytes are zero, so every input is valid, a shorter input is a shorter run, and
//! seeds can be written by hand.

/// The rest of an input.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Makes a reader of a whole input.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Returns true if no byte is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next `count` bytes, or fewer if the input ends.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Returns all bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// Returns the next byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Returns the next 2 bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Returns the next 4 bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Returns the next 8 bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Returns a number that is usually small. Bytes 0xf0 and 0xf1 start a number of 8 or 2 bytes, 0xf2 to 0xf5 stand
    /// for extreme values, and any other byte is the number itself.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            0xf0 => self.u64(),
            0xf1 => self.u16().into(),
            0xf2 => u64::MAX,
            0xf3 => 1 << 52,
            0xf4 => (1 << 52) - 1,
            0xf5 => u64::MAX - u64::from(self.u8()),
            byte => byte.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_ends_in_zeroes() {
        let mut input = Input::new(&[1, 2, 3]);
        assert_eq!((input.u8(), input.u32(), input.u64()), (1, 0x0302, 0));
        assert!(input.is_empty());
        let mut input = Input::new(&[0xf1, 0x34, 0x12, 0xf2, 9]);
        assert_eq!((input.number(), input.number(), input.number()), (0x1234, u64::MAX, 9));
    }
}
