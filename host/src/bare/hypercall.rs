//! Calls to the hypervisor: `hvc #0`.

use core::arch::asm;

use host::hypervisor::HostCalls;
use shared_abi::host_call::Arguments;

use super::bench;

/// The hypervisor at EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum El2 {
    /// Called as it is.
    Plain,
    /// Called by the benchmark's stopwatch.
    Timed,
}

/// `hvc #0` amid other instructions, with x0 and x1 to x17 as SMCCC 1.2 has them: they change, and
/// nothing else does.
macro_rules! hvc {
    ($x0:ident, $x:ident; $($line:literal)*; $($operand:ident = out(reg) $value:ident)*) => {
        asm!(
            $($line,)*
            $($operand = out(reg) $value,)*
            inlateout("x0") $x0,
            inlateout("x1") $x[0],
            inlateout("x2") $x[1],
            inlateout("x3") $x[2],
            inlateout("x4") $x[3],
            inlateout("x5") $x[4],
            inlateout("x6") $x[5],
            inlateout("x7") $x[6],
            inlateout("x8") $x[7],
            inlateout("x9") $x[8],
            inlateout("x10") $x[9],
            inlateout("x11") $x[10],
            inlateout("x12") $x[11],
            inlateout("x13") $x[12],
            inlateout("x14") $x[13],
            inlateout("x15") $x[14],
            inlateout("x16") $x[15],
            inlateout("x17") $x[16],
            options(nostack),
        )
    };
}

impl HostCalls for El2 {
    #[inline(always)]
    fn invoke(&self, function: u32, x: &mut Arguments) -> u64 {
        let mut x0 = u64::from(function);
        match self {
            Self::Plain => {
                // SAFETY: a call of the host's. What it takes of the host's memory the caller has
                // given away.
                unsafe { hvc!(x0, x; "hvc #0";) }
            }
            Self::Timed => {
                let (entered, left);
                // SAFETY: as above; reading the counter changes nothing.
                unsafe {
                    hvc!(
                        x0, x;
                        "isb" "mrs {entered}, cntvct_el0" "hvc #0" "isb" "mrs {left}, cntvct_el0";
                        entered = out(reg) entered left = out(reg) left
                    );
                }
                bench::keep_crossing(entered, left);
            }
        }
        x0
    }
}
