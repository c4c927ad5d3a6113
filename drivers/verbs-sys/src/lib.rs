//! The C interface of verbs (libibverbs), as the installed headers have it.
//!
//! Made by bindgen when it is built, so that it follows whichever rdma-core is there (31 and newer); inline functions of
//! the headers are compiled once. It deliberately holds no types of its own and makes nothing safe: that is the
//! driver's task.
#![allow(
    non_upper_case_globals,
    non_camel_case_types,
    non_snake_case,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    reason = "this is what bindgen made of C"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
