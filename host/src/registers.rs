//! The host of the system tests of registers (docs/verification.md): it gives turns to two VMs of one payload,
//! and looks at its own registers between them.
//!
//! It is a binary of its own on the machine of the bare-metal host; the shipped host has none of it.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(
        unsafe_code,
        reason = "device registers, page frames and faulting accesses have no safe interface"
    ),
    expect(dead_code, reason = "the shipped host uses the rest of the machine")
)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod bare;

#[cfg(target_os = "none")]
mod registers {
    mod console;
    mod fp;
    mod party;
    mod sweep;

    use core::fmt::Write as _;

    use bootimg::Kind;
    use host::config::HostConfig;
    use shared_abi::sweep::Plan;

    use crate::bare::boot_image::BootImage;
    use crate::bare::devices::Devices;
    use crate::bare::guest::Error;
    use console::Lines;
    use party::Party;

    /// Runs two VMs of the payload for each test, one after the other.
    pub(crate) fn run(image: &BootImage, devices: Devices) -> Result<(), Error> {
        let config: HostConfig = image.text(Kind::HostArgs).parse()?;
        console::open(devices.console.ok_or(Error::NoDevice("console"))?);
        let parties = launch(image, &config, "fp")?;
        for party in fp::run(parties) {
            party.destroy()?;
        }
        let plan = Plan::parse(image.content(Kind::Initrd).unwrap_or_default());
        let plan = plan.ok_or(Error::NoPart(Kind::Initrd))?;
        let parties = launch(image, &config, "sweep")?;
        for party in sweep::run(parties, &plan) {
            party.destroy()?;
        }
        Ok(())
    }

    /// Runs the other CPUs' share.
    pub(crate) fn work() -> ! {
        fp::work()
    }

    /// Launches two VMs of the payload; boot arguments name the test and the VM's number.
    fn launch(image: &BootImage, config: &HostConfig, test: &str) -> Result<[Party; 2], Error> {
        let launch = |number: u64| {
            let mut arguments = heapless::String::<64>::new();
            // The payload refuses arguments that are cut off.
            let _ = write!(arguments, "test={test} party={number}");
            Party::launch(image, config, &arguments)
        };
        Ok([launch(1)?, launch(2)?])
    }

    /// Writes a line beside those of the guests.
    fn report(text: core::fmt::Arguments<'_>) {
        let _ = writeln!(Lines::default(), "{text}");
    }
}

#[cfg(target_os = "none")]
bare::boot::host!(registers::run, registers::work);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a bare-metal binary: `cargo test -p tests --test registers` boots it");
}
