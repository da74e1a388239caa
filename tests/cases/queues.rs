//! Queues: in order, each item acknowledged once, whoever is killed.

use std::collections::HashMap;
use std::fs;

use crate::harness::{Hive, kill, noise, wait_until};

#[test]
fn items_come_in_the_order_in_which_they_were_pushed() {
    let hive = Hive::new();
    hive.run(["queue", "pop", "q"]).exits(4).mentions("has no item to hand out");
    hive.run(["queue", "push", "q", "first"]).prints("1\n").exits(0);
    hive.cmd(["queue", "push", "q"]).stdin("sec\0ond\n").run().prints("2\n").exits(0);
    let large = noise(100_000, 5);
    hive.cmd(["queue", "push", "q", "-"]).stdin(large.clone()).run().exits(0);
    hive.cmd(["queue", "push", "q", "--lines"]).stdin("4\n\n6").run().prints("4\n5\n6\n").exits(0);
    let item = fs::read_to_string(hive.live().join("queues/q/ready/3")).unwrap();
    assert!(item.starts_with("\nREF:"), "{item}");
    hive.run(["queue", "pop", "q", "--ack"]).prints("first").exits(0);
    hive.run(["queue", "pop", "q", "--", "cat"]).prints("sec\0ond\n").exits(0);
    hive.run(["queue", "pop", "q", "--", "cat"]).prints(large).exits(0);
    let popped = hive.json(["queue", "pop", "q", "--ack"]);
    assert_eq!((&popped["id"], &popped["item"]), (&4.into(), &"4".into()));
    hive.run(["queue", "pop", "q", "--ack"]).prints("").exits(0);
    hive.run(["queue", "pop", "q", "--ack"]).prints("6").exits(0);
    hive.run(["queue", "pop", "q", "--ack"]).exits(4);
    hive.run(["queue", "push", "../q", "x"]).exits(2).mentions("a queue's name");
}

#[test]
fn an_item_whose_command_fails_goes_back_to_its_place() {
    let hive = Hive::new();
    hive.bash("for i in 1 2 3; do hivectl queue push q $i; done").exits(0);
    hive.run(["queue", "pop", "q", "--", "sh", "-c", "echo $HIVE_QUEUE $HIVE_ITEM; exit 7"]).prints("q 1\n").exits(7);
    hive.run(["queue", "pop", "q", "--ack"]).prints("1").exits(0);
}

#[test]
fn an_item_is_held_for_the_caller_until_it_says_so_or_dies() {
    let hive = Hive::new();
    hive.bash("for i in 1 2 3; do hivectl queue push q $i; done").exits(0);
    // The shell holds what it popped, and dies with the second one in its hands.
    hive.bash("hivectl queue pop q; hivectl queue ack q; hivectl queue pop q; hivectl queue list >&2")
        .prints("12")
        .exits(0);
    hive.run(["queue", "pop", "q", "--ack"]).prints("2").exits(0);
    let script = "x=$(hivectl queue pop q); hivectl queue return q; hivectl queue pop q >/dev/null; hivectl queue ack q 3; hivectl queue ack q 3";
    hive.bash(script).exits(4).mentions("does not hold item 3");
    hive.run(["queue", "pop", "q"]).exits(4);
}

#[test]
fn a_popper_waits_for_a_push_and_for_the_death_of_a_holder() {
    let hive = Hive::new();
    hive.run(["queue", "pop", "q", "--timeout", "0.1"]).exits(5).mentions("no item within 0.1 s");
    let waiter = hive.spawn(["queue", "pop", "q", "--wait", "--", "sh", "-c", "cat; echo; exec sleep 100"]);
    hive.run(["queue", "push", "q", "one"]).exits(0);
    waiter.wait_for_out("one");
    let second = hive.spawn(["queue", "pop", "q", "--wait", "--", "cat"]);
    hive.run(["queue", "pop", "q"]).exits(4);
    waiter.signal("KILL");
    second.ends().prints("one").exits(0);
    let list = hive.json(["queue", "list", "q"]);
    assert_eq!((&list["queues"][0]["ready"], &list["queues"][0]["held"]), (&0.into(), &0.into()));
}

#[test]
fn items_of_a_group_are_handed_out_one_at_a_time() {
    let hive = Hive::new();
    hive.cmd(["queue", "push", "q", "--lines", "--group", "a"]).stdin("a1\na2\n").run().exits(0);
    hive.run(["queue", "push", "q", "b1", "--group", "b"]).exits(0);
    let gate = hive.gate();
    let first = hive.spawn(["queue", "pop", "q", "--", "sh", "-c", &gate.then("cat")]);
    gate.wait_for(1);
    hive.run(["queue", "pop", "q", "--ack"]).prints("b1").exits(0);
    hive.run(["queue", "pop", "q", "--ack"]).exits(4);
    let next = hive.spawn(["queue", "pop", "q", "--wait", "--ack"]);
    gate.open(1);
    first.ends().prints("a1").exits(0);
    next.ends().prints("a2").exits(0);
}

#[test]
fn pushers_and_poppers_killed_at_random_lose_nothing_and_acknowledge_each_item_once() {
    const PUSHERS: usize = 4;
    const EACH: usize = 40;
    let hive = Hive::new();
    let push = |p: usize| {
        format!("for i in $(seq {EACH}); do hivectl queue push q $p-$i --group p{p} >/dev/null; done",)
            .replace("$p", &p.to_string())
    };
    let pushers: Vec<_> = (0..PUSHERS).map(|p| hive.spawn_bash(&push(p))).collect();
    // A line is written in one piece, after which the item is acknowledged or, if this is killed before, comes again.
    let pop = "while hivectl queue pop q --timeout 2 -- sh -c 'echo $HIVE_ITEM $(cat) >>$LOG'; do :; done"
        .replace("$LOG", &hive.file("log"));
    let mut state = 12345_u64;
    let mut kills = 0;
    let lines = || hive.read("log").lines().map(str::to_owned).collect::<Vec<_>>();
    let mut poppers: Vec<_> = (0..4).map(|_| hive.spawn_bash(&pop)).collect();
    wait_until("all is done", || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let victim = (state >> 33) as usize % poppers.len();
        for pid in hive.children_of(poppers[victim].pid()) {
            kill(pid, "KILL");
            kills += 1;
        }
        if poppers[victim].has_ended() {
            poppers[victim] = hive.spawn_bash(&pop);
        }
        let mut seen: Vec<String> = lines();
        seen.sort();
        seen.dedup();
        seen.len() == PUSHERS * EACH
            && hive.json(["queue", "list", "q"])["queues"][0]["items"].as_array().unwrap().is_empty()
    });
    poppers.into_iter().for_each(|popper| drop(popper.ends()));
    pushers.into_iter().for_each(|pusher| drop(pusher.ends().exits(0)));
    assert!(kills > 20, "{kills} kills");
    // A command that was killed behind its echo has run twice: in the log the same line stands again, at once. With that
    // left aside, every pusher's items are there once, in order.
    let mut last: HashMap<String, (usize, String)> = HashMap::new();
    for line in lines() {
        let (_, item) = line.split_once(' ').unwrap();
        let (pusher, n) = item.split_once('-').unwrap();
        let n: usize = n.parse().unwrap();
        let (before, text) = last.entry(pusher.to_owned()).or_default();
        assert!(n == *before + 1 || (n == *before && line == *text), "pusher {pusher}: {n} after {before}");
        (*before, *text) = (n, line.clone());
    }
    assert!(last.values().all(|(n, _)| *n == EACH));
}
