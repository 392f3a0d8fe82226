//! The smallest payload: it says hello, sleeps for a moment, and turns its VM off.
#![cfg_attr(target_os = "none", no_std, no_main)]

guest_kernel::payload!(run);

#[cfg(target_os = "none")]
fn run(guest: &mut guest_kernel::Guest) -> Result<(), guest_kernel::Failure> {
    use core::time::Duration;
    use guest_kernel::{println, time};

    println!(
        "Hello from {} VM, arguments: {:?}",
        if guest.is_protected() { "a protected" } else { "an ordinary" },
        guest.machine().bootargs
    );
    time::sleep(Duration::from_millis(10));
    println!("Good night.");
    Ok(())
}
