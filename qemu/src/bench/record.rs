//! The record of `bench primitives`: `cloister.bench-primitives/1`.
//!
//! It holds no date and no path, so that two runs compare equal.

use serde::Serialize;

use super::figures::Figure;
use super::{Measured, bars};
use crate::failure::{Failure, FailureRecord};
use crate::machine::{CPU, Clock};

/// The record.
#[derive(Debug, Serialize)]
pub struct PrimitivesRecord {
    schema: &'static str,
    ok: bool,
    error: Option<FailureRecord>,
    machine: MachineRecord,
    command: Option<String>,
    operations: Vec<OperationRecord>,
}

#[derive(Debug, Serialize)]
struct MachineRecord {
    qemu: Option<String>,
    cpu: &'static str,
    cntfrq_hz: u64,
    icount: &'static str,
}

#[derive(Debug, Serialize)]
struct OperationRecord {
    name: &'static str,
    unit: &'static str,
    samples: usize,
    p50: u64,
    min: u64,
    max: u64,
    el2_p50: u64,
    bar: Option<u64>,
    upstream: Option<u64>,
}

impl PrimitivesRecord {
    /// What came out.
    #[must_use]
    pub fn new(measured: &Measured) -> Self {
        Self {
            schema: "cloister.bench-primitives/1",
            ok: measured.failure.is_none(),
            error: measured.failure.as_ref().map(Failure::record),
            machine: MachineRecord {
                qemu: measured.qemu.clone(),
                cpu: CPU,
                cntfrq_hz: Clock::FREQUENCY_HZ,
                icount: Clock::ICOUNT,
            },
            command: measured.command.clone(),
            operations: measured.figures.iter().map(operation).collect(),
        }
    }
}

fn operation(figure: &Figure) -> OperationRecord {
    let bar = bars::bar(figure.operation);
    OperationRecord {
        name: figure.operation.name(),
        unit: "instructions",
        samples: figure.samples,
        p50: figure.p50,
        min: figure.min,
        max: figure.max,
        el2_p50: figure.el2_p50,
        bar: bar.map(|bar| bar.total),
        upstream: bar.map(|bar| bar.upstream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_on_failure_too() {
        let measured = Measured { failure: Some(Failure::usage("no such flag")), ..Measured::default() };
        let text = serde_json::to_string(&PrimitivesRecord::new(&measured)).unwrap();
        assert!(text.starts_with(
            "{\"schema\":\"cloister.bench-primitives/1\",\"ok\":false,\"error\":{\"code\":\"usage\""
        ));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["machine"]["qemu"].is_null() && value["command"].is_null());
        assert_eq!(value["operations"], serde_json::json!([]));
    }
}
