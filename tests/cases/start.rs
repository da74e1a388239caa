//! `pool start`: when it says yes, and with what words it says no.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::{Hive, is_alive, kill, stat, wait_until};

#[test]
fn start_says_how_many_agents_are_ready() {
    let hive = Hive::new();
    hive.pool_start(["-n", "2"]).prints("hive default: 2 agents are ready\n").says("").exits(0);
}

#[test]
fn one_agent_is_said_as_one() {
    let hive = Hive::new();
    hive.pool_start(["-n", "1"]).prints("hive default: 1 agent is ready\n").says("").exits(0);
}

#[test]
fn a_hive_that_runs_is_not_started_again() {
    let hive = Hive::start(["-n", "2"]);
    let pid = hive.supervisor();
    let again = hive.pool_start(["-n", "5"]).exits(6).prints("");
    again.mentions(&format!("hive default runs already (supervisor {pid}, 2 agents, 0 of them busy)"));
    assert_eq!(hive.supervisor(), pid);
    assert_eq!(hive.status()["agents"].as_array().unwrap().len(), 2);
}

#[test]
fn of_many_starts_at_once_exactly_one_leads() {
    let hive = Hive::new();
    let starts: Vec<_> = (0..8).map(|_| hive.spawn(["pool", "start", "-n", "1"])).collect();
    let mut codes: Vec<i32> = starts.into_iter().map(|start| start.ends().code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 6, 6, 6, 6, 6, 6, 6]);
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
    assert_eq!(hive.events().iter().filter(|e| e["kind"] == "led").count(), 1);
}

#[test]
fn two_hives_run_side_by_side() {
    let hive = Hive::new();
    for name in ["one", "two"] {
        hive.run(["--hive", name, "pool", "start", "-n", "1"]).exits(0);
    }
    for name in ["one", "two"] {
        hive.run(["--hive", name, "run", "echo $HIVE_NAME"]).prints(format!("{name}\n")).exits(0);
    }
    hive.run(["--hive", "one", "pool", "stop"]).exits(0);
    hive.run(["--hive", "one", "run", "true"]).exits(3);
    hive.cmd(["run", "echo still $HIVE_NAME"]).env("HIVE_NAME", "two").run().prints("still two\n").exits(0);
}

#[test]
fn a_hive_can_be_started_again_after_it_stopped() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "true"]).exits(0);
    hive.run(["pool", "stop"]).exits(0);
    hive.pool_start(["-n", "1"]).exits(0);
    let second = hive.json(["run", "true"]);
    assert_eq!(second["id"], 2, "numbers go on: {second}");
    assert_eq!(hive.status()["supervisor"]["term"], 2);
}

#[test]
fn agents_have_the_name_that_they_were_given() {
    let hive = Hive::start(["-n", "2", "--name", "worker"]);
    assert_eq!(hive.agent(2)["name"], "worker-2");
    hive.run(["run", "--agent", "worker-2", "echo $HIVE_AGENT"]).prints("2\n").exits(0);
    hive.run(["run", "--agent", "worker-9", "true"]).exits(4).mentions("no agent is called worker-9");
}

#[test]
fn a_pool_may_be_empty_and_grow_later() {
    let hive = Hive::new();
    hive.pool_start(["-n", "0"]).prints("hive default: 0 agents are ready\n").exits(0);
    let task = hive.submit("echo grown");
    assert_eq!(hive.task(task)["state"], "queued");
    hive.run(["pool", "scale", "1"]).exits(0);
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
}

#[test]
fn a_command_that_does_not_exist_parks_the_agent_and_says_so() {
    let hive = Hive::new();
    let start = hive.pool_start(["-n", "1", "--kind", "lines", "--", "no-such-command-here"]);
    let start = start.exits(1).prints("hive default: 0 agents are ready\n");
    start.mentions("agent 1 is parked: no-such-command-here: command not found").mentions("hivectl pool restart");
    assert_eq!(hive.agent(1)["state"], "parked");
    assert_eq!(hive.events().iter().filter(|e| e["kind"] == "agent-lost").count(), 5);
    hive.run(["run", "x"]).exits(6).mentions("is parked (no-such-command-here: command not found)");
}

#[test]
fn a_workload_that_dies_before_it_is_ready_shows_its_last_words() {
    let hive = Hive::new();
    let command = "echo first >&2; echo 'no API key' >&2; exit 3";
    let start = hive.pool_start(["-n", "1", "--kind", "lines", "--", "sh", "-c", command]).exits(1);
    start.mentions("agent 1 is parked: it exited with 3: first\nno API key");
    hive.run(["pool", "status"]).exits(0);
    hive.run(["run", "x"]).exits(6).mentions("no API key");
}

#[test]
fn last_words_that_are_no_text_do_not_hide_a_death() {
    let hive = Hive::new();
    for byte in ["\\1", "\\377", "\\\"", "\\033"] {
        let command = format!("head -c 2000 /dev/zero | tr '\\0' '{byte}' >&2; exit 3");
        hive.pool_start(["-n", "1", "--kind", "lines", "--", "sh", "-c", &command])
            .exits(1)
            .mentions("it exited with 3");
        hive.run(["pool", "stop"]).exits(0);
    }
}

#[test]
fn a_long_command_is_a_command_too() {
    let hive = Hive::new();
    let long = format!("cat # {}", "x".repeat(20_000));
    hive.pool_start(["-n", "1", "--kind", "oneshot", "--", "sh", "-c", &long]).exits(0);
    hive.run(["run", "x"]).prints("x").exits(0);
}

#[test]
fn a_workload_that_is_never_ready_is_ended() {
    let hive = Hive::new();
    let patience = ["-n", "1", "--kind", "lines", "--start-timeout", "0.1", "--", "sleep", "1000"];
    hive.pool_start(patience).exits(1).mentions("agent 1 is parked: it was not ready within 0.1 s");
    assert_eq!(hive.running("sleep"), [0; 0]);
}

#[test]
fn a_parked_agent_gets_another_chance_by_restart() {
    let hive = Hive::new();
    let mended = hive.file("mended");
    let agent = format!("[ -e {mended} ] || exit 1; echo READY; while read -r v id t; do echo DONE $id ok; done");
    hive.pool_start(["-n", "1", "--kind", "lines", "--", "bash", "-c", &agent]).exits(1);
    hive.run(["run", "x"]).exits(6);
    hive.write("mended", "");
    hive.run(["pool", "restart"]).prints("hive default: 1 agent is ready\n").exits(0);
    hive.run(["run", "x"]).prints("ok\n").exits(0);
}

#[test]
fn in_the_foreground_it_stays_until_it_is_told_to_stop() {
    for signal in ["TERM", "INT"] {
        let hive = Hive::new();
        let mut here = hive.spawn(["pool", "start", "--foreground", "-n", "1"]);
        here.wait_for_out("ready");
        hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
        assert_eq!(i64::from(here.pid()), hive.status()["supervisor"]["pid"].as_i64().unwrap());
        assert!(!here.has_ended());
        here.signal(signal);
        here.ends().exits(0);
        assert!(!hive.live().exists());
    }
}

#[test]
fn the_supervisor_is_not_in_the_group_of_its_hosts() {
    let hive = Hive::start(["-n", "3"]);
    let status = hive.status();
    let group = status["pgid"].to_string();
    for agent in 1..=3 {
        assert_eq!(stat(hive.host(agent)).unwrap()[2], group);
    }
    let supervisor = stat(hive.supervisor()).unwrap();
    assert_ne!(supervisor[2], group);
    assert_eq!(supervisor[3], hive.supervisor().to_string(), "it leads a session of its own");
}

#[test]
fn a_signal_to_the_group_of_hosts_harms_neither_them_nor_a_task() {
    let hive = Hive::start(["-n", "2"]);
    let gate = hive.gate();
    let task = hive.spawn(["run", &gate.then("echo unharmed")]);
    gate.wait_for(1);
    let group = hive.status()["pgid"].as_i64().unwrap() as i32;
    for signal in ["USR1", "USR2", "HUP", "INT"] {
        kill(-group, signal);
    }
    gate.open(1);
    task.ends().prints("unharmed\n").exits(0);
    assert_eq!(hive.agent(1)["restarts"], 0);
    assert_eq!(hive.agent(2)["restarts"], 0);
}

#[test]
fn all_folders_belong_to_their_user_alone() {
    let hive = Hive::start(["-n", "1"]);
    let (live, kept) = (hive.live(), hive.kept());
    let folders = [live.parent().unwrap().to_owned(), live.join("replies"), live.join("agents/1"), kept.join("events")];
    for folder in folders.iter().chain([&live, &kept]) {
        let mode = fs::metadata(folder).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", folder.display());
    }
}

#[test]
fn a_planted_symlink_is_refused() {
    let hive = Hive::new();
    let live = hive.live();
    fs::create_dir(live.parent().unwrap()).unwrap();
    fs::create_dir(hive.path("elsewhere")).unwrap();
    symlink(hive.path("elsewhere"), &live).unwrap();
    hive.pool_start(["-n", "1"])
        .exits(1)
        .mentions("it is not a folder")
        .mentions("remove it, or set HIVE_DIR and HIVE_SHM");
    assert_eq!(fs::read_dir(hive.path("elsewhere")).unwrap().count(), 0);
    fs::remove_file(live).unwrap();
}

#[test]
fn a_planted_file_is_refused() {
    let hive = Hive::new();
    let live = hive.live();
    fs::create_dir(live.parent().unwrap()).unwrap();
    fs::write(&live, "mine").unwrap();
    hive.pool_start(["-n", "1"]).exits(1).mentions("it is not a folder");
    assert_eq!(fs::read_to_string(&live).unwrap(), "mine");
    fs::remove_file(live).unwrap();
}

#[test]
fn a_planted_file_in_place_of_a_pipe_is_refused() {
    let hive = Hive::new();
    let live = hive.live();
    fs::create_dir_all(&live).unwrap();
    fs::set_permissions(live.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    let ctl = live.join("ctl");
    fs::write(&ctl, "mine").unwrap();
    hive.pool_start(["-n", "1"]).exits(1).mentions(&format!("{}", ctl.display()));
    assert_eq!(fs::read_to_string(&ctl).unwrap(), "mine");
    fs::remove_dir_all(live).unwrap();
}

#[test]
fn a_folder_that_was_open_to_others_is_closed() {
    let hive = Hive::new();
    let live = hive.live();
    fs::create_dir_all(&live).unwrap();
    for folder in [live.parent().unwrap(), &live] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
    hive.pool_start(["-n", "1"]).exits(0);
    for folder in [live.parent().unwrap(), &live] {
        assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn a_stale_live_folder_of_a_dead_hive_is_no_obstacle() {
    let hive = Hive::start(["-n", "1"]);
    hive.submit("echo before");
    hive.run(["wait", "1"]).exits(0);
    let processes = hive.processes();
    processes.iter().for_each(|p| kill(p.pid, "KILL"));
    wait_until("all are dead", || processes.iter().all(|p| !is_alive(p.pid)));
    hive.run(["run", "true"]).exits(3);
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["result", "1"]).prints("before\n").exits(0);
    hive.run(["run", "echo after"]).prints("after\n").exits(0);
}
