//! What the tests share.

pub mod alipay;
pub mod fakes;
