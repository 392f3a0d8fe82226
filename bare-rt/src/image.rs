//! The arm64 `Image` header, the entry point, and the layout of the linked binary.

use core::ops::Range;

/// The boot structure of a secondary CPU. For PSCI `CPU_ON`, the entry point is the physical address of
/// `secondary_start`, and the context ID is that of this structure.
///
/// The CPU reads it with its MMU off. The caller keeps it alive, and cleans it to the point of coherency before the
/// call.
#[derive(Debug)]
#[repr(C)]
pub struct SecondaryBoot {
    /// The end of the CPU's stack (exclusive), 16-byte aligned.
    pub stack_top: u64,
    /// The function that the CPU calls on that stack, with the MMU still off.
    pub entry: extern "C" fn(argument: u64) -> !,
    /// The argument of `entry`.
    pub argument: u64,
}

/// Names the function that the entry point calls on the boot CPU, and sets the size of its stack.
///
/// The function runs with the MMU off, at the exception level of the boot loader. Its argument is the physical
/// address of the device tree.
///
/// ```ignore
/// bare_rt::image_main!(main, stack_bytes = 64 * 1024);
/// fn main(device_tree: u64) -> ! { loop {} }
/// ```
#[macro_export]
macro_rules! image_main {
    ($main:path, stack_bytes = $bytes:expr) => {
        const _: () = {
            #[repr(C, align(4096))]
            struct Stack(core::cell::UnsafeCell<[u8; $bytes]>);
            // SAFETY: no code refers to `STACK`, so no two CPUs can race on it. `_start` takes the boot CPU's stack
            // pointer from the section's end.
            unsafe impl Sync for Stack {}
            // SAFETY: `image.ld` puts only this static into `.stack`, and reserves the section in memory after
            // `.bss`. Any bytes are a valid stack.
            #[unsafe(link_section = ".stack")]
            #[used]
            static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; $bytes]));

            // SAFETY: no other crate exports this symbol (a second one is a linker error), and the function has the
            // signature that `_start` expects.
            #[unsafe(export_name = "bare_rt_main")]
            extern "C" fn bare_rt_main(device_tree: u64) -> ! {
                let main: fn(u64) -> ! = $main;
                main(device_tree)
            }
        };
    };
}

#[cfg(target_os = "none")]
mod entry {
    use core::arch::naked_asm;

    /// `R_AARCH64_RELATIVE` of the ELF for the Arm 64-bit Architecture: base + addend.
    const R_AARCH64_RELATIVE: u32 = 1027;

    /// Header flags: little-endian, 4 KiB pages, any place in RAM.
    const IMAGE_FLAGS: u64 = 0b1010;

    unsafe extern "C" {
        fn bare_rt_main(device_tree: u64) -> !;
        static __rela_start: u8;
        static __rela_end: u8;
        static __bss_start: u8;
        static __bss_end: u8;
        static __stack_top: u8;
        static __image_start: u8;
    }

    /// The 64-byte Image header and the code that it branches to.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    #[unsafe(link_section = ".text.head")]
    unsafe extern "C" fn _start() -> ! {
        naked_asm!(
            "b 2f",
            "nop",
            ".quad 0", // text_offset
            ".quad __image_size",
            ".quad {flags}",
            ".quad 0, 0, 0",
            ".ascii \"ARM\\x64\"",
            ".long 0", // no PE header
            "2:",
            "mov x19, x0",
            // Apply the relocations. The binary is linked at 0, so the base is the load address.
            "adrp x9, {image_start}",
            "add x9, x9, :lo12:{image_start}",
            "adrp x10, {rela_start}",
            "add x10, x10, :lo12:{rela_start}",
            "adrp x11, {rela_end}",
            "add x11, x11, :lo12:{rela_end}",
            "3:",
            "cmp x10, x11",
            "b.hs 4f",
            "ldp x12, x13, [x10], #16", // r_offset, r_info
            "ldr x14, [x10], #8",       // r_addend
            "cmp w13, #{relative}",
            "b.ne 3b",
            "add x14, x14, x9",
            "str x14, [x9, x12]",
            "b 3b",
            "4:",
            "adrp x10, {bss_start}",
            "add x10, x10, :lo12:{bss_start}",
            "adrp x11, {bss_end}",
            "add x11, x11, :lo12:{bss_end}",
            "5:",
            "cmp x10, x11",
            "b.hs 6f",
            "stp xzr, xzr, [x10], #16", // both ends are page aligned
            "b 5b",
            "6:",
            "adrp x10, {stack_top}",
            "add x10, x10, :lo12:{stack_top}",
            "mov sp, x10",
            "mov x0, x19",
            "mov x29, xzr",
            "mov x30, xzr",
            "dsb sy",
            "isb",
            "b {main}",
            flags = const IMAGE_FLAGS,
            relative = const R_AARCH64_RELATIVE,
            image_start = sym __image_start,
            rela_start = sym __rela_start,
            rela_end = sym __rela_end,
            bss_start = sym __bss_start,
            bss_end = sym __bss_end,
            stack_top = sym __stack_top,
            main = sym bare_rt_main,
        )
    }

    /// The entry point of a secondary CPU. PSCI passes the physical address of a
    /// [`SecondaryBoot`](super::SecondaryBoot) in x0.
    ///
    /// # Safety
    ///
    /// Only PSCI starts a CPU here.
    #[unsafe(naked)]
    pub unsafe extern "C" fn secondary_start() -> ! {
        naked_asm!(
            "ldr x10, [x0, #{stack_top}]",
            "ldr x11, [x0, #{entry}]",
            "ldr x0, [x0, #{argument}]",
            "mov sp, x10",
            "mov x29, xzr",
            "mov x30, xzr",
            "br x11",
            stack_top = const core::mem::offset_of!(super::SecondaryBoot, stack_top),
            entry = const core::mem::offset_of!(super::SecondaryBoot, entry),
            argument = const core::mem::offset_of!(super::SecondaryBoot, argument),
        )
    }
}

#[cfg(target_os = "none")]
pub use entry::secondary_start;

/// The parts of the running binary: half-open, page-aligned ranges of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Code: mapped executable and read-only.
    pub text: Range<u64>,
    /// Constants and relocations: read-only, never executable.
    pub rodata: Range<u64>,
    /// Data, `.bss` and the boot stack: writable, never executable.
    pub data: Range<u64>,
}

impl Layout {
    /// Returns the layout of the running binary.
    #[cfg(target_os = "none")]
    #[must_use]
    pub fn current() -> Self {
        unsafe extern "C" {
            static __image_start: u8;
            static __text_end: u8;
            static __rodata_end: u8;
            static __image_end: u8;
        }
        let start = (&raw const __image_start).addr() as u64;
        let text_end = (&raw const __text_end).addr() as u64;
        let rodata_end = (&raw const __rodata_end).addr() as u64;
        let end = (&raw const __image_end).addr() as u64;
        Self { text: start..text_end, rodata: text_end..rodata_end, data: rodata_end..end }
    }

    /// Returns the whole image, from its first byte to the end of `.bss` and the stack.
    #[must_use]
    pub fn image(&self) -> Range<u64> {
        self.text.start..self.data.end
    }
}
