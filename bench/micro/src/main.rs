//! The program `tachyon-micro`: the library's commands, with every allocation counted.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use tachyon_micro::allocations::Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() -> ExitCode {
    tachyon_micro::run()
}
