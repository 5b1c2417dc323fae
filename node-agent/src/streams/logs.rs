//! Logs of one container, read from the node's disk.

use podbus_common::model::Timestamp;
use podbus_common::proto::{LogsRequest, chunk};
use podbus_common_bus::stream::{self, ServerSender, ServerStream};
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

use super::{Refusal, Streams, finish};
use crate::logs::{self, LogOptions, LogReader};
use crate::runtime::Runtime;

/// How soon a follower learns that the container ended.
const END_POLL: Duration = Duration::from_millis(500);

impl<R: Runtime> Streams<R> {
    pub(super) async fn logs(&self, request: LogsRequest, stream: ServerStream) {
        let sender = stream.sender.clone();
        let error = tokio::select! {
            // cancel-safe: a reader owns nothing but an open file
            () = sender.closed() => return,
            sent = self.send_logs(&request, &stream.sender) => sent.err(),
        };
        match error {
            None => stream.sender.finish(0, None).await,
            Some(error) => finish(stream, error).await,
        }
    }

    async fn send_logs(&self, request: &LogsRequest, sender: &ServerSender) -> Result<(), Refusal> {
        let (pod, container) = self.find(&request.namespace, &request.pod, &request.uid, &request.container)?;
        let uid = &pod.metadata.uid;
        let pod_dir = self.state_dir.join("pods").join(uid);
        let failed = |error: std::io::Error| stream::error(500, error.to_string());
        let attempts = logs::attempts(&pod_dir, &container).map_err(failed)?;
        let attempt = match (request.previous, attempts.as_slice()) {
            (false, [.., newest]) => *newest,
            (true, [.., before, _]) => *before,
            (false, []) => {
                let name = &pod.metadata.name;
                let text = format!("container \"{container}\" in pod \"{name}\" is waiting to start: no log yet");
                return Err(stream::error(400, text));
            }
            (true, _) => {
                let name = &pod.metadata.name;
                let text = format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
                return Err(stream::error(400, text));
            }
        };
        let options = LogOptions {
            follow: request.follow && !request.previous,
            tail_lines: u64::try_from(request.tail_lines).ok(),
            since: (request.since_ms > 0).then(|| Timestamp::from_unix_ms(request.since_ms)),
            timestamps: request.timestamps,
        };
        let (ended_tx, ended) = watch::channel(false);
        let log = logs::path(&pod_dir, &container, attempt);
        let mut reader = LogReader::open(&log, options, ended).await.map_err(failed)?;
        let watch_end = self.tell_end(uid, &container, attempt, ended_tx);
        let send = async {
            while let Some(chunk) = reader.next().await.map_err(failed)? {
                let kind = if chunk.stderr { chunk::Kind::Stderr } else { chunk::Kind::Stdout };
                if sender.send(kind, chunk.data).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        tokio::select! {
            sent = send => sent,
            never = watch_end => match never {},
        }
    }

    /// Says when the run can write no more; never returns.
    async fn tell_end(
        &self,
        uid: &str,
        container: &str,
        attempt: u32,
        ended: watch::Sender<bool>,
    ) -> std::convert::Infallible {
        loop {
            if let Ok(runs) = self.runs(uid, container).await
                && !runs.iter().any(|run| run.attempt == attempt && run.state.exit().is_none())
            {
                ended.send_replace(true);
                std::future::pending::<()>().await;
            }
            sleep(END_POLL).await;
        }
    }
}
