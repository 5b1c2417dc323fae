//! Images of the node: list, pull, load, remove.

use bytes::Bytes;
use futures::StreamExt as _;
use podbus_common::api::{ImageProgress, ImageRow};
use podbus_common::image_name;
use podbus_common::proto::{ImageRequest, chunk, client_frame, image_request};
use podbus_common_bus::stream::{self, ServerReceiver, ServerSender, ServerStream};
use podbus_common_cri::sandbox::LoadRequest;
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::Code;

use super::{Refusal, Streams};
use crate::runtime::{Runtime, RuntimeError};

impl<R: Runtime> Streams<R> {
    pub(super) async fn images(&self, request: ImageRequest, stream: ServerStream) {
        let ServerStream { sender, receiver } = stream;
        let kind = request.kind();
        let work = async {
            match kind {
                image_request::Kind::List => self.list(&sender).await,
                image_request::Kind::Pull => self.pull(&request.image, &sender).await,
                image_request::Kind::Remove => self.remove(&request.image).await,
                image_request::Kind::Load => self.load(request.image.clone(), &sender, receiver).await,
            }
        };
        let done = tokio::select! {
            // A client that left during a load ends it: half an archive is no image.
            () = sender.closed() => return,
            done = work => done,
        };
        match done {
            Ok(()) => sender.finish(0, None).await,
            Err(error) => sender.finish(1, Some(error)).await,
        }
    }

    async fn list(&self, sender: &ServerSender) -> Result<(), Refusal> {
        let mut images = self.runtime.list_images().await.map_err(runtime_failed)?;
        images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
        for image in images {
            send(sender, &ImageRow { names: image.repo_tags, id: image.id, size_bytes: image.size }).await?;
        }
        Ok(())
    }

    async fn pull(&self, image: &str, sender: &ServerSender) -> Result<(), Refusal> {
        let name = full_name(image)?;
        if image_name::is_local(&name) {
            let text = format!("{name} is local: load it with `podbus image load`, it is never pulled");
            return Err(stream::error(400, text));
        }
        let mut progress = match self.runtime.pull(&name).await {
            // A runtime with CRI's own call only: no progress, the same image.
            Err(error) if error.code == Code::Unimplemented => {
                let id = self.runtime.pull_image(&name, None).await.map_err(runtime_failed)?;
                return send(sender, &ImageProgress { names: vec![name], id, ..Default::default() }).await;
            }
            progress => progress.map_err(runtime_failed)?,
        };
        while let Some(message) = progress.next().await {
            let message = message.map_err(runtime_failed)?;
            let names = if message.image_ref.is_empty() { Vec::new() } else { vec![name.clone()] };
            let (bytes, bytes_total) = (message.bytes, message.bytes_total);
            send(sender, &ImageProgress { names, bytes, bytes_total, id: message.image_ref }).await?;
        }
        Ok(())
    }

    async fn remove(&self, image: &str) -> Result<(), Refusal> {
        let name = full_name(image)?;
        // CRI's RemoveImage succeeds for an image that is not there; a person wants to know.
        let known = self.runtime.image_status(&name).await.map_err(runtime_failed)?;
        let Some(known) = known else { return Err(stream::error(404, format!("image {name} is not on this node"))) };
        let by_id = image.starts_with("sha256:") || known.repo_tags.is_empty();
        let target = if by_id { known.id } else { name };
        self.runtime.remove_image(&target).await.map_err(runtime_failed)
    }

    async fn load(&self, name: String, sender: &ServerSender, receiver: ServerReceiver) -> Result<(), Refusal> {
        let (chunks_tx, chunks) = mpsc::channel(1);
        let feed = feed(name, receiver, chunks_tx);
        let load = async {
            let mut progress = self.runtime.load(chunks).await.map_err(load_failed)?;
            while let Some(message) = progress.next().await {
                let message = message.map_err(load_failed)?;
                let progress = ImageProgress { names: message.names, bytes: message.bytes, ..Default::default() };
                send(sender, &progress).await?;
            }
            Ok(())
        };
        let (loaded, ()) = tokio::join!(load, feed);
        loaded
    }
}

/// Hands the client's frames on until the archive is whole, or nobody reads it any more.
async fn feed(name: String, mut receiver: ServerReceiver, chunks: mpsc::Sender<LoadRequest>) {
    if chunks.send(LoadRequest { name, chunk: Bytes::new() }).await.is_err() {
        return;
    }
    loop {
        let frame = tokio::select! {
            () = chunks.closed() => return,
            frame = receiver.recv() => frame, // cancel-safe, as documented there
        };
        let Some(frame) = frame else { return };
        match frame.kind() {
            client_frame::Kind::Data => {
                let request = LoadRequest { name: String::new(), chunk: frame.data };
                if chunks.send(request).await.is_err() {
                    return;
                }
            }
            client_frame::Kind::Eof => return,
            _ => {}
        }
    }
}

async fn send(sender: &ServerSender, row: &impl Serialize) -> Result<(), Refusal> {
    let json = serde_json::to_vec(row).map_err(|error| stream::error(500, error.to_string()))?;
    sender.send(chunk::Kind::Json, json.into()).await.map_err(|_| stream::error(500, "the client has left"))
}

fn full_name(image: &str) -> Result<String, Refusal> {
    if image.starts_with("sha256:") {
        return Ok(image.to_owned());
    }
    image_name::normalise(image).map_err(|error| stream::error(400, error.to_string()))
}

fn runtime_failed(error: RuntimeError) -> Refusal {
    let code = match error.code {
        Code::NotFound => 404,
        Code::InvalidArgument => 400,
        Code::Unavailable => 503,
        _ => 500,
    };
    stream::error(code, error.message)
}

fn load_failed(error: RuntimeError) -> Refusal {
    match error.code {
        Code::Unimplemented => stream::error(501, "this runtime cannot load archives: pull the image instead"),
        _ => runtime_failed(error),
    }
}
