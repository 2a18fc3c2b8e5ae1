#!/usr/bin/env bash
# Shows that the simulation can fail: in a temporary copy it breaks one rule at a time, in src/publication or in the
# simulated store, and demands that the simulation finds it, with the words for it, within a bounded number of
# notifications. Names of breaks as arguments: only those. Ends with 1 if a break is not found, or cannot be applied.
#   SABOTAGE_NOTIFICATIONS=60000   how long each is looked for
#   SABOTAGE_PROFILE=dev           cargo profile
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# A folder of its own: the broken program would lie where the whole one is looked for, and be taken for it.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/sabotage"
export SIMULATION_NOTIFICATIONS="${SABOTAGE_NOTIFICATIONS:-60000}"
unset SIMULATION_SEED SIMULATION_TOLD SIMULATION_FIRST_SEED
work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-sabotage.XXXXXX")
trap 'rm -rf "$work"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --create | tar --extract --directory "$work"
cd "$work"
wanted=("$@")
unfound=0

simulate() {
  cargo test --locked --quiet --profile "${SABOTAGE_PROFILE:-dev}" --test simulation -- whatever_breaks >.output 2>&1
}

# breaks NAME FILE WORDS PERL: applies PERL to FILE, and expects WORDS in what the simulation says.
breaks() {
  local name=$1 file=$2 words=$3 perl=$4
  if ((${#wanted[@]} > 0)) && [[ ! " ${wanted[*]} " == *" $name "* ]]; then return; fi
  cp "$file" .whole
  perl -0pi -e "$perl" "$file"
  if cmp -s "$file" .whole; then
    echo "$name: does not apply to $file any more" >&2
    exit 1
  fi
  if simulate; then
    printf '%-26s NOT FOUND within %s notifications\n' "$name" "$SIMULATION_NOTIFICATIONS"
    unfound=1
  elif ! grep -q "$words" .output; then
    printf '%-26s failed otherwise:\n' "$name"
    tail -30 .output
    unfound=1
  else
    printf '%-26s found: %s\n' "$name" "$(grep -m1 -o "seed.*$words.*" .output | cut -c1-150)"
  fi
  cp .whole "$file"
}

attribution=src/publication/attribution.rs
breaks own-return-ignored $attribution 'was recorded, and the broker did not confirm it' \
  's/Confirm::Ack\(None\) if self\.returned => Some\(Verdict::Returned\),\n//'
breaks other-return-believed $attribution 'was recorded, and the broker did not confirm it' \
  's/Standing::Open => None/Standing::Open => Some(Verdict::Confirmed)/'
breaks broken-batch-believed $attribution 'was recorded, and the broker did not confirm it' \
  's/(Standing::Broken => Some\(if self\.returned \{ Verdict::Returned \} else \{ Verdict::)Lost/$1Confirmed/'
breaks nack-believed $attribution 'was recorded, and the broker did not confirm it' \
  's/Confirm::Nack\(_\) => Some\(Verdict::Nacked\)/Confirm::Nack(_) => Some(Verdict::Confirmed)/'
breaks lost-channel-believed $attribution 'was recorded, and the broker did not confirm it' \
  's/(Confirm::Lost \| Confirm::NotRequested => Some\(Verdict::)Lost/$1Confirmed/'
breaks doubt-not-waited-for src/publication/doubt.rs 'was in doubt, and 60 s were not over' \
  's/let mut doubt_until = Some\(Instant::now\(\) \+ DOUBT\)/let mut doubt_until = Some(Instant::now())/'
breaks doubt-ends-the-flight src/publication/doubt.rs 'was in doubt, and 60 s were not over' \
  's/self\.flight\.answer\(key/self.flight.complete(key/'
breaks late-confirm-ends-flight src/publication/doubt.rs 'was published again\|was said on the ground of' \
  's/ready\.job\.leads = false;//'
breaks finish-shares-payment src/publication/flight.rs 'was said on the ground of' \
  's/let finishes = self\.finishes \|\| entry\.finishes/let finishes = self.finishes/'
breaks answered-before-record src/publication/recording.rs 'was said, and the record of' \
  's/(let records = \|\|)/for one in &done { let e = one.job.event(); self.flight.answer(&one.job.key(), &Settlement::Confirmed { event_id: e.id.as_str().to_owned(), event_type: e.event_type, at: one.at }); }\n        $1/'
breaks flight-before-record src/publication/recording.rs 'was published again: it was confirmed' \
  's/(let records = \|\|)/for one in &done { self.flight.complete(&one.job.key(), &Settlement::Refused); }\n        $1/'
breaks unrecorded-forgotten src/publication/recording.rs 'was published again: it was confirmed' \
  's/let lost = self\.unrecorded\.keep\(records\(\)\)/let lost = records().len() - done.len()/'
breaks nothing-kept src/publication/keeping.rs 'lost: ' \
  's/match within\(STORE_DEADLINE, self\.store\.defer\(deferrals\)\)\.await/match Ok::<_, crate::store::StoreError>(deferrals.iter().map(|_| Kept::Yes).collect::<Vec<_>>())/'
breaks nothing-drained src/publication.rs 'not everything was announced although all was well' \
  's/shared\.tasks\.spawn_vital\(backlog::drain\(Arc::clone\(&shared\)\)\);/let _ = backlog::drain(Arc::clone(&shared));/'
breaks store-does-not-sync tests/simulation/store.rs 'the record of .* is not on the disk' \
  's/(return None;\s*\}\s*)inner\.disk\.sync\(\);/$1/'
# Several gateways over one store: worlds of their own.
export SIMULATION_FIRST_SEED=$(((1 << 32) + 1))
breaks success-on-a-claim src/publication/claim.rs 'was said, and the broker did not confirm' \
  's/\(None, Claim::HeldElsewhere\) => \{\s*self\.park\(job\);/(None, Claim::HeldElsewhere) => { let (event_id, event_type) = (job.event().id.as_str().to_owned(), job.event().event_type); self.give_up(job, Settlement::Recorded { event_id, event_type });/'
breaks claim-of-others-ignored src/publication/claim.rs 'was published again: another gateway had it' \
  's/\(None, Claim::HeldElsewhere\) => \{\s*self\.park\(job\);\s*continue;\s*\}/(None, Claim::HeldElsewhere) => None,/'
breaks lease-not-asked-for src/publication/lane.rs 'was published again: another gateway had it' \
  's/let patience = patience\.max\(self\.config\.confirm_timeout\)\.min\(lease\)/let _ = lease; let patience = patience.max(self.config.confirm_timeout)/'
breaks store-ignores-leases tests/simulation/store.rs 'was published again: another gateway had it' \
  's/\*holder != life && now < \*until/false \&\& *holder != life \&\& now < *until/'
breaks anybodys-lease-released tests/simulation/store.rs 'was published again: another gateway had it' \
  's/if self\.disk\.leases\.get\(key\)\.is_some_and\(\|\(holder, _\)\| \*holder == self\.life\.incarnation\) \{/{/'
breaks doubt-is-not-renewed src/publication/doubt.rs 'was published again: another gateway had it' \
  's/\(shared\.store\.lease\(\) != Duration::MAX\)\.then/false.then/'
breaks doubt-is-not-leased tests/simulation/store.rs 'was published again: another gateway had it' \
  's/if state == State::InDoubt && !settled/if false \&\& !settled/'
exit $unfound
