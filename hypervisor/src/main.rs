//! Cloister's EL2 hypervisor: the thin layer over `hyp-core` that touches the machine.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a bare-metal binary: run it with `cargo run` from the workspace");
}

#[cfg(target_os = "none")]
mod bare {
    bare_rt::image_main!(main, stack_bytes = 16 * 1024);

    fn main(_device_tree: u64) -> ! {
        loop {
            core::hint::spin_loop();
        }
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {
            core::hint::spin_loop();
        }
    }
}
