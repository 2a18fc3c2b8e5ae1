//! An exhaustive model of publication: every order of everything that can happen to a few deliveries of one trade,
//! with one gateway, or two over one store, the link and the broker, and a crash between any two steps. `steps.rs` says
//! which function each step stands for; `world.rs` is what there is.
//!
//! It is a transcription: what it proves is the protocol, not the code. That the code follows it is for the simulation
//! and the real crashes. Each way of breaking the protocol below makes a property fail, so the properties can fail.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a model: it may fail loudly"
)]

mod steps;
mod world;

use stateright::{Checker as _, HasDiscoveries, Model, Property};

use steps::{Happening, Protocol, Step};
use world::{Delivery, Event, Faults, Id, Money, Publication, RowState, Stage, Window, World};

/// What is played.
#[derive(Debug, Clone)]
struct Scene {
    protocol: Protocol,
    /// The deliveries of the trade, by their money.
    deliveries: Vec<Money>,
    replicas: usize,
    faults: Faults,
}

impl Scene {
    fn of(deliveries: &[Money], faults: Faults) -> Self {
        Self { protocol: Protocol::Real, deliveries: deliveries.to_vec(), replicas: 1, faults }
    }

    fn shared(deliveries: &[Money], faults: Faults) -> Self {
        Self { replicas: 2, ..Self::of(deliveries, faults) }
    }
}

const NO_FAULT: Faults =
    Faults { crashes: 0, losses: 0, closes: 0, silences: 0, refusals: 0, store: 0, leases: 0, forgets: 0 };
const EVERY_FAULT: Faults =
    Faults { crashes: 1, losses: 1, closes: 1, silences: 1, refusals: 1, store: 1, ..NO_FAULT };

/// Two deliveries of one payment, and one fault of every kind but a channel exception.
fn two_deliveries() -> Scene {
    Scene::of(&[Money::A, Money::A], Faults { closes: 0, ..EVERY_FAULT })
}

/// A delivery of a payment, and one that says other money of the same trade.
fn other_money() -> Scene {
    Scene::of(&[Money::A, Money::B], Faults { losses: 0, closes: 0, refusals: 0, ..EVERY_FAULT })
}

impl Model for Scene {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.deliveries.len(), self.replicas, self.faults)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        world.steps(self.protocol, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        Happening { world: &mut next, protocol: self.protocol, money: &self.deliveries }.take(&step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(SUCCESS_IS_CONFIRMED, success_is_confirmed),
            Property::always(NOTHING_IS_LOST, nothing_is_lost),
            Property::always(RECORDED_IS_CONFIRMED, recorded_is_confirmed),
            Property::always(NO_REPEAT_WITHOUT_A_WINDOW, |_, world: &World| !world.overlapped),
            Property::always(ONE_ID_ONE_FACT, one_id_one_fact),
            Property::always(ALL_IS_ANNOUNCED_IN_THE_END, all_is_announced_in_the_end),
        ];
        if self.replicas > 1 {
            properties.push(Property::always(ONE_DRAINS_IT, one_drains_it));
            properties.extend(self.windows_of_many());
        } else {
            properties.extend(self.windows_of_one());
        }
        properties
    }
}

impl Scene {
    /// What one gateway alone must be seen to come to.
    fn windows_of_one(&self) -> Vec<Property<Self>> {
        let mut properties = Vec::new();
        let mut reached = |name, condition: fn(&Self, &World) -> bool| {
            properties.push(Property::sometimes(name, condition));
        };
        reached("a crash between confirm and record repeats it", |_, world| {
            repeated(world, Window::BeforeRecord)
        });
        reached("a crash before the confirm is seen repeats it", |_, world| {
            repeated(world, Window::BeforeConfirm)
        });
        reached("in doubt, released, published again", |_, world| repeated(world, Window::Released));
        reached("in doubt, released, and its late confirm is recorded", |_, world| {
            is_recording(world, |job| !job.leads)
        });
        reached("in doubt, and its late confirm is recorded", |_, world| {
            let doubted = world.left.silences == 0 && world.deliveries.contains(&Delivery::Fail);
            doubted && is_recording(world, |job| job.leads)
        });
        reached("kept, and announced by the drain", |_, world| is_recording(world, |job| job.drained));
        reached("a delivery waits for another one's flight", |_, world| {
            let mut flights = world.replicas.iter().flat_map(|replica| replica.flights.iter().flatten());
            flights.any(|flight| flight.waiting.len() > 1)
        });
        if self.faults.store > 0 {
            reached("success, and the record is in memory alone", |_, world| {
                let mut unrecorded = world.replicas.iter().flat_map(|replica| replica.unrecorded);
                world.deliveries.contains(&Delivery::Success) && unrecorded.any(|one| one.is_some())
            });
        }
        if self.deliveries.contains(&Money::B) {
            reached("other money is a conflict", |_, world| {
                world.deliveries.last() == Some(&Delivery::Success)
                    && world.confirmed[Event::conflict(Money::B).column()]
            });
            reached(TWO_FACTS, |_, world| stands_for_two_facts(world));
            reached(LEFT_WAITING, |_, world| world.deliveries.contains(&Delivery::LeftWaiting));
        }
        properties
    }

    /// What two over one store must be seen to come to.
    fn windows_of_many(&self) -> Vec<Property<Self>> {
        let mut properties = Vec::new();
        let mut reached = |is_possible, name, condition: fn(&Self, &World) -> bool| {
            if is_possible {
                properties.push(Property::sometimes(name, condition));
            }
        };
        let faults = self.faults;
        reached(true, "another gateway is at it", |_, world| {
            let mut jobs = world.jobs().filter(|(_, job)| job.stage == Stage::Queued);
            jobs.any(|(at, job)| world.is_held_elsewhere(at, job.event.id))
        });
        reached(true, "another gateway is at it until the deadline", |_, world| {
            world.deliveries.contains(&Delivery::LeftWaiting)
        });
        reached(true, "success from another gateway's record", |_, world| {
            let is_success = world.deliveries.iter().all(|delivery| *delivery == Delivery::Success);
            let published = world.replicas.iter().map(|replica| replica.attempts[0].stage);
            is_success && published.filter(|stage| *stage != Publication::None).count() == 1
        });
        reached(true, "kept by one, and announced by another", |_, world| {
            let mut jobs = world.jobs();
            jobs.any(|(at, job)| {
                let others = world.replicas.iter().enumerate().filter(|(other, _)| *other != at);
                job.drained
                    && matches!(job.stage, Stage::Recording { .. })
                    && others.into_iter().any(|(_, other)| other.attempts[0].stage != Publication::None)
            })
        });
        reached(faults.crashes > 0, "a crash before the confirm is seen repeats it", |_, world| {
            repeated(world, Window::BeforeConfirm)
        });
        reached(faults.crashes > 0, "a crash between confirm and record repeats it", |_, world| {
            repeated(world, Window::BeforeRecord)
        });
        reached(faults.silences > 0, "in doubt, released, published again", |_, world| {
            repeated(world, Window::Released)
        });
        reached(faults.leases > 0, "a lease runs out under its holder", |_, world| {
            repeated(world, Window::LeaseRanOut)
        });
        reached(faults.forgets > 0, "a store that forgets repeats it", |_, world| {
            repeated(world, Window::Forgotten)
        });
        reached(faults.store > 0, "a claim that is not answered repeats it", |_, world| {
            repeated(world, Window::Unchecked)
        });
        properties
    }
}

const SUCCESS_IS_CONFIRMED: &str = "success is said only of what the broker has confirmed";
const NOTHING_IS_LOST: &str = "what was answered success, or recorded, is in a queue";
const RECORDED_IS_CONFIRMED: &str = "the store claims recorded only of what the broker has confirmed";
const NO_REPEAT_WITHOUT_A_WINDOW: &str = "nothing is published again outside of a documented window";
const ONE_ID_ONE_FACT: &str = "a repeat bears the same id, and an id stands for one fact";
const ALL_IS_ANNOUNCED_IN_THE_END: &str =
    "when nothing moves any more, what was kept is announced, and all if nothing failed";

/// What the model has found and what stays: docs/reliability.md, "The model".
const TWO_FACTS: &str = "a crash makes one id stand for two facts";
const LEFT_WAITING: &str = "one of other money is left to Alipay while it waits for a flight";
const ONE_DRAINS_IT: &str = "what is kept is handed out to one gateway at a time, unless its lease ran out";

fn success_is_confirmed(scene: &Scene, world: &World) -> bool {
    let is_confirmed = |money| {
        [Event::payment(money), Event::conflict(money)].iter().any(|event| world.confirmed[event.column()])
    };
    let answered = world.deliveries.iter().zip(&scene.deliveries);
    answered.into_iter().all(|(delivery, money)| *delivery != Delivery::Success || is_confirmed(*money))
}

fn nothing_is_lost(scene: &Scene, world: &World) -> bool {
    let answered = world.deliveries.iter().zip(&scene.deliveries);
    let recorded = Id::ALL.into_iter().all(|id| match world.rows[id as usize] {
        Some(row) if row.state == RowState::Recorded => {
            world.copies[Event { id, money: row.money }.column()] > 0
        }
        Some(_) | None => true,
    });
    recorded
        && answered
            .into_iter()
            .all(|(delivery, money)| *delivery != Delivery::Success || world.is_announced(*money))
}

fn recorded_is_confirmed(_: &Scene, world: &World) -> bool {
    Id::ALL.into_iter().all(|id| match world.rows[id as usize] {
        Some(row) if row.state == RowState::Recorded => {
            world.confirmed[Event { id, money: row.money }.column()]
        }
        Some(_) | None => true,
    })
}

/// Where other money comes first after a crash that cut off a publication before anything of it was written, or while
/// the store does not answer, the store cannot know that the id stands for something else already.
fn one_id_one_fact(scene: &Scene, world: &World) -> bool {
    let Faults { crashes, store, leases, forgets, .. } = scene.faults;
    let left = world.left;
    let forgot =
        left.crashes < crashes || left.store < store || left.leases < leases || left.forgets < forgets;
    forgot || !stands_for_two_facts(world)
}

fn stands_for_two_facts(world: &World) -> bool {
    let has = |event: Event| world.copies[event.column()] > 0;
    let twice = |money| has(Event::payment(money)) && has(Event::conflict(money));
    has(Event::payment(Money::A)) && has(Event::payment(Money::B)) || twice(Money::A) || twice(Money::B)
}

fn all_is_announced_in_the_end(scene: &Scene, world: &World) -> bool {
    let mut steps = Vec::new();
    world.steps(scene.protocol, &mut steps);
    if steps.iter().any(|step| step.is_progress(world)) {
        return true;
    }
    let (left, faults) = (world.left, scene.faults);
    let nothing_failed =
        left.crashes == faults.crashes && left.store == faults.store && left.forgets == faults.forgets;
    // While another gateway is at other money, nothing of this one's is kept here.
    let nothing_failed = nothing_failed && (scene.replicas == 1 || !scene.deliveries.contains(&Money::B));
    let all_ended = world
        .replicas
        .iter()
        .all(|replica| replica.jobs.is_empty() && replica.flights.iter().all(Option::is_none));
    let none_waits = world.rows.iter().flatten().all(|row| row.state == RowState::Recorded);
    let announced = |(delivery, money): (&Delivery, &Money)| {
        let is_excused = *delivery == Delivery::LeftWaiting || !nothing_failed;
        world.is_announced(*money) || (is_excused && !world.kept[*money as usize])
    };
    all_ended
        && none_waits
        && world.deliveries.iter().all(|delivery| !matches!(delivery, Delivery::Waiting(_)))
        && world.deliveries.iter().zip(&scene.deliveries).all(announced)
}

fn repeated(world: &World, window: Window) -> bool {
    let payment = Id::Payment as usize;
    let mut attempts = world.replicas.iter().map(|replica| replica.attempts[payment].stage);
    let is_confirmed = attempts.any(|stage| stage == Publication::Confirmed);
    is_confirmed && world.repeats[payment] == Some(window) && world.copies[0] > 1
}

fn one_drains_it(scene: &Scene, world: &World) -> bool {
    let (left, faults) = (world.left, scene.faults);
    let ran_out = left.leases < faults.leases || left.forgets < faults.forgets;
    Id::ALL.into_iter().all(|id| {
        let drained = |replica: &world::Replica| {
            let mut jobs = replica.jobs.iter();
            jobs.any(|job| job.event.id == id && job.drained && job.stage == Stage::Queued)
        };
        ran_out || world.replicas.iter().filter(|replica| drained(replica)).count() < 2
    })
}

fn is_recording(world: &World, is_so: impl Fn(&world::Job) -> bool) -> bool {
    let mut jobs = world.replicas.iter().flat_map(|replica| &replica.jobs);
    jobs.any(|job| matches!(job.stage, Stage::Recording { .. }) && is_so(job))
}

#[test]
fn two_deliveries_of_one_payment() {
    holds("two deliveries", two_deliveries());
}

#[test]
fn a_delivery_and_one_of_other_money() {
    holds("other money", other_money());
}

/// Two gateways, a delivery of one payment to each or both to one.
fn two_replicas(faults: Faults) -> Scene {
    Scene::shared(&[Money::A, Money::A], faults)
}

#[test]
fn two_replicas_of_which_one_crashes_or_stands_still() {
    let faults = Faults { crashes: 1, leases: 1, ..NO_FAULT };
    holds("two replicas", two_replicas(faults));
}

#[test]
fn two_replicas_of_which_one_is_in_doubt() {
    let faults = Faults { silences: 1, leases: 1, ..NO_FAULT };
    holds("two replicas, in doubt", two_replicas(faults));
}

#[test]
fn two_replicas_over_a_store_that_forgets() {
    let faults = Faults { refusals: 1, forgets: 1, ..NO_FAULT };
    holds("two replicas, the store forgets", two_replicas(faults));
}

#[test]
fn two_replicas_over_a_store_that_does_not_answer() {
    let faults = Faults { refusals: 1, store: 1, ..NO_FAULT };
    holds("two replicas, the store does not answer", two_replicas(faults));
}

#[test]
fn two_replicas_of_which_one_is_given_other_money() {
    holds("two replicas, other money", Scene::shared(&[Money::A, Money::B], NO_FAULT));
}

#[test]
#[ignore = "at length: tests/torture.sh"]
fn two_replicas_and_other_money() {
    let faults = Faults { crashes: 1, leases: 1, ..NO_FAULT };
    let scene = Scene::shared(&[Money::A, Money::B], faults);
    holds("two replicas, other money, a crash, a lease that runs out", scene);
}

#[test]
#[ignore = "at length: tests/torture.sh"]
fn two_replicas_and_more_faults() {
    let faults = Faults { crashes: 1, silences: 1, leases: 1, ..NO_FAULT };
    holds("two replicas, more faults", two_replicas(faults));
}

#[test]
#[ignore = "at length: tests/torture.sh"]
fn two_deliveries_and_every_fault() {
    holds("two deliveries, every fault", Scene::of(&[Money::A, Money::A], EVERY_FAULT));
}

#[test]
#[ignore = "at length: tests/torture.sh"]
fn two_deliveries_and_one_of_other_money() {
    let faults = Faults { store: 0, ..other_money().faults };
    holds("two deliveries, and other money", Scene::of(&[Money::A, Money::A, Money::B], faults));
}

/// Every property holds in every state, and every window is reached; and docs/reliability.md says how many there are.
fn holds(name: &str, scene: Scene) {
    let checker = scene.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let row = format!("| {name} | {} |", checker.unique_state_count());
    eprintln!("{row}");
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md")).unwrap();
    assert!(document.contains(&row), "docs/reliability.md does not say:\n{row}");
}

#[test]
fn each_way_of_breaking_the_protocol_is_noticed() {
    for (protocol, property) in [
        (Protocol::AnswersBeforeConfirm, SUCCESS_IS_CONFIRMED),
        (Protocol::AnswersBeforeConfirm, NOTHING_IS_LOST),
        (Protocol::RecordsBeforeConfirm, RECORDED_IS_CONFIRMED),
        (Protocol::RecordsBeforeConfirm, NOTHING_IS_LOST),
        (Protocol::ForgetsFlightBeforeRecord, NO_REPEAT_WITHOUT_A_WINDOW),
        (Protocol::DropsDoubt, NO_REPEAT_WITHOUT_A_WINDOW),
        (Protocol::DoesNotClaim, NO_REPEAT_WITHOUT_A_WINDOW),
        (Protocol::DoesNotSync, ALL_IS_ANNOUNCED_IN_THE_END),
        (Protocol::DoesNotDrain, ALL_IS_ANNOUNCED_IN_THE_END),
    ] {
        is_noticed(Scene { protocol, ..two_deliveries() }, property);
    }
}

#[test]
fn a_flight_that_is_ended_by_its_key_alone_is_noticed() {
    is_noticed(Scene { protocol: Protocol::EndsFlightsByKey, ..other_money() }, SUCCESS_IS_CONFIRMED);
}

#[test]
fn each_way_of_breaking_the_rules_of_leases_is_noticed() {
    let calm = Faults { crashes: 1, refusals: 1, ..NO_FAULT };
    let still = Faults { leases: 1, refusals: 1, ..NO_FAULT };
    let silent = Faults { silences: 1, ..NO_FAULT };
    for (protocol, faults, property) in [
        (Protocol::AnswersOnClaim, calm, SUCCESS_IS_CONFIRMED),
        (Protocol::AnswersOnClaim, calm, NOTHING_IS_LOST),
        (Protocol::IgnoresLeases, calm, NO_REPEAT_WITHOUT_A_WINDOW),
        (Protocol::ReleasesOthers, calm, NO_REPEAT_WITHOUT_A_WINDOW),
        (Protocol::DoubtEndsLease, silent, NO_REPEAT_WITHOUT_A_WINDOW),
        (Protocol::KeepsEndOthersLeases, still, NO_REPEAT_WITHOUT_A_WINDOW),
        (Protocol::PublishesWithoutLease, still, NO_REPEAT_WITHOUT_A_WINDOW),
        (Protocol::HandsOutTwice, calm, ONE_DRAINS_IT),
        (Protocol::LeasesLastForEver, calm, ALL_IS_ANNOUNCED_IN_THE_END),
    ] {
        is_noticed(Scene { protocol, ..two_replicas(faults) }, property);
    }
}

/// Finds a way to break the property, and shows it.
fn is_noticed(scene: Scene, property: &'static str) {
    let protocol = scene.protocol;
    let failed = HasDiscoveries::AnyOf([property].into());
    let checker = scene.checker().finish_when(failed).spawn_bfs().join();
    let Some(path) = checker.discovery(property) else { panic!("{protocol:?}: nobody noticed: {property}") };
    eprintln!("{protocol:?} breaks “{property}”: {:?}", path.into_actions());
}
