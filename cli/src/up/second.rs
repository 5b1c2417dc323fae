//! `podbus up` beside the process that supervises: it starts that in the background, or meets one that runs.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::control::{Conversation, Reply, Request};
use super::foreground::farewell;
use super::layout::Layout;
use super::process::open_log;
use super::status::{Phase, Status};
use super::{Args, URL_VARIABLE, own_program, progress, state};
use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;

/// Between two looks for the control socket.
const RETRY: Duration = Duration::from_millis(10);
/// How long an `up` that holds the state may take to open its socket.
const RETRIES_MAX: u32 = 3000;

/// Says how the cluster does that runs, once all of it is Ready. False: nobody holds the state any more.
pub(super) async fn show_running(layout: &Layout, terminal: &Terminal) -> Outcome<bool> {
    for _ in 0..RETRIES_MAX {
        if !state::is_held(layout) {
            return Ok(false);
        }
        // A process that is being killed still takes the call, and tells nothing.
        if let Some(mut conversation) = Conversation::open(&layout.control_socket(), &Request::Watch).await
            && let Some(first) = next(&mut conversation).await
        {
            let Some(status) = until_ready(first, conversation, terminal).await else {
                let log = layout.file("up.log");
                return Err(Failure::local("the cluster ended").hint(format!("see {}", log.display())));
            };
            terminal.note(&format!("podbus is already running (process {})", status.pid));
            terminal.line(&farewell(&status, false))?;
            return Ok(true);
        }
        sleep(RETRY).await;
    }
    Err(Failure::local(format!("a process holds {} and does not answer", layout.state_dir.display()))
        .hint("it may be ending: try again, or see `podbus doctor`"))
}

/// Starts a supervisor in the background and returns when all is Ready.
pub(super) async fn run_in_background(args: &Args, layout: &Layout, terminal: &Terminal) -> Outcome {
    state::create(layout)?;
    let path = layout.file("up.log");
    let log = open_log(&path)?;
    let start = log.metadata()?.len();
    let mut command = Command::new(own_program());
    if let Some(url) = &args.nats {
        command.env(URL_VARIABLE, url);
    }
    let mut child = command
        .args(background_arguments(args, layout))
        .env_remove("PODBUS_NATS_URL")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let Some(mut conversation) = reach(layout, &mut child).await? else { return Err(failed(&path, start)) };
    let ready = match next(&mut conversation).await {
        Some(first) => until_ready(first, conversation, terminal).await,
        None => None,
    };
    match ready {
        Some(status) => {
            for note in &status.notes {
                terminal.note(&format!("note: {note}"));
            }
            terminal.line(&farewell(&status, false))
        }
        None => {
            // Its last words are written when it has ended.
            child.wait()?;
            Err(failed(&path, start))
        }
    }
}

/// The child's control socket; `None` when it ended instead.
async fn reach(layout: &Layout, child: &mut Child) -> Outcome<Option<Conversation>> {
    loop {
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        if let Some(conversation) = Conversation::open(&layout.control_socket(), &Request::Watch).await {
            return Ok(Some(conversation));
        }
        sleep(RETRY).await;
    }
}

/// Shows live lines until the cluster runs; `None` when it ended before.
async fn until_ready(mut first: Status, mut conversation: Conversation, terminal: &Terminal) -> Option<Status> {
    if first.phase == Phase::Starting {
        let (status_tx, status_rx) = watch::channel(first);
        let shown = tokio::spawn(progress::show(status_rx, *terminal));
        loop {
            let status = next(&mut conversation).await?;
            let phase = status.phase;
            status_tx.send_replace(status);
            if phase != Phase::Starting {
                break;
            }
        }
        first = status_tx.borrow().clone();
        drop(status_tx);
        // An error would be its panic; the status counts.
        let _ = shown.await;
    } else {
        first.parts.iter().for_each(|part| terminal.note(&progress::plain(part)));
    }
    (first.phase == Phase::Running).then_some(first)
}

async fn next(conversation: &mut Conversation) -> Option<Status> {
    match conversation.next().await? {
        Reply::Status(status) => Some(*status),
        Reply::Done | Reply::Refused(_) => None,
    }
}

/// The error that the child wrote into its log, as this command's own.
fn failed(log: &Path, start: u64) -> Failure {
    let mut text = String::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        file.read_to_string(&mut text)
    });
    let said = text.find("error: ").map(|at| text[at..].lines());
    match (read, said) {
        (Ok(_), Some(mut lines)) => {
            let head = lines.next().unwrap_or_default().trim_start_matches("error: ");
            lines.fold(Failure::local(head), |failure, line| match line.strip_prefix("hint: ") {
                Some(hint) => failure.hint(hint),
                None => failure.because(line.trim_start()),
            })
        }
        _ => Failure::local("podbus up ended early").hint(format!("see {}", log.display())),
    }
}

fn background_arguments(args: &Args, layout: &Layout) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        vec!["up".into(), "--background".into(), "--state-dir".into(), layout.state_dir.clone().into()];
    let mut flag = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            arguments.extend([OsString::from(name), value.into()]);
        }
    };
    flag("--nodes", args.nodes.map(|nodes| nodes.to_string()).as_deref());
    flag("--schedulers", args.schedulers.map(|schedulers| schedulers.to_string()).as_deref());
    flag("--not-ready-toleration", Some(&args.not_ready_toleration));
    flag("--cpu", args.cpu.as_deref());
    flag("--memory", args.memory.as_deref());
    flag("--sync", Some(args.sync.as_str()));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::foreground::{forget, make_run_dir};

    #[test]
    fn the_background_process_gets_the_same_flags() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        let given = "up --detach --nodes 5 --schedulers 2 --not-ready-toleration 5s --cpu 500m --sync always";
        let args = Line::parse_from(given.split(' ')).args;
        let again = Line::parse_from(background_arguments(&args, &layout)).args;
        assert!(again.background && !again.detach);
        assert_eq!((again.nodes, again.schedulers), (Some(5), Some(2)));
        assert_eq!((again.cpu, again.sync), (Some("500m".to_owned()), args.sync));
        assert_eq!(again.not_ready_toleration, "5s");
        assert_eq!(again.state_dir, layout.state_dir);
    }

    #[tokio::test]
    async fn a_process_that_dies_before_it_tells_anything_is_no_cluster_that_runs() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        make_run_dir(&layout).unwrap();
        let lock = state::lock(&layout).unwrap().unwrap();
        let listener = tokio::net::UnixListener::bind(layout.control_socket()).unwrap();
        let dying = async move {
            let (stream, _) = listener.accept().await.unwrap();
            drop((stream, lock));
        };
        let terminal = Terminal::new(crate::terminal::ColorWhen::Never);
        let (shown, ()) = tokio::join!(show_running(&layout, &terminal), dying);
        forget(&layout);
        assert!(!shown.unwrap());
    }

    #[test]
    fn the_childs_error_becomes_this_commands_own() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("up.log");
        fs_err::write(&log, "error: of an earlier run\nbus Ready\nerror: no luck\n  because\nhint: try again\n")
            .unwrap();
        let start = u64::try_from("error: of an earlier run\n".len()).unwrap();
        assert_eq!(failed(&log, start).text(), "error: no luck\n  because\nhint: try again\n");
    }
}
