#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| alipay_notify_gateway_fuzz::signing_content(data));
