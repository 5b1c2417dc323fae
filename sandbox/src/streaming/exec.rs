//! One more process in a container, which lives no longer than its client stays.

use std::sync::Arc;

use bytes::Bytes;
use podbus_common_cri::runtime::ExecRequest;

use super::client::{Client, Ended, Output};
use super::relay::{Ends, Over, relay};
use crate::ready::watch;
use crate::runtime::exec::{Exec, Standard};
use crate::runtime::{Container, Outcome, Runtime, doing};

/// Runs the process, and tells its end. The client's leaving ends the process.
pub(super) async fn run(runtime: &Arc<Runtime>, container: &Container, request: &ExecRequest, mut client: Client) {
    let ended = match start(runtime, container, request).await {
        Ok((mut exec, ends)) => {
            let end = async {
                match exec.wait().await {
                    Ok((code, _)) => Ended::Exited(code),
                    Err(error) => Ended::Failed(error.to_string()),
                }
            };
            match relay(ends, &mut client, end, None).await {
                Over::Ended(ended) => ended,
                Over::NoOutput | Over::ClientLeft => return, // nobody is there to be told
            }
        }
        Err(error) => match error.exit_code() {
            // As a shell has it: what is wrong on standard error, and an exit code for it.
            Some(code) => {
                let line = if request.tty {
                    Output::Stdout(Bytes::from(format!("{error}\r\n")))
                } else {
                    Output::Stderr(Bytes::from(format!("{error}\n")))
                };
                let _ = client.output.send(line).await; // shown by the next
                Ended::Exited(code)
            }
            None => Ended::Failed(error.to_string()),
        },
    };
    let _ = client.output.send(Output::Ended(ended)).await; // a client that has left needs no end
}

async fn start(runtime: &Arc<Runtime>, container: &Container, request: &ExecRequest) -> Outcome<(Exec, Ends)> {
    let watched = |fd| watch(fd).map_err(doing("watch a descriptor"));
    if request.tty {
        let (exec, master) = runtime.exec(container, &request.cmd, Standard::Terminal).await?;
        let lost = || doing("take the terminal")(std::io::Error::other("the shim handed over none"));
        let master = master.ok_or_else(lost)?;
        let copy = || master.try_clone().map_err(doing("copy the terminal")).and_then(watched);
        let input = if request.stdin { Some(copy()?) } else { None };
        let output = Some(copy()?);
        return Ok((exec, Ends { input, output, terminal: Some(master), ..Ends::default() }));
    }
    let pipe = || {
        let ends = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        ends.map_err(|errno| doing("make a pipe")(errno.into()))
    };
    let ((out, out_sender), (err, err_sender), (in_receiver, input)) = (pipe()?, pipe()?, pipe()?);
    let input = if request.stdin { Some(watched(input)?) } else { None };
    let in_receiver = request.stdin.then_some(in_receiver);
    let standard = Standard::Pipes { input: in_receiver, output: out_sender, error: err_sender };
    let (exec, _) = runtime.exec(container, &request.cmd, standard).await?;
    // What nobody wants is read all the same, so that the process does not stop for it: the carrier drops it.
    let ends = Ends { input, output: Some(watched(out)?), error: Some(watched(err)?), ..Ends::default() };
    Ok((exec, ends))
}
