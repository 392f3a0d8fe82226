//! From counts to figures: what is the stopwatch's is taken away, and EL2's part told from the host's.

use shared_abi::bench::{CONTROL_TURNS, Operation};

use super::bars;
use super::samples::{Sample, Samples};
use crate::failure::{Failure, Kind, Result};

/// What an operation costs, in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Which operation.
    pub operation: Operation,
    /// How often it was timed.
    pub samples: usize,
    /// The median.
    pub p50: u64,
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
    /// The median of the part outside the host: EL2's, and the one instruction of the guest's.
    pub el2_p50: u64,
}

impl Figure {
    /// The same without so many instructions of EL2's in each sample.
    const fn without(self, instructions: u64) -> Self {
        Self {
            p50: self.p50.saturating_sub(instructions),
            min: self.min.saturating_sub(instructions),
            max: self.max.saturating_sub(instructions),
            el2_p50: self.el2_p50.saturating_sub(instructions),
            ..self
        }
    }
}

/// One sample, split: instructions in all and outside the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    total: u64,
    el2: u64,
}

/// The figures of all operations that have a bar, in their order.
///
/// # Errors
///
/// When the counter does not count instructions, or something was not measured.
pub fn figures(samples: &Samples) -> Result<Vec<Figure>> {
    let stopwatch = stopwatch(samples)?;
    let measured = |operation| {
        let costs: Vec<Cost> =
            samples.of(operation).map(|sample| split(sample, samples, stopwatch)).collect();
        figure(operation, &costs)
            .ok_or_else(|| Failure::new(Kind::Run, format!("the run reported no samples of {operation}")))
    };
    // What it costs to measure a page for launch: hashing it instead of wiping it.
    let hashing =
        measured(Operation::LaunchPage)?.el2_p50.saturating_sub(measured(Operation::ZeroPage)?.el2_p50);
    Operation::ALL
        .iter()
        .copied()
        .filter(|operation| bars::bar(*operation).is_some())
        .map(|operation| {
            let figure = measured(operation)?;
            Ok(match operation {
                Operation::VmCreate => figure.without(hashing),
                _ => figure,
            })
        })
        .collect()
}

/// What a reading of the counter costs, seen to be the same each time; and the control, seen to be what
/// it must be.
fn stopwatch(samples: &Samples) -> Result<u64> {
    let spans = |operation| {
        let mut spans: Vec<u64> =
            samples.of(operation).map(|sample| sample.end.saturating_sub(sample.start)).collect();
        spans.dedup();
        spans
    };
    let &[reading] = &spans(Operation::Empty)[..] else {
        return Err(Failure::new(
            Kind::Run,
            "the counter's readings differ in cost: QEMU does not count instructions (-icount)",
        ));
    };
    let control = spans(Operation::Control);
    if control != [2 * CONTROL_TURNS + reading] {
        return Err(Failure::new(
            Kind::Run,
            format!(
                "{CONTROL_TURNS} turns of two instructions took {control:?} ticks: QEMU does not count \
                 instructions (-icount)"
            ),
        ));
    }
    Ok(reading)
}

/// Splits a sample at the host's crossings.
///
/// The host runs from one crossing's `left` to the next one's `entered`. What else there is of the
/// sample's time is EL2's, if the host timed it only as far as there is a crossing: before its first
/// one and after its last one the host runs as well. Each piece ends with a reading of the counter, which
/// is the stopwatch's.
fn split(sample: &Sample, samples: &Samples, stopwatch: u64) -> Cost {
    let inside = |count: u64| sample.start <= count && count <= sample.end;
    let mut cost = Cost { total: 0, el2: 0 };
    let mut at = sample.start;
    // Whether the piece that ends at a reading was the host's.
    let mut piece = |until: u64, host: bool| {
        let instructions = (until - at).saturating_sub(stopwatch);
        cost.total += instructions;
        if !host {
            cost.el2 += instructions;
        }
        at = until;
    };
    for crossing in &samples.crossings {
        if inside(crossing.entered) {
            piece(crossing.entered, true);
        }
        if inside(crossing.left) {
            piece(crossing.left, false);
        }
    }
    // The last piece is the host's if the host was back for good when the sample ended.
    let host_timed = samples
        .crossings
        .iter()
        .rev()
        .find(|crossing| crossing.entered <= sample.end)
        .is_some_and(|crossing| crossing.left <= sample.end);
    piece(sample.end, host_timed);
    Cost { total: cost.total.div_ceil(sample.units), el2: cost.el2.div_ceil(sample.units) }
}

/// The figure of an operation; `None` without a sample.
fn figure(operation: Operation, costs: &[Cost]) -> Option<Figure> {
    let mut totals: Vec<u64> = costs.iter().map(|cost| cost.total).collect();
    let mut el2: Vec<u64> = costs.iter().map(|cost| cost.el2).collect();
    totals.sort_unstable();
    el2.sort_unstable();
    Some(Figure {
        operation,
        samples: costs.len(),
        p50: median(&totals)?,
        min: *totals.first()?,
        max: *totals.last()?,
        el2_p50: median(&el2)?,
    })
}

/// The middle of sorted values; of two, the greater one.
fn median(sorted: &[u64]) -> Option<u64> {
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::super::samples::Crossing;
    use super::*;

    const READING: u64 = 2;

    fn sample(operation: Operation, start: u64, end: u64, units: u64) -> Sample {
        Sample { operation, start, end, units }
    }

    /// A guest runs from 100 to 300 and from 400 on; the host between, and before 100.
    fn crossings() -> Samples {
        Samples {
            samples: Vec::new(),
            crossings: vec![Crossing { entered: 100, left: 300 }, Crossing { entered: 400, left: 900 }],
        }
    }

    #[test]
    fn an_exit_is_split_where_the_host_was() {
        let exit = sample(Operation::MmioExit, 250, 450, 1);
        let cost = split(&exit, &crossings(), READING);
        // Three pieces: 50 until the host is back, 100 there, 50 until the guest goes on.
        assert_eq!(cost.total, 200 - 3 * READING);
        assert_eq!(cost.el2, 100 - 2 * READING);
    }

    #[test]
    fn a_call_of_the_guests_is_all_el2s() {
        let call = sample(Operation::MemShare, 150, 250, 1);
        let cost = split(&call, &crossings(), READING);
        assert_eq!((cost.total, cost.el2), (98, 98));
    }

    #[test]
    fn what_the_host_times_begins_and_ends_in_the_host() {
        let call = sample(Operation::Populate2MPage, 90, 310, 4);
        let cost = split(&call, &crossings(), READING);
        assert_eq!(cost.total, (10 + 200 + 10 - 3 * READING).div_ceil(4));
        assert_eq!(cost.el2, (200 - READING).div_ceil(4));
    }

    #[test]
    fn what_ends_in_the_guest_is_el2s_to_the_end() {
        let create = sample(Operation::VmCreate, 350, 500, 1);
        let cost = split(&create, &crossings(), READING);
        assert_eq!(cost.total, 150 - 2 * READING);
        assert_eq!(cost.el2, 100 - READING);
    }

    #[test]
    fn a_figure_is_in_order() {
        let cost = |total| Cost { total, el2: total / 2 };
        let costs = [9, 3, 5, 7].map(cost);
        let figure = figure(Operation::MmioExit, &costs).unwrap();
        assert_eq!((figure.min, figure.p50, figure.max), (3, 7, 9));
        assert_eq!((figure.samples, figure.el2_p50), (4, 3));
        assert_eq!(super::figure(Operation::MmioExit, &[]), None);
    }

    #[test]
    fn a_clock_that_counts_something_else_is_refused() {
        let times = |empty: &[u64], control: u64| {
            let mut samples = Samples::default();
            for end in empty {
                samples.samples.push(sample(Operation::Empty, 0, *end, 1));
            }
            samples.samples.push(sample(Operation::Control, 0, control, 1));
            stopwatch(&samples)
        };
        assert_eq!(times(&[2, 2], 2002), Ok(2));
        assert!(times(&[2, 3], 2002).is_err());
        assert!(times(&[2, 2], 2001).is_err());
        assert!(times(&[], 2002).is_err());
    }
}
