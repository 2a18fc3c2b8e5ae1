//! The words of `explain` in Chinese: the same sentences as in [`super::english`], one for one.

use super::capture::Shape;
use super::cause::{Cause, Damage, Mistake};
use super::judgement::Reason;
use super::language::Labels;
use crate::admission::Rejection;
use crate::admission::acceptance::Objection;
use crate::admission::form::FormError;
use crate::admission::signing_content::Version;

/// The labels of the screen.
pub(super) const LABELS: Labels = Labels {
    signature: "签名        ",
    announces: "发布        ",
    event_id: "事件 id     ",
    reason: "原因        ",
    nothing: "无",
    not_verified: "验签失败",
};

/// How the signature verified.
pub(super) fn authentic(fingerprint: &str, version: Version) -> String {
    let version = match version {
        Version::V1 => "V1：不含 sign 和 sign_type",
        Version::V2 => "V2：不含 sign",
    };
    format!("真实，公钥 {fingerprint}（{version}）")
}

/// Above the signing content.
pub(super) fn heading(bytes: usize, hidden: bool) -> String {
    let hidden = if hidden { "，买家信息已隐藏" } else { "" };
    format!("待签名字符串，{bytes} 字节，以 `&` 连接（此处已转义{hidden}）：")
}

/// In the place of a buyer's data.
pub(super) fn hidden(bytes: usize) -> String {
    format!("（{bytes} 字节，已隐藏）")
}

/// Behind the beginning of a long value.
pub(super) fn of_length(characters: usize) -> String {
    format!("（共 {characters} 个字符）")
}

/// Behind as many lines as a screen has.
pub(super) fn left_out(more: usize) -> String {
    format!("（还有 {more} 个，见 JSON）")
}

/// Why nothing is announced.
pub(super) fn reason(reason: Reason) -> String {
    match reason {
        Reason::Rejected(rejection) => rejected(rejection),
        Reason::Held(objection) => objected(objection),
    }
}

fn rejected(rejection: Rejection) -> String {
    match rejection {
        Rejection::Malformed(error) => match error {
            FormError::Empty => "请求体是空的",
            FormError::Nameless => "有参数没有名字，或没有 `=`",
            FormError::BadName => "参数名里含有 `&` 或 `=`",
            FormError::BadEscape => "`%` 后面不是两个十六进制数字",
            FormError::Doubled => "同一个参数出现了两次",
            FormError::TooMany => "参数太多",
        },
        Rejection::Partner => "这是 2016 年以前没有 app_id 的合作伙伴（partner）接口，不支持",
        Rejection::NoAppId => "没有 app_id",
        Rejection::UnknownApp => "app_id 不在配置中",
        Rejection::SignType => "sign_type 不是该应用固定使用的类型",
        Rejection::NoSignature => "没有 sign",
        Rejection::SignatureForm => "sign 不是与公钥长度正好相符的 base64",
        Rejection::MissingField(name) => return format!("缺少字段 {name}"),
        Rejection::ShadowKey => "只有处于影子模式的公钥能验证这个签名",
        Rejection::Signature => "该应用的任何公钥都不能验证这个签名",
        Rejection::ReturnUrl => "这是 return_url 的查询串（浏览器跳转回来），不是异步通知",
    }
    .to_owned()
}

fn objected(objection: Objection) -> String {
    match objection {
        Objection::Seller => "seller_id 不是该应用的卖家".to_owned(),
        Objection::Grammar(name) => format!("起决定作用的字段 {name} 格式不对"),
        Objection::Ambiguous(name) => {
            format!(
                "某个参数值里含有看起来像字段 {name} 的内容，或该字段本身就是某段文本的一部分：字段边界可能被移动过"
            )
        }
        Objection::Stale => "notify_time 早于 freshness.max_age：重放，或时钟不准".to_owned(),
    }
}

/// What was captured, where it is not a body.
pub(super) fn shape(shape: Shape) -> &'static str {
    match shape {
        Shape::Request => "输入是整个 HTTP 请求：只判断了请求头之后的部分。",
        Shape::Json => "输入是 JSON，而支付宝发送的不是 JSON：已把其中的参数当作表单来判断。",
        Shape::Dump => "输入是程序打印出的映射，而支付宝发送的不是这种形式：已把其中的参数当作表单来判断。",
        Shape::Encoded => {
            "整个请求体又被百分号编码了一次（程序写日志时常这样做）：已解码一次后判断。支付宝不会这样发送。"
        }
        Shape::LogLine => "输入是一行日志：只判断了其中看起来像请求体的部分。",
    }
}

fn damaged(damage: Damage) -> &'static str {
    match damage {
        Damage::PlusLost => "其中的每个 `+` 变成了空格",
        Damage::WhiteSpace => "混入了空白字符",
        Damage::EncodedTwice => "多做了一次百分号编码",
        Damage::EncodedTwiceAndPlusLost => "多做了一次百分号编码，并且每个 `+` 变成了空格",
        Damage::UrlSafe => "被换成了 URL 安全的 base64 字母表",
        Damage::PaddingLost => "末尾的 `=` 丢失了",
        Damage::PaddingAndPlusLost => "末尾的 `=` 丢失了，并且每个 `+` 变成了空格",
        Damage::UrlSafeWithoutPadding => "被换成了 URL 安全的 base64 字母表，并且没有末尾的 `=`",
    }
}

fn mistake(mistake: &Mistake) -> String {
    match mistake {
        Mistake::HtmlEscaped => "参数值被做了 HTML 转义（`\"` 变成 `&quot;`）".to_owned(),
        Mistake::HtmlUnescaped(name) => format!("`{name}` 被做了 HTML 反转义"),
        Mistake::Backslashes => "参数值被加上了反斜杠（`\"` 变成 `\\\"`）".to_owned(),
        Mistake::PlusLost(names) => format!("{} 里的 `+` 变成了空格", list(names)),
        Mistake::SpaceBecamePlus(names) => format!("{} 里的空格变成了 `+`", list(names)),
        Mistake::EncodedTwice(names) => format!("多做了一次百分号编码：{}", list(names)),
        Mistake::DecodedTwice(name) => {
            format!("`{name}` 被百分号解码了两次（支付宝按商户编码后的原样签名）")
        }
        Mistake::SplitAfterDecoding(names) => {
            format!("整个请求体先解码、再按 `&` 拆分：{} 其实属于前一个参数的值", list(names))
        }
        Mistake::FromGbk => "验签之前把参数值从 GBK 转成了 UTF-8".to_owned(),
        Mistake::FromUtf8 => "验签之前把参数值从 UTF-8 转成了 GBK".to_owned(),
        Mistake::Mojibake => "UTF-8 的参数值被当成 Latin-1 读取".to_owned(),
        Mistake::Trimmed(name) => format!("`{name}` 两端的空白被去掉了"),
        Mistake::Padded(names) => format!("{} 多出了空白", list(names)),
        Mistake::Added(names) => format!("多出了 {}：支付宝没有发送它", list(names)),
        Mistake::EmptyLost(name) => format!("丢掉了 `{name}`，支付宝签名时它是空值"),
        Mistake::Amounts => "金额被当成数字读取，丢失了小数位".to_owned(),
        Mistake::ByteOrderMark => "请求体前多了字节顺序标记（BOM）".to_owned(),
        Mistake::JsonRewritten => "参数值里的 JSON 被解析后重新写出".to_owned(),
    }
}

/// Why it does not verify.
pub(super) fn cause(cause: &Cause) -> String {
    match cause {
        Cause::NoSign => "没有 `sign`，无法验签。请保存完整的请求体。".to_owned(),
        Cause::SignDamaged(damage) => {
            format!("`sign` 在途中被改动：{}。请保存原始请求体。", damaged(*damage))
        }
        Cause::SignUnreadable => {
            "`sign` 不是 base64，恢复 `+` 或补齐 `=` 也不行：它被截断或改动了。".to_owned()
        }
        Cause::SignLength { bytes, keys } => format!(
            "签名有 {bytes} 字节，而给出的公钥对应 {} 字节：签名被截断，或是用另一种长度的密钥签的（RSA2 为 256 字节，旧的 RSA 为 128 字节）。",
            keys.iter().map(usize::to_string).collect::<Vec<_>>().join(" 或 ")
        ),
        Cause::OtherKey { app_id } => format!(
            "给出的公钥都不是签出这个签名的密钥，或者签名本身已损坏；这里与内容无关。最常见的原因：把**应用自己的公钥**当成了**支付宝公钥**（应用 {} 的开放平台控制台里的“支付宝公钥”，或 alipayCertPublicKey_RSA2.crt）。其次：沙箱与生产的公钥弄混，或换密钥之前的旧公钥。",
            app_id.as_deref().unwrap_or("（未写明）")
        ),
        Cause::KeyOfApp { app_id, environment } => format!(
            "签出这个签名的是配置中应用 {app_id}（{environment}）的密钥，而不是所判断应用的：要么它本来就是那个应用的通知，要么两个应用的公钥或环境弄混了。"
        ),
        Cause::OtherHash { signed_with } => format!(
            "公钥是对的，但签名用的是 sign_type {}，不是所期望的。请在开放平台控制台选择 RSA2，或在应用的配置中写明这个 sign_type。",
            signed_with.as_str()
        ),
        Cause::Undone(mistakes) => {
            let told: Vec<String> = mistakes.iter().map(mistake).collect();
            format!("公钥是对的，还原以下改动后验签通过：{}。", told.join("；"))
        }
        Cause::Altered => "公钥是对的，签名也完整，但内容不是支付宝所签的：有值被修改、增加或丢失，而且不属于常见的错误。如果这不是伪造，请在任何框架处理之前保存原始请求体。"
            .to_owned(),
        Cause::NotPlain => {
            "公钥是对的，验签也通过，但输入不是规整的表单：外面多了东西，或里面被反转义过。请保存原始请求体。"
                .to_owned()
        }
        Cause::V2 => "把 `sign_type` 也放进待签名字符串（V2）时验签通过，这是应用网关消息的签法：这样的通知无论带什么字段都不是交易，`serve` 也不会把它当作交易发布。"
            .to_owned(),
        Cause::Replaced(name) => format!(
            "`{name}` 里有替换字符：请求体曾用错误的字符集解码，已无法还原所签的内容。请对原始字节验签。"
        ),
        Cause::Md5 => {
            "`sign` 是 MD5 摘要，由支付宝与商户共享的密钥生成（旧合作伙伴接口的方式）：任何公钥都验不了它。".to_owned()
        }
        Cause::Sm2 => {
            "请求体写的 sign_type 是 SM2：本网关只验证 RSA2，以及配置中写明的 RSA。请在开放平台控制台选择 RSA2。".to_owned()
        }
        Cause::SandboxApp => {
            "这个 app_id 是沙箱应用：它的通知要用沙箱的支付宝公钥，并设置 environment = \"sandbox\"。".to_owned()
        }
    }
}

/// What to do about a reason for which nothing is announced.
pub(super) fn advice(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::Malformed(error) => malformed(error),
        Rejection::Partner => "请把接入迁移到应用（app_id）；不支持合作伙伴接口。",
        Rejection::NoAppId => "应用的通知都带有 app_id：保存的是完整的请求体吗？",
        Rejection::UnknownApp => "请把该应用加入 [[apps]]，或不要把它的 notify_url 指向这个网关。",
        Rejection::SignType => {
            "sign_type 本身不在签名之内，因此不能由它来选择算法：请在应用配置里固定（sign_type = \"RSA2\"；要用 \"RSA\" 必须明确写出）。"
        }
        Rejection::NoSignature => "每个通知都有 `sign`：保存的是完整的请求体吗？",
        Rejection::SignatureForm => "`sign` 必须是与公钥长度正好相符的普通 base64。",
        Rejection::MissingField(_) => "支付宝总会发送这个字段：请求体缺了一部分。",
        Rejection::ShadowKey => {
            "支付宝已经用 shadow_public_keys 里的密钥签名：请把它移到 alipay_public_keys，旧公钥再保留 26 小时。"
        }
        Rejection::Signature => "`serve` 不接受这一类通知使用这样的签名。",
        Rejection::ReturnUrl => {
            "这是浏览器带到 return_url 的；付款以发往 notify_url 的异步通知为准，那是另一个请求。"
        }
    }
}

fn malformed(error: FormError) -> &'static str {
    match error {
        FormError::Empty => "请通过 FILE 或标准输入给出 POST 请求的请求体。",
        FormError::Nameless | FormError::BadName | FormError::BadEscape => {
            "需要支付宝发送的原始请求体，保持百分号编码。"
        }
        FormError::Doubled => "支付宝的每个参数只出现一次：查询参数被并入了请求体，或有人在试探。",
        FormError::TooMany => "真实的通知连十分之一都没有。",
    }
}

/// What to do about a notification that is held.
pub(super) fn held(objection: Objection) -> &'static str {
    match objection {
        Objection::Seller => "如果这个卖家是你的，请加入该应用的 seller_ids。",
        Objection::Grammar(_) | Objection::Ambiguous(_) => {
            "签名是真的，但字段的含义不确定：请在支付宝后台查看这笔交易，然后放行（release）或丢弃（drop）。"
        }
        Objection::Stale => "每次真实的投递都有新的 notify_time：这是被保存后重发的，或者有时钟不准。",
    }
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join("、")
}
