//! The cause of a failed run, and the last lines of each console.

use super::Line;
use crate::facts::Facts;
use crate::failure::{Failure, Kind};
use crate::machine::Console;
use crate::run::Ended;

/// The cause of the failure of the whole run, if it failed. The points of the story are judged apart.
#[must_use]
pub fn failure(facts: &Facts, ended: &Ended, seconds: Option<u64>) -> Option<Failure> {
    if let Some(message) = &facts.panic {
        return Some(Failure::new(
            Kind::Panic,
            format!("the hypervisor panicked: {message}. This is a bug: please report it with this output"),
        ));
    }
    if let Some((who, message)) = &facts.refused {
        return Some(Failure::new(Kind::Refused, format!("the {who} refused to continue: {message}")));
    }
    match ended {
        Ended::PoweredOff => None,
        Ended::Stuck => Some(Failure::new(
            Kind::Run,
            "the machine announced its power-off, but QEMU did not end: run it again with --verbose",
        )),
        Ended::Broke(reason) => Some(Failure::new(Kind::Run, reason.clone())),
        Ended::TimedOut => {
            let limit = seconds.map_or(String::new(), |seconds| format!(" of {seconds} s"));
            Some(Failure::new(
                Kind::Timeout,
                format!(
                    "the run outlasted its time limit{limit}: {}. --timeout sets another limit",
                    progress(facts)
                ),
            ))
        }
    }
}

/// The failure of a run that ended by itself, if a point of its story does not hold.
#[must_use]
pub fn contradiction(lines: &[Line]) -> Option<Failure> {
    let wrong: Vec<String> = lines
        .iter()
        .filter(|line| !line.holds)
        .map(|line| format!("{}: {}", line.topic, line.text))
        .collect();
    (!wrong.is_empty())
        .then(|| Failure::new(Kind::Run, format!("some points do not hold: {}", wrong.join("; "))))
}

/// The progress of a run.
fn progress(facts: &Facts) -> &'static str {
    if facts.hypervisor.is_none() {
        "the hypervisor reported nothing (--gdb stops at the first instruction)"
    } else if facts.host.is_none() {
        "the hypervisor ran, but the host reported nothing"
    } else if facts.vm_start.is_none() {
        "the host ran, but started no VM"
    } else if facts.guest_end.is_none() {
        "the guest did not end"
    } else {
        "the guest ended, but the machine did not power off"
    }
}

/// The last lines of each console, for a run that failed.
#[must_use]
pub fn last_words(tails: &[(Console, Vec<String>)]) -> String {
    let mut text = String::new();
    for (console, lines) in tails {
        if lines.is_empty() {
            text.push_str(&format!("the {console}'s console is empty\n"));
        } else {
            text.push_str(&format!("the {console}'s last lines:\n"));
        }
        for line in lines {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text.trim_end().to_owned()
}
