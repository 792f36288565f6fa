//! A simulated process: tasks that live, stop and die together, as the threads of a real process
//! do.
//!
//! A process is started on the runtime of its instance. SIGKILL drops every task at once in the
//! order in which they were spawned, and with them their sockets; SIGSTOP keeps tasks from being
//! polled while time, kernel and peers go on; SIGTERM is a future that a program may await.
//! Dropping tasks ourselves instead of aborting them on tokio's side makes the order of the FINs,
//! and so everything after, independent of task numbers that count up through the whole
//! operating-system process. A panic ends the process and fails the run. When the main task ends,
//! so does the process.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::SimFailure;
use super::crypto::{Drawing, Entropy};
use super::log::Speaking;
use super::stack::{FrozenTime, HostClock, Shared};

/// Something to do on an instance, inside its runtime.
pub(super) type Command = Box<dyn FnOnce()>;

/// The software of an instance: does what the world outside asks, inside the right runtime.
pub(super) async fn supervise(mut commands: mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = commands.recv().await {
        command();
    }
}

/// The first thing that went wrong inside the simulated world.
pub(super) type Failure = Rc<RefCell<Option<SimFailure>>>;

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exit {
    /// By SIGKILL, or SIGTERM without a handler.
    Killed,
    /// By returning from its main task.
    Returned(Result<(), String>),
    /// By a panic.
    Panicked(String),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Killed => f.write_str("was killed"),
            Exit::Returned(Ok(())) => f.write_str("ended"),
            Exit::Returned(Err(e)) => write!(f, "ended with an error: {e}"),
            Exit::Panicked(message) => write!(f, "panicked: {message}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
    Dead,
}

type Boxed = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    task: &'static str,
    /// Empty while it is being polled and after its end.
    future: RefCell<Option<Boxed>>,
    handle: RefCell<Option<AbortHandle>>,
}

/// A process.
pub(super) struct Group {
    name: Rc<str>,
    id: u64,
    /// That of its instance.
    clock: OnceCell<HostClock>,
    state: Cell<State>,
    tasks: RefCell<BTreeMap<u64, Rc<Slot>>>,
    next: Cell<u64>,
    /// Tasks that would have run while stopped.
    stopped: RefCell<BTreeMap<u64, Waker>>,
    exit: RefCell<Option<Exit>>,
    term: Rc<TermFlag>,
    /// What its keys are drawn from.
    entropy: Entropy,
    stack: Shared,
    failure: Failure,
    changed: Arc<Notify>,
}

impl Group {
    /// A process that does nothing yet. `id` differs for each incarnation; `changed` is told of its
    /// end.
    pub fn new(
        (name, id): (String, u64),
        entropy: Entropy,
        stack: Shared,
        failure: Failure,
        changed: Arc<Notify>,
    ) -> Rc<Self> {
        Rc::new(Group {
            name: name.into(),
            id,
            clock: OnceCell::new(),
            state: Cell::new(State::Running),
            tasks: RefCell::default(),
            next: Cell::new(0),
            stopped: RefCell::default(),
            exit: RefCell::default(),
            term: Rc::default(),
            entropy,
            stack,
            failure,
            changed,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// How it ended, or `None` while it lives.
    pub fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// How it ended, if no signal made it.
    pub fn ended_by_itself(&self) -> Option<String> {
        match &*self.exit.borrow() {
            Some(exit @ Exit::Returned(_)) if !self.term.raised.get() => Some(exit.to_string()),
            Some(exit @ Exit::Panicked(_)) => Some(exit.to_string()),
            _ => None,
        }
    }

    pub fn term(&self) -> Term {
        Term(self.term.clone())
    }

    /// Starts the main task. Must be called inside the instance's runtime.
    pub fn start(self: &Rc<Self>, main: impl Future<Output = io::Result<()>> + 'static) {
        self.stack.note(|| format!("start {}", self.name));
        let group = self.clone();
        Group::spawn(self, "main", async move {
            let result = main.await.map_err(|e| e.to_string());
            group.end(Exit::Returned(result));
        });
    }

    /// Adds a task. Must be called inside the instance's runtime; does nothing for a process that
    /// has ended, because then the call comes from a destructor.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn spawn(group: &Rc<Self>, task: &'static str, future: impl Future<Output = ()> + 'static) {
        if group.state.get() == State::Dead {
            return;
        }
        let id = group.next.replace(group.next.get() + 1);
        let future: Boxed = Box::pin(future);
        let slot = Rc::new(Slot { task, future: RefCell::new(Some(future)), handle: RefCell::default() });
        group.tasks.borrow_mut().insert(id, slot.clone());
        let handle = tokio::task::spawn_local(Task { group: group.clone(), slot: slot.clone(), id });
        slot.handle.replace(Some(handle.abort_handle()));
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.end(Exit::Killed);
    }

    /// SIGTERM: asks a program that listens for it to end; one that does not is killed.
    pub fn terminate(&self) {
        if self.term.heard.get() {
            self.stack.note(|| format!("term {}", self.name));
            self.term.raised.set(true);
            self.term.wake.notify_waiters();
        } else {
            self.kill();
        }
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        if self.state.get() == State::Running {
            self.stack.note(|| format!("stop {}", self.name));
            self.state.set(State::Stopped);
        }
    }

    /// Whether it is stopped and answers nothing.
    pub fn is_stopped(&self) -> bool {
        self.state.get() == State::Stopped
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        if self.state.get() == State::Stopped {
            self.stack.note(|| format!("continue {}", self.name));
            self.state.set(State::Running);
            for waker in self.stopped.take().into_values() {
                waker.wake();
            }
        }
    }

    fn end(&self, exit: Exit) {
        if self.state.replace(State::Dead) == State::Dead {
            return;
        }
        self.stack.note(|| format!("exit {} {exit}", self.name));
        self.exit.replace(Some(exit));
        self.stopped.take();
        for slot in self.tasks.take().into_values() {
            let future = slot.future.take();
            drop(future);
            if let Some(handle) = slot.handle.take() {
                handle.abort();
            }
        }
        self.changed.notify_waiters();
    }

    fn panicked(&self, task: &'static str, message: String) {
        self.failure.borrow_mut().get_or_insert_with(|| SimFailure::Panic {
            process: self.name.to_string(),
            task: task.to_owned(),
            at: turmoil::sim_elapsed().unwrap_or_default(),
            message: message.clone(),
        });
        self.end(Exit::Panicked(message));
    }
}

/// What a panic said.
pub(super) fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(no message)".to_owned())
}

struct Task {
    group: Rc<Group>,
    slot: Rc<Slot>,
    id: u64,
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Task { group, slot, id } = &*self;
        match group.state.get() {
            State::Dead => return Poll::Ready(()),
            State::Stopped => {
                group.stopped.borrow_mut().insert(*id, cx.waker().clone());
                return Poll::Pending;
            }
            State::Running => {}
        }
        let Some(mut future) = slot.future.take() else { return Poll::Ready(()) };
        let clock = *group.clock.get_or_init(HostClock::here);
        let (_frozen, _speaking) = (FrozenTime::begin(clock), Speaking::begin(&group.name));
        let _drawing = Drawing::begin(&group.entropy);
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) if group.state.get() != State::Dead => {
                slot.future.replace(Some(future));
                return Poll::Pending;
            }
            Ok(_) => {}
            Err(payload) => group.panicked(slot.task, message(&*payload)),
        }
        group.tasks.borrow_mut().remove(id);
        Poll::Ready(())
    }
}

#[derive(Default)]
struct TermFlag {
    heard: Cell<bool>,
    raised: Cell<bool>,
    wake: Notify,
}

/// SIGTERM, as a program may await it. A program that never does is ended by the signal.
#[derive(Clone)]
pub struct Term(Rc<TermFlag>);

impl Term {
    /// Waits for the signal. From the first call on the process handles it.
    pub fn wait(&self) -> impl Future<Output = ()> + 'static {
        let flag = self.0.clone();
        flag.heard.set(true);
        async move {
            let raised = flag.wake.notified();
            tokio::pin!(raised);
            raised.as_mut().enable();
            if !flag.raised.get() {
                raised.await;
            }
        }
    }
}

/// How long a process may take until it is ready, virtual time.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(10);
