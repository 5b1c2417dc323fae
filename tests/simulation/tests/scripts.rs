//! Each bug that a seed found, as a script. Where the moment matters all moments around it are tried.

use podbus_simulation::{Fault, Receiver, World};

/// Two schedulers and a node; the first scheduler leads and knows the node.
fn cluster() -> World {
    let mut world = World::calm(2, 1).traced();
    world.milliseconds_pass(4000);
    world
}

#[test]
fn a_renewal_whose_ack_was_lost_does_not_lengthen_the_term() {
    for (answers_before, apart_after) in (0..8).flat_map(|before| [100, 300, 500, 700].map(|after| (before, after))) {
        let mut world = cluster();
        world.loses_message(Receiver::Scheduler(0), answers_before);
        world.milliseconds_pass(1000);
        // It tries again, and finds its own renewal. Then it can renew no more.
        world.milliseconds_pass(apart_after);
        world.befall(&Fault::PartScheduler(0));
        world.milliseconds_pass(4000);
        world.befall(&Fault::JoinScheduler(0));
        world.all_is_well();
    }
}

#[test]
fn a_removal_that_was_lost_is_sent_again_by_the_next_leader() {
    for milliseconds in (0..400).step_by(40) {
        let mut world = cluster();
        world.befall(&Fault::PartNode(0));
        world.apply(0, "Always", "600m");
        world.milliseconds_pass(500);
        world.delete(0, true);
        world.milliseconds_pass(milliseconds);
        world.befall(&Fault::KillScheduler(0));
        world.befall(&Fault::JoinNode(0));
        // There is room for it only when nothing is kept for the other.
        world.milliseconds_pass(4000);
        world.apply(1, "Always", "600m");
        world.all_is_well();
        assert_eq!(world.running(), 1);
    }
}

#[test]
fn a_pod_that_was_deleted_while_its_node_had_no_power_leaves_nothing_there() {
    for milliseconds in 0..60 {
        let mut world = cluster();
        world.apply(0, "Always", "300m");
        world.milliseconds_pass(milliseconds);
        world.befall(&Fault::CutPower(0));
        world.delete(0, true);
        world.milliseconds_pass(1000);
        world.befall(&Fault::Boot(0));
        world.all_is_well();
        assert_eq!(world.running(), 0);
    }
}

#[test]
fn a_pod_that_may_not_run_again_fails_when_its_sandbox_dies_between_the_starts_of_its_containers() {
    for milliseconds in 0..120 {
        let mut world = cluster();
        world.apply(0, "Never", "100m");
        world.milliseconds_pass(milliseconds);
        world.befall(&Fault::KillSandbox(0));
        world.all_is_well();
    }
}

#[test]
fn a_node_that_is_asked_for_all_states_and_does_not_hear_it_is_asked_again() {
    for words_before in 0..12 {
        let mut world = cluster();
        world.apply(0, "Always", "300m");
        world.milliseconds_pass(2000);
        world.befall(&Fault::PartNode(0));
        // It is NotReady, and so are its pods; they are not replaced yet.
        world.milliseconds_pass(8000);
        world.loses_message(Receiver::Node(0), words_before);
        world.befall(&Fault::JoinNode(0));
        world.all_is_well();
        assert_eq!(world.running(), 1);
    }
}

/// How the store goes back in time, and who remembers what it was.
const WAYS: [(Fault, &[usize]); 6] = [
    (Fault::RestoreStore, &[]),
    (Fault::RestoreStore, &[0]),
    (Fault::RestoreStore, &[0, 1]),
    (Fault::LoseStore, &[]),
    (Fault::LoseStore, &[0]),
    (Fault::LoseStore, &[0, 1]),
];

#[test]
fn a_store_that_goes_back_in_time_touches_no_pod_that_runs() {
    for (way, killed) in WAYS {
        for milliseconds in (0..600).step_by(60) {
            let mut world = World::calm(2, 2).traced();
            world.milliseconds_pass(4000);
            world.apply(0, "Always", "300m");
            world.milliseconds_pass(500);
            world.befall(&Fault::CopyStore);
            world.apply(1, "Always", "300m");
            world.milliseconds_pass(500);
            let runs = world.containers();
            assert_eq!(runs.len(), 2);
            // What it was about to do matters too.
            world.apply(2, "Always", "300m");
            world.milliseconds_pass(milliseconds / 10);
            killed.iter().for_each(|scheduler| world.befall(&Fault::KillScheduler(*scheduler)));
            world.befall(&Fault::StopStore);
            world.milliseconds_pass(milliseconds);
            world.befall(&way);
            killed.iter().for_each(|scheduler| world.starts_scheduler(*scheduler));
            world.all_is_well();
            assert!(runs.is_subset(&world.containers()), "{way:?}, killed {killed:?}, {milliseconds} ms");
        }
    }
}

#[test]
fn a_node_refuses_what_goes_around_the_scheduler_and_does_not_fit() {
    let mut world = cluster();
    world.apply(0, "Always", "600m");
    world.milliseconds_pass(500);
    world.apply_to_node(1, "Always", "600m");
    world.all_is_well();
    assert_eq!(world.running(), 1);
}
