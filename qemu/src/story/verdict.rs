//! Why a run failed, and who said what last.

use super::Line;
use crate::facts::Facts;
use crate::failure::{Failure, Kind};
use crate::machine::Console;
use crate::run::Ended;

/// Why the run as a whole failed, if it did; the points of the story come on top of that.
#[must_use]
pub fn failure(facts: &Facts, ended: &Ended, seconds: Option<u64>) -> Option<Failure> {
    if let Some(message) = &facts.panic {
        return Some(Failure::new(Kind::Panic, format!("the hypervisor panicked: {message}")));
    }
    if let Some((who, message)) = &facts.refused {
        return Some(Failure::new(Kind::Refused, format!("the {who} refused to go on: {message}")));
    }
    match ended {
        Ended::PoweredOff => None,
        Ended::Stuck => Some(Failure::new(Kind::Run, "the machine said that it powers off, and did not")),
        Ended::Broke(reason) => Some(Failure::new(Kind::Run, reason.clone())),
        Ended::TimedOut => {
            let limit = seconds.map_or(String::new(), |seconds| format!(" of {seconds} s"));
            Some(Failure::new(
                Kind::Timeout,
                format!("the run outlasted its time{limit}: {}", progress(facts)),
            ))
        }
    }
}

/// What is wrong with a story that came to its end, if anything is.
#[must_use]
pub fn contradiction(lines: &[Line]) -> Option<Failure> {
    let wrong: Vec<String> = lines
        .iter()
        .filter(|line| !line.holds)
        .map(|line| format!("{}: {}", line.topic, line.text))
        .collect();
    (!wrong.is_empty())
        .then(|| Failure::new(Kind::Run, format!("not everything is as it must be: {}", wrong.join("; "))))
}

/// How far a run came.
fn progress(facts: &Facts) -> &'static str {
    if facts.hypervisor.is_none() {
        "the hypervisor reported nothing (--gdb waits at the first instruction)"
    } else if facts.host.is_none() {
        "the hypervisor runs, the host reported nothing"
    } else if facts.vm_start.is_none() {
        "the host runs, no VM was started"
    } else if facts.guest_end.is_none() {
        "the guest had not ended"
    } else {
        "the guest had ended, the machine had not powered off"
    }
}

/// Who said what last, for a run that failed.
#[must_use]
pub fn last_words(tails: &[(Console, Vec<String>)]) -> String {
    let mut text = String::new();
    for (console, lines) in tails {
        if lines.is_empty() {
            text.push_str(&format!("the {console} said nothing\n"));
        } else {
            text.push_str(&format!("the {console} said last:\n"));
        }
        for line in lines {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text.trim_end().to_owned()
}
