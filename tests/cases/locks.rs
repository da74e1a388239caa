//! Locks and elections: one at a time, freed by death, understood by flock(1).

use std::fs;

use crate::harness::{Cmd, Hive, is_alive, kill, wait_until};

fn flock(hive: &Hive, args: &[&str]) -> i32 {
    let file = hive.live().join("locks/x");
    Cmd::new("flock", ["-n", file.to_str().unwrap()]).args(args).run().code
}

#[test]
fn a_lock_and_flock_exclude_each_other() {
    let hive = Hive::new();
    let gate = hive.gate();
    let holder = hive.spawn(["lock", "x", "--", "sh", "-c", &gate.wait()]);
    gate.wait_for(1);
    assert_eq!(flock(&hive, &["true"]), 1);
    hive.run(["lock", "x", "--nonblock", "--", "true"]).exits(5).mentions("lock --list");
    hive.run(["lock", "x", "--timeout", "0.1", "--", "true"]).exits(5).mentions("after 0.1 s");
    hive.run(["lock", "y", "--nonblock", "--", "true"]).exits(0);
    let waiter = hive.spawn(["lock", "x", "--", "echo", "mine"]);
    wait_until("it waits", || hive.run(["lock", "--list"]).out().contains("waits"));
    let list = hive.json(["lock", "--list"]);
    assert_eq!(list["locks"][0]["pid"], holder.pid());
    assert_eq!((&list["locks"][0]["holds"], &list["locks"][1]["holds"]), (&true.into(), &false.into()));
    gate.open(1);
    holder.ends().exits(0);
    waiter.ends().prints("mine\n").exits(0);
    assert_eq!(flock(&hive, &["true"]), 0);
    let ran = hive.bash("flock -n $LIVE/locks/x hivectl lock x --nonblock -- true");
    ran.exits(5);
    hive.bash("flock -s $LIVE/locks/x hivectl lock x --shared --nonblock -- echo both").prints("both\n").exits(0);
}

#[test]
fn the_command_s_exit_is_the_lock_s() {
    let hive = Hive::new();
    hive.run(["lock", "x", "--", "sh", "-c", "exit 7"]).exits(7).says("");
    hive.run(["lock", "x", "--", "sh", "-c", "kill -TERM $$"]).exits(143);
    hive.run(["lock", "x", "--", "no-such-program"]).exits(127).mentions("cannot start no-such-program");
    hive.run(["lock", "x", "--", "/"]).exits(126);
    hive.run(["lock", "../x", "--", "true"]).exits(2).mentions("a lock's name");
    hive.run(["lock", "x"]).exits(2);
    hive.cmd(["lock", "x", "--", "cat"]).stdin("through").run().prints("through").exits(0);
}

#[test]
fn every_holding_has_a_higher_fence() {
    let hive = Hive::new();
    let fence =
        || hive.run(["lock", "x", "--", "sh", "-c", "echo $HIVE_FENCE"]).exits(0).out().trim().parse::<u64>().unwrap();
    let first = fence();
    fs::remove_file(hive.live().join("locks/x")).unwrap();
    let second = fence();
    let shared = hive.run(["lock", "--shared", "x", "--", "sh", "-c", "echo $HIVE_FENCE"]).out();
    assert!(first < second && second < shared.trim().parse().unwrap());
}

#[test]
fn stray_children_do_not_keep_a_lock() {
    let hive = Hive::new();
    let stray = hive.run(["lock", "x", "--", "sh", "-c", "sleep 100 >/dev/null 2>&1 & echo $!"]).exits(0).out();
    assert_eq!(flock(&hive, &["true"]), 0);
    let stray = stray.trim().parse().unwrap();
    kill(stray, "KILL");
    wait_until("it is gone", || !is_alive(stray));
}

#[test]
fn a_killed_holder_frees_the_lock_and_takes_its_command_along() {
    let hive = Hive::new();
    let holder = hive.spawn(["lock", "x", "--", "sh", "-c", "echo here; exec sleep 100"]);
    holder.wait_for_out("here");
    let command = hive.children_of(holder.pid());
    holder.signal("KILL");
    hive.run(["lock", "x", "--", "true"]).exits(0);
    wait_until("the command is gone", || !is_alive(command[0]));
}

#[test]
fn signals_go_to_the_command() {
    let hive = Hive::new();
    let script = "trap 'echo got it; exit 9' TERM; echo here; while :; do sleep 0.05; done";
    let holder = hive.spawn(["lock", "x", "--", "bash", "-c", script]);
    holder.wait_for_out("here");
    holder.signal("TERM");
    holder.ends().prints("here\ngot it\n").exits(9);
}

#[test]
fn a_lock_file_that_was_made_anew_is_the_lock() {
    let hive = Hive::new();
    let gate = hive.gate();
    let old = hive.spawn(["lock", "x", "--", "sh", "-c", &gate.wait()]);
    gate.wait_for(1);
    let waiter = hive.spawn(["lock", "x", "--", "sh", "-c", &gate.then("echo mine")]);
    wait_until("it waits", || hive.run(["lock", "--list"]).out().contains("waits"));
    fs::remove_file(hive.live().join("locks/x")).unwrap();
    gate.open(1);
    old.ends().exits(0);
    gate.wait_for(2);
    // What the waiter holds now is the file under the name.
    assert_eq!(flock(&hive, &["true"]), 1);
    gate.open(1);
    waiter.ends().prints("mine\n").exits(0);
}

#[test]
fn one_leads_and_another_takes_over_from_a_killed_one() {
    let hive = Hive::new();
    let candidate = |name: &str| {
        let lead = format!("echo {name} leads $HIVE_FENCE; exec sleep 100");
        let (gain, loss) = (format!("echo {name} gains"), format!("echo {name} loses"));
        hive.spawn(["elect", "chief", "--on-gain", &gain, "--on-loss", &loss, "--", "sh", "-c", &lead])
    };
    let first = candidate("a");
    first.wait_for_out("a leads");
    let second = candidate("b");
    wait_until("it waits", || hive.run(["lock", "--list"]).out().contains("waits"));
    assert_eq!(second.out(), "");
    first.signal("KILL");
    second.wait_for_out("b leads");
    let fence = |out: &str| out.split("leads ").nth(1).unwrap().trim().parse::<u64>().unwrap();
    assert!(fence(&first.out()) < fence(&second.out()));
    second.signal("TERM");
    let ran = second.ends().exits(143);
    assert!(ran.out().starts_with("b gains\nb leads") && ran.out().ends_with("b loses\n"), "{ran}");
    hive.run(["elect", "chief", "--on-gain", "exit 3", "--", "true"]).exits(3).mentions("gave up the office");
}

#[test]
fn a_leader_whose_lock_was_replaced_steps_down() {
    let hive = Hive::new();
    let leader =
        hive.spawn(["elect", "chief", "--on-loss", "echo lost", "--", "sh", "-c", "echo here; exec sleep 100"]);
    leader.wait_for_out("here");
    fs::remove_file(hive.live().join("locks/chief")).unwrap();
    leader.ends().exits(143).prints("here\nlost\n").mentions("stepped down");
}
