//! A scheduler's process: what `podbus-scheduler` does around the pure leader, over the simulated bus and store.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use podbus_common::api::Lease;
use podbus_common::proto::Term;
use podbus_common::subject::LEASE_KEY;
use podbus_scheduler_leader::{
    Candidate, Failed, Held, Input, Leader, LeaseLost, Lineage, Message, Next, Now, Object, Output, RENEW_EVERY,
    Remembered, Settings, Snapshot, Start, Step, Stored, TICK_EVERY, Writing,
};

use crate::clock::{Clock, Micros, ms, seconds};
use crate::dice::Dice;
use crate::store::{Answer, Ask, StreamState};
use crate::world::{Event, Kind, ToLeader, World};

/// How long an attempt to write, and a read, wait for their answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same for the lease.
const LEASE_PATIENCE: Duration = Duration::from_secs(1);
/// How soon a repetition is tried again that had to wait for the lease.
const WRITE_PAUSE: Duration = Duration::from_millis(50);
/// How often a lease that another process holds is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a follower asks whether the stream is still the one that it follows.
const CHECK_EVERY: Micros = seconds(2);
/// How long pods bear a lost node.
pub(crate) const TOLERATION_SECONDS: i64 = 5;

/// Something for a process.
#[derive(Debug, Clone)]
pub(crate) enum Hears {
    Store {
        request: u64,
        answer: Box<Answer>,
    },
    /// The store did not answer in time.
    Silence {
        request: u64,
    },
    /// Read on, and look at the lease.
    Look,
    Renew,
    Tick,
    /// The next step of a decision's writes.
    Write {
        writing: u64,
    },
    Message(ToLeader),
}

/// What an answer of the store is for.
#[derive(Debug)]
enum Wants {
    /// How the stream is, of who follows, over this connection.
    Checked(u64),
    Followed,
    TakenLease,
    /// How the stream is, of who leads, over this connection; and how it was known when it was asked.
    Renewable(u64, StreamState),
    /// Whose lease it is, over this connection.
    Confirmed(u64),
    Renewal(Box<Held>, u64),
    RenewalConflict(Box<Held>, u64),
    Write(u64),
    Read(u64),
    Compacted(String, u64),
    Nothing,
}

/// What a process does.
enum State {
    Dead,
    /// Until it has the lease, and then up to its own write of it.
    Follows(Box<Follower>),
    Leads(Box<Leader>),
}

/// Before it leads: what `follow` and `watch` of the service know.
struct Follower {
    candidate: Candidate,
    snapshot: Snapshot,
    lease: Option<Stored>,
    applied: u64,
    /// The stream as it was when it began.
    begun: Option<StreamState>,
    checked_at: Micros,
    /// The connection over which it was checked.
    connects: u64,
    remembered: Option<Remembered>,
}

impl Follower {
    fn new(holder: String, remembered: Option<Remembered>) -> Box<Self> {
        Box::new(Self {
            candidate: Candidate::new(holder),
            snapshot: Snapshot::new(podbus_scheduler_core::Config::default()),
            lease: None,
            applied: 0,
            begun: None,
            checked_at: 0,
            connects: 0,
            remembered,
        })
    }

    /// Whether all is read that was there when it began.
    fn is_current(&self) -> bool {
        self.begun.is_some_and(|begun| self.applied >= begun.revision)
    }

    /// What it knows of a store that is another one now. What was remembered before is newer.
    fn into_remembered(self) -> Option<Remembered> {
        let is_current = self.is_current();
        self.remembered.or_else(|| is_current.then(|| self.snapshot.into_remembered(self.lease.as_ref())))
    }
}

/// One scheduler, over its lives.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) clock: Clock,
    /// Its connection to the bus.
    pub(crate) linked: bool,
    /// How often it was made.
    pub(crate) connects: u64,
    /// The one over which the store was seen to be the one of before.
    sure_connects: u64,
    /// The stream that it leads over, and the highest revision that was acknowledged to it.
    stream: StreamState,
    pub(crate) life: u64,
    /// By SIGSTOP: what it would hear waits.
    stopped: Option<VecDeque<Hears>>,
    state: State,
    held: Option<Held>,
    /// A renewal is under way.
    renews: bool,
    /// What waits while the lease is not surely held.
    inputs: VecDeque<Input>,
    /// It had to wait.
    waited: bool,
    wants: BTreeMap<u64, Wants>,
    requests: u64,
    writings: BTreeMap<u64, (Object, Writing)>,
    /// Calls, and the requests of clients that they are.
    calls: BTreeMap<u64, u64>,
    dice: Dice,
}

impl Process {
    pub(crate) fn new(seed: u64, number: usize, exact: bool) -> Self {
        let name = format!("scheduler-{number}");
        let mut dice = Dice::new(seed, &name);
        let clock = if exact { Clock::exact() } else { Clock::poor(&mut dice) };
        Self {
            name,
            clock,
            linked: true,
            connects: 1,
            sure_connects: 0,
            stream: StreamState { created: 0, revision: 0 },
            life: 0,
            stopped: None,
            state: State::Dead,
            held: None,
            renews: false,
            inputs: VecDeque::new(),
            waited: false,
            wants: BTreeMap::new(),
            requests: 0,
            writings: BTreeMap::new(),
            calls: BTreeMap::new(),
            dice,
        }
    }

    /// It has subscribed to what clients and nodes say.
    pub(crate) fn subscribes(&self) -> bool {
        matches!(self.state, State::Leads(_))
    }

    /// It would decide if it heard something now.
    pub(crate) fn decides(&self, at: u64) -> bool {
        let valid = |held: &Held| self.clock.boottime(at) < held.valid_until();
        self.subscribes() && self.sure_connects == self.connects && self.held.as_ref().is_some_and(valid)
    }

    /// It has not decided anything yet: what it says then rests on nothing.
    pub(crate) fn is_new(&self) -> bool {
        !self.subscribes()
    }

    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead)
    }

    fn note_acked(&mut self, revision: u64) {
        self.stream.revision = self.stream.revision.max(revision);
    }

    fn now(&self, at: u64) -> Now {
        Now { instant: self.clock.instant(at), wall: self.clock.wall(at) }
    }
}

// === Life ===

impl World {
    pub(crate) fn start_scheduler(&mut self, scheduler: usize) {
        if self.schedulers[scheduler].is_dead() {
            let life = self.schedulers[scheduler].life + 1;
            self.note(|| format!("scheduler-{scheduler} starts (life {life})"));
            self.follow_anew(scheduler, None);
        }
    }

    /// Follows the store from its beginning, with nothing under way.
    fn follow_anew(&mut self, scheduler: usize, remembered: Option<Remembered>) {
        let process = &mut self.schedulers[scheduler];
        process.life += 1;
        process.stream.revision = 0;
        process.state = State::Follows(Follower::new(format!("{}.{}", process.name, process.life), remembered));
        self.hear_later(scheduler, Duration::ZERO, Hears::Look);
    }

    /// SIGKILL.
    pub(crate) fn kill_scheduler(&mut self, scheduler: usize) {
        let process = &mut self.schedulers[scheduler];
        process.state = State::Dead;
        process.stopped = None;
        process.held = None;
        process.renews = false;
        process.inputs.clear();
        process.waited = false;
        process.wants.clear();
        process.writings.clear();
        process.calls.clear();
    }

    /// SIGSTOP.
    pub(crate) fn stop_scheduler(&mut self, scheduler: usize) {
        let process = &mut self.schedulers[scheduler];
        if !process.is_dead() {
            process.stopped.get_or_insert_default();
        }
    }

    /// SIGCONT.
    pub(crate) fn continue_scheduler(&mut self, scheduler: usize) {
        let process = &mut self.schedulers[scheduler];
        let life = process.life;
        for hears in process.stopped.take().unwrap_or_default() {
            self.scheduler_hears(scheduler, life, hears);
        }
    }

    fn hear_later(&mut self, scheduler: usize, span: Duration, hears: Hears) {
        let process = &self.schedulers[scheduler];
        let event = Event::Scheduler { scheduler, life: process.life, hears: Box::new(hears) };
        self.after(process.clock.truly(span), event);
    }

    pub(crate) fn scheduler_hears(&mut self, scheduler: usize, life: u64, hears: Hears) {
        let process = &mut self.schedulers[scheduler];
        if process.life != life || process.is_dead() {
            return;
        }
        if let Some(waiting) = &mut process.stopped {
            return waiting.push_back(hears);
        }
        match hears {
            Hears::Store { request, answer } => {
                if let Some(wants) = process.wants.remove(&request) {
                    self.store_answers(scheduler, wants, Some(*answer));
                }
            }
            Hears::Silence { request } => {
                if let Some(wants) = process.wants.remove(&request) {
                    self.store_answers(scheduler, wants, None);
                }
            }
            Hears::Look => self.read_on(scheduler),
            Hears::Renew => self.renew(scheduler),
            Hears::Tick => {
                let connected = process.linked && !self.store.down;
                process.inputs.push_back(Input::Tick { caught_up: connected });
                self.hear_later(scheduler, TICK_EVERY, Hears::Tick);
            }
            Hears::Write { writing } => self.write_on(scheduler, writing),
            Hears::Message(message) => {
                let input = self.read_message(scheduler, message);
                self.schedulers[scheduler].inputs.extend(input);
            }
        }
        self.decide(scheduler);
    }

    /// The term is over, and so is the process; another one begins soon.
    fn end_term(&mut self, scheduler: usize, lost: &LeaseLost) {
        self.note(|| format!("scheduler-{scheduler} ends: {lost}"));
        if let LeaseLost::StoreWentBack = lost {
            let state = std::mem::replace(&mut self.schedulers[scheduler].state, State::Dead);
            self.kill_scheduler(scheduler);
            let remembered = match state {
                State::Leads(leader) => Some(leader.into_remembered()),
                State::Dead | State::Follows(_) => None,
            };
            return self.follow_anew(scheduler, remembered);
        }
        let held = self.schedulers[scheduler].held.clone();
        if let (LeaseLost::HigherEpoch(epoch), Some(held)) = (lost, held) {
            let lease = held.release(*epoch);
            let ask = write_lease(&lease, held.revision);
            self.ask(scheduler, ask, Wants::Nothing, LEASE_PATIENCE);
        }
        self.kill_scheduler(scheduler);
        let span = self.dice.within(ms(100)..ms(1000));
        self.after(span, Event::SchedulerStarts { scheduler });
    }
}

// === The store ===

fn write_lease(lease: &Lease, expected: u64) -> Ask {
    let value = Some(serde_json::to_vec(lease).unwrap_or_default().into());
    Ask::Write { key: LEASE_KEY.to_owned(), value, epoch: lease.epoch, expected }
}

impl World {
    fn ask(&mut self, scheduler: usize, ask: Ask, wants: Wants, patience: Duration) {
        let process = &mut self.schedulers[scheduler];
        process.requests += 1;
        let (request, life, linked) = (process.requests, process.life, process.linked);
        process.wants.insert(request, wants);
        let event = Event::Store { scheduler, life, request, start: self.store.starts, ask: Box::new(ask) };
        self.send(linked, &event);
        self.hear_later(scheduler, patience, Hears::Silence { request });
    }

    fn store_answers(&mut self, scheduler: usize, wants: Wants, answer: Option<Answer>) {
        match wants {
            Wants::Checked(connects) => match answer {
                Some(Answer::State(stream)) => self.check(scheduler, stream, connects),
                _ => self.hear_later(scheduler, LOOK_EVERY, Hears::Look),
            },
            Wants::Followed => match answer {
                Some(Answer::Followed(newer)) => self.take_in(scheduler, &newer),
                _ => self.hear_later(scheduler, LOOK_EVERY, Hears::Look),
            },
            Wants::TakenLease => match answer {
                Some(Answer::Wrote(Some(revision))) => {
                    let State::Follows(follower) = &mut self.schedulers[scheduler].state else { return };
                    if let Some(held) = follower.candidate.acked(revision) {
                        self.take_lease(scheduler, held);
                    }
                }
                _ => self.hear_later(scheduler, Duration::ZERO, Hears::Look),
            },
            Wants::Renewable(connects, known) => match answer {
                Some(Answer::State(now)) if is_contradicted(known, now) => {
                    self.end_term(scheduler, &LeaseLost::StoreWentBack);
                }
                Some(Answer::State(_)) => {
                    let ask = Ask::Read { key: LEASE_KEY.to_owned() };
                    self.ask(scheduler, ask, Wants::Confirmed(connects), LEASE_PATIENCE);
                }
                _ => self.schedulers[scheduler].renews = false,
            },
            Wants::Confirmed(connects) => {
                let held = self.schedulers[scheduler].held.clone();
                match (answer, held) {
                    (Some(Answer::Read(stored)), Some(held)) => match held.confirm(stored.as_ref()) {
                        Ok(()) => self.renew_over(scheduler, connects),
                        Err(lost) => self.end_term(scheduler, &lost),
                    },
                    _ => self.schedulers[scheduler].renews = false,
                }
            }
            Wants::Renewal(renewal, connects) => match answer {
                Some(Answer::Wrote(Some(revision))) => self.renewed(scheduler, renewal.acked(revision), connects),
                Some(Answer::Wrote(None)) => {
                    let ask = Ask::Read { key: LEASE_KEY.to_owned() };
                    self.ask(scheduler, ask, Wants::RenewalConflict(renewal, connects), PATIENCE);
                }
                _ => self.schedulers[scheduler].renews = false,
            },
            Wants::RenewalConflict(renewal, connects) => match answer {
                Some(Answer::Read(stored)) => match renewal.conflicted(stored.as_ref()) {
                    Ok(held) => self.renewed(scheduler, held, connects),
                    Err(lost) => self.end_term(scheduler, &lost),
                },
                _ => self.schedulers[scheduler].renews = false,
            },
            Wants::Write(writing) => {
                let result = match answer {
                    Some(Answer::Wrote(Some(revision))) => {
                        self.schedulers[scheduler].note_acked(revision);
                        Ok(revision)
                    }
                    Some(Answer::Wrote(None)) => Err(Failed::Conflict),
                    _ => Err(Failed::Unknown),
                };
                if let Some((_, going)) = self.schedulers[scheduler].writings.get_mut(&writing) {
                    going.wrote(result);
                    self.go_on_writing(scheduler, writing);
                }
            }
            Wants::Read(writing) => {
                let found = match answer {
                    Some(Answer::Read(stored)) => Some(stored),
                    _ => None,
                };
                if let Some((_, going)) = self.schedulers[scheduler].writings.get_mut(&writing) {
                    going.read(found);
                    self.go_on_writing(scheduler, writing);
                }
            }
            Wants::Compacted(key, revision) => {
                if answer.is_some() {
                    self.schedulers[scheduler].inputs.push_back(Input::Compacted { key, revision });
                }
            }
            Wants::Nothing => {}
        }
    }

    fn go_on_writing(&mut self, scheduler: usize, writing: u64) {
        let process = &mut self.schedulers[scheduler];
        let Some((object, mut going)) = process.writings.remove(&writing) else { return };
        if going.step().is_none() {
            process.inputs.push_back(Input::Written { object, outcome: going.finish() });
            return;
        }
        let delay = going.delay();
        process.writings.insert(writing, (object, going));
        self.hear_later(scheduler, delay, Hears::Write { writing });
    }

    fn write_on(&mut self, scheduler: usize, writing: u64) {
        let at = self.now;
        let process = &mut self.schedulers[scheduler];
        if !process.decides(at) {
            // Nothing is written into the term of another process.
            return self.hear_later(scheduler, WRITE_PAUSE, Hears::Write { writing });
        }
        let epoch = process.held.as_ref().map_or(0, |held| held.record.epoch);
        let Some((_, going)) = process.writings.get_mut(&writing) else { return };
        match going.step() {
            Some(Step::Write { key, value, expected }) => {
                self.ask(scheduler, Ask::Write { key, value, epoch, expected }, Wants::Write(writing), PATIENCE);
            }
            Some(Step::Read { key }) => self.ask(scheduler, Ask::Read { key }, Wants::Read(writing), PATIENCE),
            None => {}
        }
    }
}

// === The lease ===

impl World {
    /// Who follows reads on; first it asks whether the stream is still the same, where it has not lately.
    fn read_on(&mut self, scheduler: usize) {
        let at = self.now;
        let process = &self.schedulers[scheduler];
        let State::Follows(follower) = &process.state else { return };
        if !process.linked || self.store.down {
            return self.hear_later(scheduler, LOOK_EVERY, Hears::Look);
        }
        let (after, connects) = (follower.applied, process.connects);
        let is_same = follower.begun.is_some() && follower.connects == connects;
        // Who took the lease over a connection that broke since finds out before its first decision.
        if process.held.is_some() || (is_same && at - follower.checked_at < CHECK_EVERY) {
            self.ask(scheduler, Ask::Follow { after }, Wants::Followed, PATIENCE);
        } else {
            self.ask(scheduler, Ask::State, Wants::Checked(connects), PATIENCE);
        }
    }

    fn check(&mut self, scheduler: usize, now: StreamState, connects: u64) {
        let at = self.now;
        let process = &mut self.schedulers[scheduler];
        let State::Follows(follower) = &mut process.state else { return };
        let begun = *follower.begun.get_or_insert(now);
        let known = StreamState { revision: begun.revision.max(follower.applied), ..begun };
        if is_contradicted(known, now) {
            let State::Follows(follower) = std::mem::replace(&mut process.state, State::Dead) else { return };
            self.note(|| format!("scheduler-{scheduler} follows another store, or an older one"));
            self.kill_scheduler(scheduler);
            return self.follow_anew(scheduler, follower.into_remembered());
        }
        if follower.connects != connects && follower.connects > 0 {
            // The leader had no bus either.
            follower.candidate.look_anew();
        }
        (follower.checked_at, follower.connects) = (at, connects);
        self.read_on(scheduler);
    }

    fn take_in(&mut self, scheduler: usize, newer: &[(String, Stored)]) {
        let process = &mut self.schedulers[scheduler];
        let State::Follows(follower) = &mut process.state else { return };
        for (key, stored) in newer {
            follower.snapshot.take_in(key, stored);
            if key == LEASE_KEY {
                follower.lease = Some(stored.clone());
            }
            follower.applied = stored.revision;
        }
        match &process.held {
            Some(held) if follower.applied >= held.revision => self.lead(scheduler),
            None if follower.is_current() => self.hear_lease(scheduler),
            _ => self.hear_later(scheduler, LOOK_EVERY, Hears::Look),
        }
    }

    fn hear_lease(&mut self, scheduler: usize) {
        let at = self.now;
        let process = &mut self.schedulers[scheduler];
        let (boottime, wall) = (process.clock.boottime(at), process.clock.wall(at));
        let nonce = process.dice.next();
        let State::Follows(follower) = &mut process.state else { return };
        match follower.candidate.heard(follower.lease.as_ref(), boottime, wall, || format!("{nonce:x}")) {
            Ok(Next::Wait) => self.hear_later(scheduler, LOOK_EVERY, Hears::Look),
            Ok(Next::Take { record, expected }) => {
                self.ask(scheduler, write_lease(&record, expected), Wants::TakenLease, LEASE_PATIENCE);
            }
            Ok(Next::Lead(held)) => self.take_lease(scheduler, held),
            Err(error) => {
                self.invariants.broken.get_or_insert_with(|| format!("the lease cannot be read: {error}"));
            }
        }
    }

    fn take_lease(&mut self, scheduler: usize, held: Held) {
        self.note(|| format!("scheduler-{scheduler} has the lease, e{} r{}", held.record.epoch, held.revision));
        self.schedulers[scheduler].held = Some(held);
        self.read_on(scheduler);
    }

    /// After each reconnection it asks first whether the stream is still the one of before.
    fn renew(&mut self, scheduler: usize) {
        let process = &mut self.schedulers[scheduler];
        if process.held.is_none() {
            return;
        }
        let connects = process.connects;
        if !std::mem::replace(&mut process.renews, true) {
            if connects == process.sure_connects {
                self.renew_over(scheduler, connects);
            } else {
                let known = process.stream;
                self.ask(scheduler, Ask::State, Wants::Renewable(connects, known), LEASE_PATIENCE);
            }
        }
        self.hear_later(scheduler, RENEW_EVERY, Hears::Renew);
    }

    fn renew_over(&mut self, scheduler: usize, connects: u64) {
        let at = self.now;
        let process = &self.schedulers[scheduler];
        let Some(held) = process.held.clone() else { return };
        let renewal = held.renewal(process.clock.boottime(at), process.clock.wall(at));
        let ask = write_lease(&renewal.record, held.revision);
        self.ask(scheduler, ask, Wants::Renewal(Box::new(renewal), connects), LEASE_PATIENCE);
    }

    fn renewed(&mut self, scheduler: usize, held: Held, connects: u64) {
        let process = &mut self.schedulers[scheduler];
        process.renews = false;
        process.note_acked(held.revision);
        process.sure_connects = connects;
        process.held = Some(held);
    }
}

/// Whether `now` cannot be a later state of a stream that came to be as `known`.
fn is_contradicted(known: StreamState, now: StreamState) -> bool {
    now.created != known.created || now.revision < known.revision
}

// === The leader ===

impl World {
    fn lead(&mut self, scheduler: usize) {
        let at = self.now;
        let process = &mut self.schedulers[scheduler];
        let (Some(held), State::Follows(follower)) = (&process.held, &mut process.state) else { return };
        let Some(begun) = follower.begun else { return };
        let snapshot = std::mem::take(&mut follower.snapshot);
        let remembered = follower.remembered.take().and_then(|remembered| remembered.for_last_of(&held.record.terms));
        let term = Term { epoch: held.record.epoch, nonce: held.record.nonce.clone() };
        let settings =
            Settings { toleration_seconds: TOLERATION_SECONDS, scheduling: podbus_scheduler_core::Config::default() };
        let control = format!("control.{scheduler}");
        let lineage = Lineage::new(held.record.terms.clone(), held.revision);
        process.stream = StreamState { revision: begun.revision.max(held.revision), ..begun };
        process.sure_connects = follower.connects;
        let seed = process.dice.seed();
        let start = Start { snapshot, term, lineage, remembered };
        let mut leader = Leader::new(start, control, settings, seed, process.now(at));
        let outputs = leader.outputs();
        process.state = State::Leads(Box::new(leader));
        self.note(|| format!("scheduler-{scheduler} leads"));
        self.carry_out(scheduler, outputs);
        self.hear_later(scheduler, Duration::ZERO, Hears::Renew);
        self.hear_later(scheduler, TICK_EVERY, Hears::Tick);
    }

    fn read_message(&mut self, scheduler: usize, message: ToLeader) -> Option<Input> {
        match message {
            ToLeader::Call { request, subject, payload } => {
                let process = &mut self.schedulers[scheduler];
                process.requests += 1;
                let call = process.requests;
                process.calls.insert(call, request);
                Some(Input::Call { call, subject, payload })
            }
            ToLeader::Message { kind, subject, reply, payload } => {
                let message = Message { subject, reply, payload };
                match kind {
                    Kind::Status => Input::read_status(message),
                    Kind::Sync => Input::read_sync(message),
                    Kind::Heartbeat => Input::read_heartbeat(message),
                }
            }
        }
    }

    /// Lets the leader take in what waits, as long as its lease is surely held.
    fn decide(&mut self, scheduler: usize) {
        loop {
            let at = self.now;
            let process = &mut self.schedulers[scheduler];
            if process.inputs.is_empty() || !process.subscribes() {
                return;
            }
            if !process.decides(at) {
                process.waited = true;
                return;
            }
            let waited = std::mem::take(&mut process.waited);
            let input = if waited { Some(Input::Resumed) } else { process.inputs.pop_front() };
            let Some(input) = input else { return };
            self.invariants.decides(scheduler, &self.schedulers, at);
            let process = &mut self.schedulers[scheduler];
            let now = process.now(at);
            let State::Leads(leader) = &mut process.state else { return };
            let handled = leader.handle(input, now);
            let outputs = leader.outputs();
            if let Err(lost) = handled {
                return self.end_term(scheduler, &lost);
            }
            self.carry_out(scheduler, outputs);
        }
    }

    fn carry_out(&mut self, scheduler: usize, outputs: Vec<Output>) {
        for output in outputs {
            let process = &mut self.schedulers[scheduler];
            let linked = process.linked;
            match output {
                Output::Write { object, writes } => {
                    process.requests += 1;
                    let writing = process.requests;
                    let epoch = process.held.as_ref().map_or(0, |held| held.record.epoch);
                    process.writings.insert(writing, (object, Writing::new(epoch, writes)));
                    self.write_on(scheduler, writing);
                }
                Output::Answer(call, result) => {
                    let Some(request) = process.calls.remove(&call) else { continue };
                    self.invariants.answers(scheduler, &self.schedulers, self.now);
                    let result = result.map(|json| serde_json::from_slice(&json).unwrap_or_default());
                    self.send(linked, &Event::ClientHears { request, result: Box::new(result) });
                }
                Output::Send { subject, payload } => self.send_to_agent(linked, &subject, payload),
                // Nobody watches, and nobody reads events.
                Output::Watch(_) | Output::Publish(_) => {}
                Output::Compact(markers) => {
                    for (revision, key) in markers {
                        let ask = Ask::Compact { key: key.clone(), revision };
                        self.ask(scheduler, ask, Wants::Compacted(key, revision), PATIENCE);
                    }
                }
            }
        }
    }
}
