//! What a host gives to the program that it starts: a clean process, and nothing of its own.

use crate::harness::Hive;

/// What a process started with: its descriptors (with the one that looks at them), and its signals.
const ASK: &str = "ls /proc/self/fd; exec grep -E '^Sig(Blk|Ign)' /proc/self/status";

/// Bits of the signals that the C library keeps for itself.
const INTERNAL: u64 = 3 << 31;

#[track_caller]
fn is_clean(shown: &str) {
    let (fds, signals): (Vec<&str>, Vec<&str>) = shown.lines().partition(|line| !line.starts_with("Sig"));
    assert_eq!(fds, ["0", "1", "2", "3"]);
    assert_eq!(signals.len(), 2);
    for line in signals {
        let mask = u64::from_str_radix(line[8..].trim(), 16).unwrap();
        assert_eq!(mask & !INTERNAL, 0, "{line}");
    }
}

/// A hive whose starter had a descriptor open and a signal ignored.
fn untidily_started(kind: &str) -> Hive {
    let hive = Hive::new();
    hive.bash(&format!("trap '' USR1 PIPE; exec 7</dev/null; hivectl pool start -n 1 {kind}")).exits(0);
    hive
}

#[test]
fn a_shell_task_has_three_descriptors_and_no_signal_ignored_or_blocked() {
    let hive = untidily_started("");
    is_clean(&hive.run(["run", ASK]).exits(0).out());
}

#[test]
fn a_oneshot_has_three_descriptors_and_no_signal_ignored_or_blocked() {
    let hive = untidily_started(&format!("--kind oneshot -- sh -c \"cat >/dev/null; {ASK}\""));
    is_clean(&hive.run(["run", "x"]).exits(0).out());
}

#[test]
fn a_lines_agent_has_three_descriptors_and_no_signal_ignored_or_blocked() {
    let hive = untidily_started(&format!(
        "--kind lines -- bash -c 'echo READY; read -r v id t; ({}); echo DONE $id'",
        ASK.replace('\'', "\"")
    ));
    hive.run(["run", "x"]).exits(0);
    is_clean(&hive.run(["logs", "1"]).exits(0).out());
}

#[test]
fn hosts_and_supervisor_keep_nothing_of_their_starter_open() {
    let hive = Hive::new();
    let file = hive.write("theirs", "");
    hive.bash(&format!("exec 7<{file}; hivectl pool start -n 1")).exits(0);
    for pid in [hive.supervisor(), hive.host(1)] {
        let mut open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let kept = open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == hive.path("theirs")));
        assert!(!kept, "process {pid} holds a file of whoever started the pool");
    }
}

#[test]
fn a_workload_leads_a_session_of_its_own() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "read -r pid _ _ _ group session _ </proc/$$/stat; [ $pid = $group ] && [ $pid = $session ]"])
        .exits(0);
}

#[test]
fn stdin_of_a_shell_task_is_empty() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "cat; echo end"]).prints("end\n").exits(0);
}

#[test]
fn a_workload_gets_the_starters_limit_of_open_files_back() {
    let hive = Hive::new();
    hive.bash("ulimit -Sn 300; hivectl pool start -n 1 && hivectl run 'ulimit -Sn'")
        .prints("hive default: 1 agent is ready\n300\n")
        .exits(0);
}

#[test]
fn a_task_knows_its_hive_its_agent_and_itself() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "true"]).exits(0);
    let ask = "echo $HIVE_NAME $HIVE_AGENT $HIVE_TASK $HIVE_ATTEMPT $HIVE_LIVE $HIVE_CONTEXT";
    let (live, context) = (hive.live(), hive.kept().with_file_name("context"));
    let expected = format!("default 1 2 1 {} {}\n", live.display(), context.display());
    hive.run(["run", ask]).prints(expected).exits(0);
}

#[test]
fn a_task_can_use_its_own_hive() {
    let hive = Hive::start(["-n", "2"]);
    hive.bash("hivectl run 'hivectl run echo from within'").prints("from within\n").exits(0);
}

#[test]
fn a_resident_program_knows_its_hive_and_its_agent() {
    let hive =
        Hive::lines("echo READY; while read -r v id t; do echo DONE $id $HIVE_NAME $HIVE_AGENT $HIVE_LIVE; done");
    let expected = format!("default 2 {}\n", hive.live().display());
    hive.run(["run", "--agent", "2", "x"]).prints(expected).exits(0);
}

#[test]
fn a_pinned_supervisor_keeps_to_its_processor_and_its_agents_do_not() {
    let hive = Hive::start(["-n", "1", "--pin", "0"]);
    assert_eq!(hive.status()["supervisor"]["processors"], serde_json::json!([0]));
    let ask = "grep Cpus_allowed_list /proc/self/status";
    let here = hive.bash(ask).exits(0).out();
    hive.run(["run", ask]).prints(here).exits(0);
}

#[test]
fn forty_agents_work_at_once() {
    let hive = Hive::start(["-n", "40"]);
    let gate = hive.gate();
    let batch = format!("{}\n", gate.wait()).repeat(40);
    hive.cmd(["submit", "--stdin"]).stdin(batch).run().exits(0);
    gate.wait_for(40);
    gate.open(40);
    hive.run(["wait", "--all"]).exits(0);
    assert_eq!(hive.status()["tasks"]["done"], 40);
}

#[test]
fn a_host_that_was_stopped_is_given_up_and_its_task_ends() {
    let hive = Hive::start(["-n", "1", "--stop-grace", "0.1"]);
    hive.run(["run", "--timeout", "0.1", "--retries", "0", "kill -STOP $PPID; sleep 1000"]).exits(5);
    hive.run(["run", "echo fine"]).prints("fine\n").exits(0);
}
