//! Admission: from bytes to a verdict. A pure function of the bytes, the time and one immutable
//! [`policy::Policy`]: no I/O, no clock, no panic on any input (design.md, invariant 4).

pub mod key_ring;
pub mod policy;
