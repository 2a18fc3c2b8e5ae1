//! What the tests share.

pub mod alipay;
pub mod fakes;
pub mod program;
pub mod queue;
