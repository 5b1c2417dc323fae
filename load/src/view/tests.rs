use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::schedule::Arrival;

fn screen(snapshot: &Snapshot, width: u16, height: u16, colour: bool) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, snapshot, colour)).unwrap();
    terminal
}

fn lines(snapshot: &Snapshot, width: u16, height: u16) -> Vec<String> {
    let terminal = screen(snapshot, width, height, true);
    let cells = terminal.backend().buffer().content();
    let text = |row: &[ratatui::buffer::Cell]| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    cells.chunks(usize::from(width)).map(|row| text(row).trim_end().to_owned()).collect()
}

/// Ten pods a second; the third second had none.
fn samples() -> Vec<Sample> {
    let sample = |n: u64| {
        let created = if n < 30 { n.min(20) } else { n - 10 };
        Sample { seconds: n as f64 / 10.0 + 0.04, due: n, created, ..Sample::default() }
    };
    (0..=45).map(sample).collect()
}

fn snapshot() -> Snapshot {
    let arrivals = (0..10).map(|n| Arrival { at: Duration::from_millis(n), template: 0, phase: 0 }).collect();
    let mut tally = Tally::new(arrivals);
    for index in 0..8 {
        tally.note(index, Moment::Created, Duration::from_millis(20));
        tally.note(index, Moment::Running, Duration::from_millis(120));
    }
    (0..3).for_each(|_| tally.request_failed("no answer in time"));
    let mut samples = samples();
    let now = Sample { seconds: 4.6, due: 10, created: 8, bound: 8, running: 8, in_flight: 2, ..Sample::default() };
    samples.push(Sample { nodes_ready: 99, cpu_share: 0.456, ..now });
    let fault = |seconds: f64, what: &str| FaultSeen { seconds, what: what.to_owned() };
    Snapshot {
        name: "burst".into(),
        run: "8caa0d".into(),
        left: Duration::from_secs(18),
        nodes: 100,
        faults: vec![
            fault(2.0, "sim-7 is NotReady"),
            fault(2.1, "sim-8 is NotReady"),
            fault(2.2, "sim-9 is NotReady"),
            fault(4.0, "sim-7 is Ready"),
        ],
        ..Snapshot::of(&tally, &samples)
    }
}

#[test]
fn the_smallest_usual_terminal_shows_all_of_a_test() {
    let lines = lines(&snapshot(), 80, 24);
    let has = |text: &str| assert!(lines.iter().any(|line| line.starts_with(text)), "{text}: {lines:#?}");
    has("burst  run 8caa0d  4 s  pods arrive for 18 s more");
    has("PODS            so far    a second");
    has("due                 10          10");
    has("running              8");
    has("FROM DUE           p50         p99         max");
    has("running       116.0 ms    120.1 ms    120.1 ms");
    has("deleted              -           -           -");
    has("requests in flight 2  pods without a node 0  pods that start 0");
    has("nodes Ready 99 of 100  CPU asked for 46 %  memory 0 %");
    has("3 requests sent again: no answer in time");
    has("    4 s  sim-7 is Ready");
    has("    2 s  sim-7 is NotReady, and 2 more");
    has("q: stop and delete the pods");
    assert!(lines[1].contains("8 of 10 ran"), "{}", lines[1]);
}

#[test]
fn a_curve_has_a_bar_for_each_second_and_the_newest_is_on_the_right() {
    let rates = rates(&samples(), |sample| sample.created);
    assert_eq!(rates, [10, 10, 0, 10]);
    let lines = lines(&snapshot(), 80, 24);
    let created = lines.iter().find(|line| line.starts_with("created ")).unwrap();
    assert!(created.ends_with("██ █"), "{created:?}");
    let tall = self::lines(&snapshot(), 80, 60);
    assert!(tall.iter().filter(|line| line.ends_with("██ █")).count() > 2, "curves grow with the terminal: {tall:#?}");
}

#[test]
fn rates_go_back_a_minute() {
    let sample = |n: u64| Sample { seconds: n as f64, due: n * n, ..Sample::default() };
    let samples: Vec<_> = (0..=90).map(sample).collect();
    let rates = rates(&samples, |sample| sample.due);
    assert_eq!((rates.len(), rates[0], rates[59]), (60, 31 * 31 - 30 * 30, 90 * 90 - 89 * 89));
    assert!(super::rates(&[], |sample| sample.due).is_empty());
}

#[test]
fn any_size_of_terminal_will_do() {
    for (width, height) in (0..=40).flat_map(|height| [0, 1, 9, 33, 60, 130].map(|width| (width, height))) {
        screen(&snapshot(), width, height, true);
        screen(&Snapshot::default(), width, height, true);
    }
}

#[test]
fn without_colour_no_cell_has_one() {
    let coloured = |colour: bool| {
        let terminal = screen(&snapshot(), 80, 24, colour);
        terminal.backend().buffer().content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(coloured(true));
    assert!(!coloured(false));
}

#[test]
fn each_stage_says_what_it_does_and_what_a_key_would_do() {
    for (stage, doing, key) in [
        (Stage::Before, "makes the pods that are there before, 18 s at most", "q: stop"),
        (Stage::Arriving, "pods arrive for 18 s more", "q: stop"),
        (Stage::Waiting, "all were due; waits 18 s at most", "q: stop"),
        (Stage::Deleting, "deletes the pods, 18 s at most", "q: leave the rest"),
        (Stage::Stopping, "stopped; deletes the pods, 18 s at most", "q: leave at once"),
    ] {
        let lines = lines(&Snapshot { stage, ..snapshot() }, 80, 24);
        assert!(lines[0].ends_with(doing), "{}", lines[0]);
        assert!(lines[23].starts_with(key), "{}", lines[23]);
    }
}
