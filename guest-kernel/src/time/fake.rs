//! Time for unit tests: it passes when somebody waits.

use core::time::Duration;
use std::cell::RefCell;

thread_local! {
    static MEANWHILE: RefCell<Option<Box<dyn FnMut()>>> = RefCell::default();
}

/// From now on `act` is done each time that somebody has looked whether what they wait for has
/// happened: another CPU, as it were.
pub(crate) fn meanwhile(act: impl FnMut() + 'static) {
    MEANWHILE.set(Some(Box::new(act)));
}

/// Looks twice: what has not happened by then never does.
pub(crate) fn wait_until(_timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    (0..2).any(|_| {
        let seen = done();
        MEANWHILE.with_borrow_mut(|act| act.as_mut().map(|act| act()));
        seen
    })
}
