//! What the tests share.

pub mod alipay;
pub mod amqp_peer;
pub mod broker;
pub mod fakes;
pub mod program;
pub mod proxy;
pub mod queue;
