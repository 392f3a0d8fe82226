//! The instructions of the shipped hypervisor, read from its ELF file: QEMU forgives a missing barrier, TLBI or
//! cache maintenance, and a trace tells what was meant to be executed. Here it is looked at what is there.

mod a64;
mod binary;
mod sequences;
mod switch;
mod symbolic;
