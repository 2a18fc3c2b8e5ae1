//! One Lua script an operation. Each begins with what they share (`row.lua`), is sent once to each node, and is named by
//! its hash from then on.

use redis::Script;

/// The scripts.
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) release: Script,
    pub(super) renew: Script,
    pub(super) record: Script,
    pub(super) clear: Script,
    pub(super) defer: Script,
    pub(super) aside: Script,
    pub(super) hold: Script,
    pub(super) decide: Script,
    pub(super) heads: Script,
    pub(super) due: Script,
    pub(super) look: Script,
    pub(super) entries: Script,
    pub(super) tally: Script,
    pub(super) merge: Script,
    pub(super) probe: Script,
    pub(super) horizon: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let of_waiting = |body: &str| of(&[include_str!("waiting.lua"), body].concat());
        Self {
            claim: of(include_str!("claim.lua")),
            release: of(include_str!("release.lua")),
            renew: of(include_str!("renew.lua")),
            record: of(include_str!("record.lua")),
            clear: of(include_str!("clear.lua")),
            defer: of(include_str!("defer.lua")),
            aside: of(include_str!("aside.lua")),
            hold: of(include_str!("hold.lua")),
            decide: of(include_str!("decide.lua")),
            heads: of(include_str!("heads.lua")),
            due: of_waiting(include_str!("due.lua")),
            look: of_waiting(include_str!("look.lua")),
            entries: of(include_str!("entries.lua")),
            tally: tally(),
            merge: of(include_str!("merge.lua")),
            probe: of(include_str!("probe.lua")),
            horizon: of(include_str!("horizon.lua")),
        }
    }
}

/// How much waits: it writes nothing.
pub(super) fn tally() -> Script {
    of(include_str!("tally.lua"))
}

fn of(body: &str) -> Script {
    Script::new(&[include_str!("row.lua"), body].concat())
}
