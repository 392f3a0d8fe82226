//! Error codes in x0.

/// The reason to refuse a host call. A refused call changes nothing, unless its documentation says that it reports
/// progress.
///
/// The codes of the first two are SMCCC's (DEN0028, section 5.4). The others are Cloister's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(i64)]
pub enum CallError {
    /// The function does not exist.
    #[error("not supported")]
    NotSupported = -1,
    /// The value is never valid: out of range, misaligned, wrapping, or with an unknown flag.
    #[error("invalid parameter")]
    InvalidParameter = -3,
    /// A page, the object or the VM is in the wrong state: for example, a page is not the caller's, is shared
    /// or is already populated, or the VM has started.
    #[error("denied")]
    Denied = -16,
    /// In use: a vCPU is loaded, or the VM is being destroyed.
    #[error("busy")]
    Busy = -17,
    /// The VM's pool has too few pages. x1 is the number of pages to add.
    #[error("the VM's pool needs more pages")]
    NoMemory = -18,
    /// The handle names no live VM, object or vCPU.
    #[error("no such object")]
    NotFound = -19,
    /// Part of the call is complete: x1 is the number of pages done. Call again.
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

    /// Returns the error's value of x0.
    #[must_use]
    pub const fn code(self) -> u64 {
        (self as i64).cast_unsigned()
    }

    /// Returns the error that a value of x0 encodes, or `None` for success and for unknown codes.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.code() == code)
    }
}

/// The failure of a host call: x0 and x1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// x0.
    pub error: CallError,
    /// x1: the value that the call documents for this error, otherwise 0.
    pub value: u64,
}

impl CallFailure {
    /// Makes [`CallError::Again`] after `pages` pages.
    #[must_use]
    pub const fn again(pages: u64) -> Self {
        Self { error: CallError::Again, value: pages }
    }

    /// Makes [`CallError::NoMemory`]: the pool needs `pages` more pages.
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
        // These codes are in the order of `ALL`. docs/abi.md lists the same codes.
        let codes = [-1_i64, -3, -16, -17, -18, -19, -20, -21].map(i64::cast_unsigned);
        assert_eq!(CallError::ALL.map(CallError::code), codes);
        assert_eq!(codes.map(CallError::from_code), CallError::ALL.map(Some));
        assert_eq!(CallError::from_code(0), None);
    }
}
