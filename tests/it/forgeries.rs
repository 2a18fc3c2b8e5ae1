//! Attack 66: a flood of forged notifications while genuine ones flow, on the real binary. Nobody is refused because of
//! his address; what is genuine is announced, also from where the flood comes from; and nobody learns anything.

use std::net::Ipv4Addr;
use std::process::Command;

use crate::support::alipay::Notification;
use crate::support::program::Program;
use crate::support::queue::Queue;
use crate::support::raw_client::RawClient;
use crate::support::run;
use crate::support::signer::stranger;

const FORGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn post(body: &[u8]) -> Vec<u8> {
    let head = format!("POST /alipay/notify HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn genuine(trade: u64) -> Vec<u8> {
    post(&Notification::payment_now(trade).body())
}

fn forged(trade: u64) -> Vec<u8> {
    post(&Notification::payment_now(trade).body_by(stranger()))
}

fn at_low_priority(program: &Program, result: &str) -> f64 {
    program.metric(&format!("low_priority_verifications_total{{result=\"{result}\"}}"))
}

#[test]
fn attack_66_in_a_flood_of_forgeries_what_is_genuine_is_announced_from_wherever_it_comes() {
    run(async {
        let program = Program::with_http("flood", "failure_budget = 5");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let forged = forged(1000);
        let mut forger = RawClient::connect_from(FORGER, program.http).await;
        let mut alipay = RawClient::connect(program.http).await;
        for round in 0..20 {
            for _ in 0..10 {
                forger.send(&forged).await;
                assert_eq!(forger.answer().await.status, 400);
            }
            forger.send(genuine(round)).await;
            assert_eq!(forger.answer().await.body, b"success", "a shared address");
            alipay.send(genuine(100 + round)).await;
            assert_eq!(alipay.answer().await.body, b"success", "another address");
        }
        let refused = program.metric("rejections_total{reason=\"signature\"}");
        let (low, verified) = (at_low_priority(&program, "rejected"), at_low_priority(&program, "verified"));
        assert_eq!(refused, 200.0);
        // Five of the budget, the one that goes past it, and one for each twelve seconds that this took.
        assert!((1.0..=15.0).contains(&(refused - low)), "{} forgeries at usual priority", refused - low);
        assert!((1.0..=20.0).contains(&verified), "only those of the forger's address: {verified}");
        assert_eq!((program.outcome("announced"), program.outcome("busy")), (40.0, 0.0));
        program.wait_until("it is shown", || program.metric("addresses_over_budget") >= 1.0);
        assert_eq!(queue.published(&program, 5000).await.len(), 40);
    });
}

#[test]
fn attack_66_forgeries_from_hundreds_of_addresses_take_nothing_from_what_is_genuine() {
    run(async {
        let program = Program::with_http("many", "failure_budget = 1");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut alipay = RawClient::connect(program.http).await;
        let forged = forged(1000).repeat(4);
        for n in 0..250u8 {
            let source = Ipv4Addr::new(127, 0, 1, n);
            let mut forger = RawClient::connect_from(source, program.http).await;
            forger.send(&forged).await;
            for _ in 0..4 {
                assert_eq!(forger.answer().await.status, 400);
            }
            if n % 10 == 0 {
                alipay.send(genuine(u64::from(n))).await;
                assert_eq!(alipay.answer().await.body, b"success");
            }
        }
        // Two of each were past its own budget; all together were past theirs, so that those of new addresses waited, too.
        assert!(at_low_priority(&program, "rejected") >= 750.0);
        // One genuine was verified behind the others, the rest at once.
        assert!((1.0..=2.0).contains(&at_low_priority(&program, "verified")));
        assert_eq!((program.outcome("announced"), program.outcome("busy")), (25.0, 0.0));
        assert_eq!(queue.published(&program, 5000).await.len(), 25);
    });
}

#[test]
fn attack_66_who_finds_no_place_at_low_priority_is_told_fail_and_has_to_connect_anew() {
    run(async {
        // Twenty may wait.
        let program = Program::with_http("crowded", "max_connections = 80\nfailure_budget = 1");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let many = forged(1).repeat(20);
        let mut forgers = Vec::new();
        for _ in 0..60 {
            forgers.push(RawClient::connect(program.http).await);
        }
        // On a core of his own, even who comes last of all keeps up with sixty.
        confine_to_one_core(program.pid());
        for forger in &mut forgers {
            forger.send(&many).await;
        }
        let mut crowded = 0;
        for mut forger in forgers {
            for _ in 0..20 {
                let answer = forger.answer().await;
                let is_last = answer.head.to_ascii_lowercase().contains("connection: close");
                assert_eq!((&answer.body[..], is_last), (&b"fail"[..], answer.status == 503), "{answer:?}");
                if is_last {
                    crowded += 1;
                    forger.until_closed().await;
                    break;
                }
            }
        }
        assert!((20..=40).contains(&crowded), "{crowded}");
        assert!(at_low_priority(&program, "no_room") >= 1.0);
        assert_eq!(queue.published(&program, 2).await.len(), 0);
    });
}

/// Has all threads of a process share one core, the first of those that it may use.
fn confine_to_one_core(pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let allowed = status.split_once("Cpus_allowed_list:").unwrap().1.trim_start();
    let first: String = allowed.chars().take_while(char::is_ascii_digit).collect();
    let done = Command::new("taskset").args(["-acp", &first, &pid.to_string()]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn the_answer_to_a_stranger_is_the_same_whatever_is_wrong_and_whatever_trades_there_are() {
    run(async {
        let program = Program::start("oracle");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        assert!(program.post(&Notification::payment_now(1).body()).is_success());
        let known = Notification::payment_now(1);
        let mut answers = Vec::new();
        for body in [
            known.body_by(stranger()),
            Notification::payment_now(2).body_by(stranger()),
            known.clone().set("app_id", "2021999999999999").body(),
            known.clone().set("sign_type", "RSA").body(),
            known.clone().without("trade_no").body_by(stranger()),
            known.clone().set("total_amount", "1.00").body_by(stranger()),
            b"a=b&&".to_vec(),
            b"".to_vec(),
        ] {
            let answer = program.post(&body);
            let head: Vec<String> = answer
                .head
                .lines()
                .filter(|line| !line.to_ascii_lowercase().starts_with("date:"))
                .map(str::to_owned)
                .collect();
            answers.push((answer.status, head, answer.body));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
    });
}

#[test]
fn what_is_verified_at_low_priority_is_verified_by_threads_behind_all_others() {
    run(async {
        let program = Program::with_http("niceness", "failure_budget = 1");
        let mut forger = RawClient::connect_from(FORGER, program.http).await;
        for _ in 0..5 {
            forger.send(forged(1)).await;
            assert_eq!(forger.answer().await.status, 400);
        }
        assert!(at_low_priority(&program, "rejected") >= 1.0);
        let threads = niceness(program.pid());
        let (low, usual): (Vec<_>, Vec<_>) = threads.iter().partition(|(name, _)| name == "low-priority");
        let usual: Vec<i32> = usual.iter().map(|(_, nice)| *nice).collect();
        assert!(!low.is_empty() && usual.iter().all(|nice| *nice == usual[0]), "{threads:?}");
        // 19 is the last that there is, for a run of tests that is itself behind others.
        assert!(low.iter().all(|(_, nice)| *nice == (usual[0] + 10).min(19)), "{threads:?}");
        assert!(usual[0] < 19, "nobody can be behind the last");
    });
}

/// Each thread's name, and how far behind others it is.
fn niceness(pid: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One may end meanwhile.
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
    stats
        .map(|stat| {
            let (name, fields) = stat.rsplit_once(") ").unwrap();
            // The 19th field, of which the third is the first here (proc_pid_stat(5)).
            let nice = fields.split(' ').nth(16).unwrap().parse().unwrap();
            (name.split_once('(').unwrap().1.to_owned(), nice)
        })
        .collect()
}
