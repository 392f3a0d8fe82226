//! The actions that change a machine from outside, and their text form: one line each.
//!
//! ```text
//! vm-create protected=1 first=60 pages=8
//! object-create vm=vm0 pages=6
//! load cpu=0 vm=vm0 vcpu=0
//! guest cpu=0 share 0x20000 4 0
//! put cpu=0
//! touch page=70
//! ```
//!
//! `vm0` is the first VM that the run made, `object1` the second object. A number stands for itself. A `#` starts a
//! comment.

use core::fmt;
use core::str::FromStr;
use std::string::String;
use std::vec::Vec;

use shared_abi::host_call::{Arguments, HostCall};

/// The host's calls and their arguments, by function number.
pub const CALLS: [(&str, &[&str]); 16] = [
    ("version", &[]),
    ("vm-create", &["protected", "first", "pages"]),
    ("vm-top-up", &["vm", "first", "pages"]),
    ("object-create", &["vm", "pages"]),
    ("object-bind", &["object", "offset", "gfn", "pages"]),
    ("object-unbind", &["object", "offset", "pages"]),
    ("object-populate", &["object", "offset", "first", "pages", "keep"]),
    ("object-reclaim", &["object", "offset", "pages"]),
    ("object-query", &["object", "offset"]),
    ("object-destroy", &["object"]),
    ("vcpu-create", &["vm", "index"]),
    ("vm-start", &["vm", "entry", "argument"]),
    ("vcpu-run", &["vm", "vcpu"]),
    ("vm-destroy", &["vm"]),
    ("force-reclaim", &["page"]),
    ("vm-counters", &["vm"]),
];

/// A register's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arg {
    /// A number.
    Value(u64),
    /// The handle of VM number n of this run, counted from 0.
    Vm(usize),
    /// The handle of object number n of this run, counted from 0.
    Object(usize),
}

/// An action of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestStep {
    /// MEM_SHARE with `[x1, x2, x3]`: x2 pages from the IPA x1 on.
    Share([u64; 3]),
    /// MEM_UNSHARE with the same registers.
    Unshare([u64; 3]),
    /// MEM_RELINQUISH with `[x1, x2, x3]`: the page at the IPA x1.
    Relinquish([u64; 3]),
    /// PSCI CPU_ON of the vCPU with this index.
    CpuOn(u32),
    /// PSCI CPU_OFF of the calling vCPU.
    CpuOff,
    /// PSCI SYSTEM_OFF.
    SystemOff,
    /// An 8-byte write of 0 to the start of a page.
    Touch(u64),
}

/// An action on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The host makes a call.
    Host {
        /// The function number: an index of [`CALLS`].
        call: usize,
        /// x1 to x5.
        x: [Arg; 5],
    },
    /// The host accesses a page, and takes a stage-2 fault if the page is not mapped.
    Touch {
        /// The page number.
        page: u64,
    },
    /// The host enters a vCPU on a CPU.
    Load {
        /// The CPU.
        cpu: usize,
        /// The VM.
        vm: Arg,
        /// The vCPU.
        vcpu: u32,
    },
    /// The guest that is loaded on a CPU acts.
    Guest {
        /// The CPU.
        cpu: usize,
        /// The guest's action.
        call: GuestStep,
    },
    /// The vCPU on a CPU has exited or is interrupted. The CPU puts it back into its VM.
    Put {
        /// The CPU.
        cpu: usize,
    },
}

impl Action {
    /// Makes a call in which each handle in `vms` and `objects` is replaced by its index there.
    #[must_use]
    pub fn host(call: &HostCall, vms: &[u32], objects: &[u32]) -> Self {
        let (function, registers) = call.emit();
        let call = (function & 0xff) as usize;
        let mut x = [Arg::Value(0); 5];
        for (arg, value) in x.iter_mut().zip(registers) {
            *arg = Arg::Value(value);
        }
        let place = |known: &[u32]| {
            let is = |handle: &u32| u64::from(*handle) == registers[0];
            known.iter().rposition(is)
        };
        let named = match CALLS.get(call).and_then(|(_, names)| names.first()) {
            Some(&"vm") => place(vms).map(Arg::Vm),
            Some(&"object") => place(objects).map(Arg::Object),
            _ => None,
        };
        if let Some(named) = named {
            x[0] = named;
        }
        Self::Host { call, x }
    }

    /// Returns the function ID and the registers of a host call.
    #[must_use]
    pub fn registers(call: usize, x: &[Arg; 5], value: impl Fn(Arg) -> u64) -> (u32, Arguments) {
        let mut registers = [0; 17];
        for (register, arg) in registers.iter_mut().zip(x) {
            *register = value(*arg);
        }
        let (first, _) = HostCall::Version.emit();
        (first | u32::try_from(call).unwrap_or(u32::MAX), registers)
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Value(value) if value > 9999 => write!(f, "{value:#x}"),
            Self::Value(value) => write!(f, "{value}"),
            Self::Vm(index) => write!(f, "vm{index}"),
            Self::Object(index) => write!(f, "object{index}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { call, x } => {
                let (name, names) = CALLS.get(*call).copied().unwrap_or(("?", &[]));
                write!(f, "{name}")?;
                for (name, arg) in names.iter().zip(x) {
                    write!(f, " {name}={arg}")?;
                }
                Ok(())
            }
            Self::Touch { page } => write!(f, "touch page={}", Arg::Value(*page)),
            Self::Load { cpu, vm, vcpu } => write!(f, "load cpu={cpu} vm={vm} vcpu={vcpu}"),
            Self::Put { cpu } => write!(f, "put cpu={cpu}"),
            Self::Guest { cpu, call } => {
                write!(f, "guest cpu={cpu} ")?;
                match call {
                    GuestStep::Share([ipa, n, x3]) => write!(f, "share {ipa:#x} {n} {x3}"),
                    GuestStep::Unshare([ipa, n, x3]) => write!(f, "unshare {ipa:#x} {n} {x3}"),
                    GuestStep::Relinquish([ipa, x2, x3]) => {
                        write!(f, "relinquish {ipa:#x} {x2} {x3}")
                    }
                    GuestStep::CpuOn(vcpu) => write!(f, "cpu-on {vcpu}"),
                    GuestStep::CpuOff => write!(f, "cpu-off"),
                    GuestStep::SystemOff => write!(f, "system-off"),
                    GuestStep::Touch(gfn) => write!(f, "touch {gfn}"),
                }
            }
        }
    }
}

/// A line that does not parse as an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine(pub String);

impl FromStr for Arg {
    type Err = BadLine;

    fn from_str(text: &str) -> Result<Self, BadLine> {
        let bad = || BadLine(text.into());
        if let Some(index) = text.strip_prefix("vm") {
            return index.parse().map(Self::Vm).map_err(|_| bad());
        }
        if let Some(index) = text.strip_prefix("object") {
            return index.parse().map(Self::Object).map_err(|_| bad());
        }
        let value = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        value.map(Self::Value).map_err(|_| bad())
    }
}

impl FromStr for Action {
    type Err = BadLine;

    fn from_str(line: &str) -> Result<Self, BadLine> {
        let bad = || BadLine(line.into());
        let mut words = line.split_whitespace();
        let verb = words.next().ok_or_else(bad)?;
        let words: Vec<&str> = words.collect();
        let plain: Vec<Arg> = words.iter().filter_map(|word| word.rsplit('=').next()?.parse().ok()).collect();
        let arg = |name: &str| {
            let found = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.ok_or_else(bad)?.parse::<Arg>()
        };
        let number = |name: &str| match arg(name)? {
            Arg::Value(value) => Ok(value),
            _ => Err(bad()),
        };
        let small = |name: &str| usize::try_from(number(name)?).map_err(|_| bad());
        Ok(match verb {
            "touch" => Self::Touch { page: number("page")? },
            "load" => Self::Load {
                cpu: small("cpu")?,
                vm: arg("vm")?,
                vcpu: u32::try_from(number("vcpu")?).map_err(|_| bad())?,
            },
            "put" => Self::Put { cpu: small("cpu")? },
            "guest" => {
                let value = |index: usize| match plain.get(index) {
                    Some(Arg::Value(value)) => Ok(*value),
                    _ => Err(bad()),
                };
                let three = || Ok::<_, BadLine>([value(1)?, value(2)?, value(3)?]);
                let call = match words.get(1).copied().ok_or_else(bad)? {
                    "share" => GuestStep::Share(three()?),
                    "unshare" => GuestStep::Unshare(three()?),
                    "relinquish" => GuestStep::Relinquish(three()?),
                    "cpu-on" => GuestStep::CpuOn(u32::try_from(value(1)?).map_err(|_| bad())?),
                    "cpu-off" => GuestStep::CpuOff,
                    "system-off" => GuestStep::SystemOff,
                    "touch" => GuestStep::Touch(value(1)?),
                    _ => return Err(bad()),
                };
                Self::Guest { cpu: small("cpu")?, call }
            }
            _ => {
                let call = CALLS.iter().position(|(name, _)| *name == verb).ok_or_else(bad)?;
                let names = CALLS.get(call).map_or(&[][..], |(_, names)| names);
                let mut x = [Arg::Value(0); 5];
                for (slot, name) in x.iter_mut().zip(names) {
                    *slot = arg(name)?;
                }
                Self::Host { call, x }
            }
        })
    }
}

/// Parses a script: one action a line. Empty lines and comments (from `#` on) are ignored.
///
/// # Errors
///
/// The first line that does not parse as an action.
pub fn parse(script: &str) -> Result<Vec<Action>, BadLine> {
    script
        .lines()
        .map(|line| line.split('#').next().unwrap_or("").trim())
        .filter(|line| !line.is_empty())
        .map(str::parse)
        .collect()
}
