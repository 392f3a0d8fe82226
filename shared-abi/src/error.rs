//! Error codes, as they stand in x0.

/// Why a host call was refused. A refused call changed nothing, unless its documentation says that
/// it reports progress.
///
/// The first three are SMCCC's (DEN0028, section 5.4), the others Cloister's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(i64)]
pub enum CallError {
    /// No such call.
    #[error("not supported")]
    NotSupported = -1,
    /// A value that could never be right: out of range, misaligned, wrapping, an unknown flag.
    #[error("invalid parameter")]
    InvalidParameter = -3,
    /// The pages or the object are not in the state that the call needs: not the caller's, shared,
    /// already populated, already started.
    #[error("denied")]
    Denied = -16,
    /// In use: a vCPU that is loaded, a VM that is dying.
    #[error("busy")]
    Busy = -17,
    /// The VM's memory pool holds too few pages; x1 says how many more would do.
    #[error("the VM's pool needs more pages")]
    NoMemory = -18,
    /// The handle names nothing, or something that is gone.
    #[error("no such object")]
    NotFound = -19,
    /// Not finished: some of it was done (x1 says how many pages); call again.
    #[error("not finished, call again")]
    Again = -20,
    /// A fixed table of the hypervisor is full.
    #[error("too many")]
    Full = -21,
}

impl CallError {
    const ALL: [Self; 8] = [
        Self::NotSupported,
        Self::InvalidParameter,
        Self::Denied,
        Self::Busy,
        Self::NoMemory,
        Self::NotFound,
        Self::Again,
        Self::Full,
    ];

    /// The value of x0.
    #[must_use]
    pub const fn code(self) -> u64 {
        (self as i64).cast_unsigned()
    }

    /// The error that a value of x0 names: `None` for success and for codes that are none of ours.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.code() == code)
    }
}

/// Why a host call failed, and how far it came: x0 and x1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// x0.
    pub error: CallError,
    /// x1: what the call documents beside the error, else 0.
    pub value: u64,
}

impl CallFailure {
    /// [`CallError::Again`] after `pages` pages.
    #[must_use]
    pub const fn again(pages: u64) -> Self {
        Self { error: CallError::Again, value: pages }
    }

    /// [`CallError::NoMemory`]: the pool is short of `pages` pages.
    #[must_use]
    pub const fn no_memory(pages: u64) -> Self {
        Self { error: CallError::NoMemory, value: pages }
    }
}

impl From<CallError> for CallFailure {
    fn from(error: CallError) -> Self {
        Self { error, value: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_abi_and_zero_is_no_error() {
        // In the order of `ALL`, as docs/abi.md has them.
        let codes = [-1_i64, -3, -16, -17, -18, -19, -20, -21].map(i64::cast_unsigned);
        assert_eq!(CallError::ALL.map(CallError::code), codes);
        assert_eq!(codes.map(CallError::from_code), CallError::ALL.map(Some));
        assert_eq!(CallError::from_code(0), None);
    }
}
