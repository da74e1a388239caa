//! Real processes: every test starts the built `hivectl` in folders of its own, and leaves nothing behind.
//! A module a subject; a test is named by the behaviour it shows.

mod harness;

mod cases {
    //! What hive does, subject by subject.

    mod badinput;
    mod barrier;
    mod board;
    mod cancel;
    mod containment;
    mod context;
    mod diskfull;
    mod eventlog;
    mod failpoints;
    mod formats;
    mod hosts;
    mod inject;
    mod kits;
    mod limits;
    mod lines;
    mod locks;
    mod logs;
    mod oneshot;
    mod outcomes;
    mod queues;
    mod recovery;
    mod rules;
    mod run;
    mod scale;
    mod sharing;
    mod start;
    mod state;
    mod status;
    mod stop;
    mod submit;
    mod surroundings;
    mod takeover;
    mod wire;
}
