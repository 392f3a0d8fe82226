//! What the figures are held against: Cloister's own bars, and what upstream Linux 7.3's pKVM takes for
//! the same in the same emulator.

use shared_abi::bench::Operation;

use super::figures::Figure;
use crate::failure::{Failure, Kind};

/// What one operation is held against, in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it may take in all.
    pub total: u64,
    /// What EL2's part of it may take, where that has a bar of its own.
    pub el2: Option<u64>,
    /// What it takes upstream, in all.
    pub upstream: u64,
    /// What EL2's part of it takes upstream, where that is known apart.
    pub upstream_el2: Option<u64>,
}

impl Bar {
    const fn new(total: u64, upstream: u64) -> Self {
        Self { total, el2: None, upstream, upstream_el2: None }
    }

    const fn with_el2(total: u64, el2: u64, upstream: u64, upstream_el2: u64) -> Self {
        Self { total, el2: Some(el2), upstream, upstream_el2: Some(upstream_el2) }
    }

    /// Whether a figure is within the bar.
    #[must_use]
    pub fn is_met(&self, figure: &Figure) -> bool {
        figure.p50 <= self.total && self.el2.is_none_or(|el2| figure.el2_p50 <= el2)
    }
}

/// MEM_SHARE and MEM_UNSHARE of one page upstream, which has no ranges.
const UPSTREAM_SHARE: u64 = 2482;
const UPSTREAM_UNSHARE: u64 = 2457;

/// The bar of an operation; `None` for what is only measured to be taken away.
#[must_use]
pub const fn bar(operation: Operation) -> Option<Bar> {
    Some(match operation {
        Operation::Empty | Operation::Control | Operation::LaunchPage | Operation::ZeroPage => {
            return None;
        }
        Operation::NullHypercall => Bar::new(90, 262),
        Operation::MemShare => Bar::new(320, UPSTREAM_SHARE),
        Operation::MemUnshare => Bar::new(360, UPSTREAM_UNSHARE),
        Operation::ShareUnshare1M => Bar::new(20_000, 256 * (UPSTREAM_SHARE + UPSTREAM_UNSHARE)),
        Operation::ShareUnshare2MAligned => Bar::new(2000, 512 * (UPSTREAM_SHARE + UPSTREAM_UNSHARE)),
        Operation::FirstTouch => Bar::with_el2(2150, 1550, 9205, 5960),
        Operation::Populate2MPage => Bar::new(250, 9070),
        Operation::MmioExit => Bar::with_el2(1000, 680, 9017, 3847),
        Operation::VmCreate => Bar::new(20_000, 370_336),
        Operation::ReclaimPage => Bar::new(500, 4065),
    })
}

/// What is wrong where a bar is missed.
#[must_use]
pub fn missed(figures: &[Figure]) -> Option<Failure> {
    let missed: Vec<&str> = figures
        .iter()
        .filter(|figure| bar(figure.operation).is_some_and(|bar| !bar.is_met(figure)))
        .map(|figure| figure.operation.name())
        .collect();
    (!missed.is_empty())
        .then(|| Failure::new(Kind::Run, format!("these operations miss their bars: {}", missed.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(operation: Operation, p50: u64, el2_p50: u64) -> Figure {
        Figure { operation, samples: 1, p50, min: p50, max: p50, el2_p50 }
    }

    #[test]
    fn both_parts_of_a_bar_count() {
        let met = figure(Operation::MmioExit, 1000, 680);
        let total = figure(Operation::MmioExit, 1001, 680);
        let el2 = figure(Operation::MmioExit, 1000, 681);
        assert_eq!(missed(&[met]), None);
        for missing in [total, el2] {
            let failure = missed(&[met, missing]).unwrap();
            assert!(failure.message.contains("mmio_exit"));
            assert_eq!(failure.kind.status(), 1);
        }
    }
}
