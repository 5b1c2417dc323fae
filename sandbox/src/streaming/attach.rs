//! The first process of a container and its client: input goes into the pipe or terminal that the shim keeps, output
//! comes as a copy of what the log gets, from now on.

use tokio::sync::oneshot;

use super::client::{Client, Ended, Output, Wanted};
use super::relay::{DRAIN, Ends, Over, relay};
use crate::ready::watch;
use crate::runtime::{Container, Outcome, doing};

/// Serves until the container ends or the client leaves; the container does not mind.
pub(super) async fn run(container: &Container, wanted: Wanted, mut client: Client) {
    let (input_ended, ended) = oneshot::channel();
    let over = match join(container, wanted, input_ended).await {
        Ok(ends) => {
            let end = async {
                container.exits().await;
                Ended::Exited(0) // of the attach: the container's own code is in its status
            };
            let close = async {
                let _ = ended.await; // dropped, not sent
                if wanted.stdin && container.config().stdin_once {
                    close_input(container).await;
                }
            };
            tokio::join!(relay(ends, &mut client, end, Some(DRAIN)), close).0
        }
        Err(error) => Over::Ended(Ended::Failed(error.to_string())),
    };
    let ended = match over {
        Over::Ended(ended) => ended,
        Over::NoOutput => Ended::Failed("the output came faster than this client read it: it was cut off".to_owned()),
        Over::ClientLeft => return,
    };
    let _ = client.output.send(Output::Ended(ended)).await; // a client that has left needs no end
}

async fn join(container: &Container, wanted: Wanted, input_ended: oneshot::Sender<()>) -> Outcome<Ends> {
    let attached = container.attach(wanted.stdin || wanted.tty, wanted.stdout, wanted.stderr).await?;
    let watched = |fd| watch(fd).map_err(doing("watch a descriptor"));
    let (input, terminal) = match attached.input {
        Some(master) if wanted.tty => {
            let copy = master.try_clone().map_err(doing("copy the terminal"))?;
            (if wanted.stdin { Some(watched(copy)?) } else { None }, Some(master))
        }
        Some(pipe) => (Some(watched(pipe)?), None),
        None => (None, None),
    };
    let output = attached.output.map(watched).transpose()?;
    let error = attached.error.map(watched).transpose()?;
    Ok(Ends { input, output, error, input_ended: Some(input_ended), terminal })
}

async fn close_input(container: &Container) {
    if let Err(error) = container.close_input().await {
        tracing::debug!(container = %container.body.id, %error, "cannot close standard input");
    }
}
