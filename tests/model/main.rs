//! An exhaustive model of publication: every order of everything that can happen to a few deliveries of one trade,
//! with one gateway, its store, its link and the broker, and a crash between any two steps. `steps.rs` says which
//! function each step stands for; `world.rs` is what there is.
//!
//! It is a transcription: what it proves is the protocol, not the code. That the code follows it is for the simulation
//! and the real crashes. Each way of breaking the protocol below makes a property fail, so the properties can fail.
//!
//! More than one gateway is a number here ([`Scene::replicas`]); what a shared store adds to the protocol, leases and
//! `HeldElsewhere`, is not modelled yet.

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
use world::{Attempt, Delivery, Event, Faults, Id, Money, RowState, Stage, Window, World};

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
}

const EVERY_FAULT: Faults = Faults { crashes: 1, losses: 1, closes: 1, silences: 1, refusals: 1, store: 1 };

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
            if self.faults.store > 0 {
                reached(OVERWRITTEN, |_, world| {
                    let waits = |money| {
                        world.rows[Id::Payment as usize].is_some_and(|row| row.money == money)
                            || world.is_announced(money)
                    };
                    world.deliveries.iter().all(|delivery| *delivery == Delivery::Fail)
                        && world.replicas[0].jobs.is_empty()
                        && world.kept == [true; 2]
                        && !(waits(Money::A) && waits(Money::B))
                });
            }
        }
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
const OVERWRITTEN: &str = "a claim that fails lets what is kept be overwritten by other money";

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
    let forgot = world.left.crashes < scene.faults.crashes || world.left.store < scene.faults.store;
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
    if steps.iter().any(Step::is_progress) {
        return true;
    }
    let nothing_failed = world.left.crashes == scene.faults.crashes && world.left.store == scene.faults.store;
    let all_ended = world
        .replicas
        .iter()
        .all(|replica| replica.jobs.is_empty() && replica.flights.iter().all(Option::is_none));
    let none_waits = world.rows.iter().flatten().all(|row| row.state == RowState::Recorded);
    // OVERWRITTEN needs a call of the store that failed, and other money.
    let may_be_overwritten = world.left.store < scene.faults.store && scene.deliveries.contains(&Money::B);
    let announced = |(delivery, money): (&Delivery, &Money)| {
        let is_excused = *delivery == Delivery::LeftWaiting || !nothing_failed;
        let is_kept = world.kept[*money as usize] && !may_be_overwritten;
        world.is_announced(*money) || (is_excused && !is_kept)
    };
    all_ended
        && none_waits
        && world.deliveries.iter().all(|delivery| !matches!(delivery, Delivery::Waiting(_)))
        && world.deliveries.iter().zip(&scene.deliveries).all(announced)
}

fn repeated(world: &World, window: Window) -> bool {
    let payment = Id::Payment as usize;
    let is_confirmed = world.attempts[payment] == Attempt::Confirmed;
    is_confirmed && world.repeats[payment] == Some(window) && world.copies[0] > 1
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

/// Finds a way to break the property, and shows it.
fn is_noticed(scene: Scene, property: &'static str) {
    let protocol = scene.protocol;
    let failed = HasDiscoveries::AnyOf([property].into());
    let checker = scene.checker().finish_when(failed).spawn_bfs().join();
    let Some(path) = checker.discovery(property) else { panic!("{protocol:?}: nobody noticed: {property}") };
    eprintln!("{protocol:?} breaks “{property}”: {:?}", path.into_actions());
}
