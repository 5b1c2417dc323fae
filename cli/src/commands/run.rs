//! `podbus run`: a pod of one container, without a file.

mod manifest;

use std::time::Duration;

use podbus_common::api::VERSION_OF_NOTHING;
use podbus_common::model::{Pod, RestartPolicy};
use podbus_common::proto::{self, open_stream};
use podbus_common::subject::{self, PodStream};
use serde_json::Value;

use self::manifest::Wish;
use super::apply::DryRun;
use super::delete::{self, Grace};
use super::process::{self, ProcessArgs};
use super::{attach, wait};
use crate::args::{self, BusArgs, NamespaceArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::output::{Format, type_and_name};
use crate::resource::{Kind, node_of};
use crate::rows::typed;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "podbus run NAME --image=IMAGE [FLAGS] [-- ARG...]",
    after_help = "Examples:\n  podbus run web --image=nginx --port=80\n  podbus run -it --rm shell --image=busybox \
                  --restart=Never -- sh\n  podbus run job --image=busybox --restart=Never --attach -- echo hello\n  \
                  podbus run web --image=nginx --dry-run=client -o yaml > web.yaml\n\nWith --attach alone all that it \
                  writes is printed; with -i what it writes from then on. The exit code is the\ncontainer's, unless it \
                  is started again when it ends."
)]
pub(crate) struct Args {
    #[command(flatten)]
    wish: Wish,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Hand stdin to it
    #[arg(short = 'i', long)]
    stdin: bool,
    /// With a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Print what it writes, until it ends
    #[arg(long)]
    attach: bool,
    /// Delete the pod afterwards
    #[arg(long)]
    rm: bool,
    /// With -i or --attach: how long to wait until it runs
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = args::duration)]
    pod_running_timeout: Duration,
    /// Say nothing of our own
    #[arg(short, long)]
    quiet: bool,
    /// Only look: `client` prints what would be asked for, `server` asks the scheduler too
    #[arg(long, value_enum, value_name = "WHERE", default_value = "none", default_missing_value = "client",
        num_args = 0..=1, require_equals = true, hide_default_value = true)]
    dry_run: DryRun,
    /// name, json, yaml, jsonpath=TEMPLATE or custom-columns=HEAD:PATH,...
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse)]
    output: Option<Format>,
    #[command(flatten)]
    bus: BusArgs,
}

impl Args {
    fn attaches(&self) -> bool {
        self.attach || self.stdin
    }

    /// kubectl's rules for flags that need each other.
    fn check(&self) -> Outcome {
        let refusal = if self.tty && !self.stdin {
            "-i/--stdin is required for containers with -t/--tty=true"
        } else if self.rm && !self.attaches() {
            "--rm should only be used for attached containers"
        } else if self.attaches() && self.dry_run != DryRun::None {
            "--dry-run=[client|server] can't be used with attached containers options (--attach, --stdin, or --tty)"
        } else {
            return Ok(());
        };
        Err(Failure::local(refusal))
    }
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    args.check()?;
    let namespace = args.namespace.namespace.as_str();
    let object = args.wish.manifest(namespace, args.stdin, args.tty)?;
    if args.dry_run == DryRun::Client {
        return print(&args, &object, terminal);
    }
    let session = Session::connect(&args.bus).await?;
    if args.dry_run == DryRun::Server {
        return print(&args, &session.api.apply(namespace, "pods", &object, true).await?.object, terminal);
    }
    let created = session.api.apply_to_version(namespace, "pods", &object, VERSION_OF_NOTHING).await?.object;
    if !args.attaches() {
        return print(&args, &created, terminal);
    }
    let ended = talk(&session, &args, terminal).await;
    if args.rm {
        let pod = delete::doomed(&created)?;
        match delete::delete(&session, &pod, Grace { seconds: None, force: false }).await {
            Err(failure) if !failure.is_not_found() => {
                return Failure::all(ended.err().into_iter().chain([failure]).collect());
            }
            _ if args.quiet => {}
            _ => terminal.line(&format!("pod \"{}\" deleted from {namespace} namespace", pod.name))?,
        }
    }
    ended
}

fn print(args: &Args, object: &Value, terminal: &Terminal) -> Outcome {
    match &args.output {
        None => terminal.line(&format!("{} created{}", type_and_name(object), args.dry_run.suffix())),
        Some(format) => terminal.print(&format.render(std::slice::from_ref(object), false)?),
    }
}

/// Talks to the pod once it runs, until it ends.
async fn talk(session: &Session, args: &Args, terminal: &Terminal) -> Outcome {
    let late = || {
        Failure::local("timed out waiting for the condition")
            .hint(format!("`podbus describe pod {}` says what it waits for", args.wish.name))
    };
    let started = until(session, args, manifest::has_started);
    let pod = tokio::time::timeout(args.pod_running_timeout, started).await.map_err(|_| late())??;
    if args.stdin && !manifest::has_ended(&pod) {
        let process = ProcessArgs {
            namespace: args.namespace.clone(),
            container: None,
            stdin: true,
            tty: args.tty,
            quiet: args.quiet,
            bus: args.bus.clone(),
        };
        match attach::attach(session, &pod, process, terminal).await {
            // It may have ended just now.
            Err(failure @ Failure::Said(_)) => {
                terminal.note(&format!("warning: couldn't attach to pod/{}, falling back to logs", args.wish.name));
                terminal.report(&failure.text());
                print_logs(session, &pod).await?;
            }
            attached => attached?,
        }
    } else {
        print_logs(session, &pod).await?;
    }
    if pod.spec.restart_policy == RestartPolicy::Always {
        return Ok(());
    }
    let pod = until(session, args, manifest::has_ended).await?;
    match manifest::exit_of(&pod) {
        None => Ok(()),
        Some((code, reason)) => {
            if !args.quiet {
                let metadata = &pod.metadata;
                terminal.note(&format!("pod {}/{} terminated ({reason})", metadata.namespace, metadata.name));
            }
            Err(Failure::Code(code))
        }
    }
}

async fn until(session: &Session, args: &Args, is: fn(&Pod) -> bool) -> Outcome<Pod> {
    let (namespace, name) = (args.namespace.namespace.as_str(), args.wish.name.as_str());
    let met = |object: Option<&Value>| match object {
        Some(object) => Ok(is(&typed(object)?)),
        None => Err(Failure::not_found("pods", name)),
    };
    let found = wait::until(session, Some(namespace), Kind::Pod, name, met).await?;
    typed(&found.unwrap_or_default())
}

/// All that the container wrote and writes.
async fn print_logs(session: &Session, pod: &Pod) -> Outcome {
    let (metadata, node) = (&pod.metadata, node_of(pod)?);
    let request = proto::LogsRequest {
        namespace: metadata.namespace.clone(),
        pod: metadata.name.clone(),
        uid: metadata.uid.clone(),
        container: metadata.name.clone(),
        follow: true,
        tail_lines: -1,
        ..Default::default()
    };
    let subject = subject::pod_stream(node, &metadata.namespace, PodStream::Logs);
    let stream = session.open(node, &subject, open_stream::Request::Logs(request)).await?;
    process::talk(stream, false, false).await.map(|_| ())
}
