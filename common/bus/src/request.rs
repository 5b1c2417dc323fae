//! Requests between services: protobuf in, protobuf out.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use prost::Message;
use tokio::sync::broadcast::error::RecvError;

use crate::Bus;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody serves the subject.
    #[error("nobody answers {subject}")]
    NoResponders {
        /// What was asked.
        subject: String,
    },
    /// No answer came in time; whether it was carried out is unknown.
    #[error("{subject} was not answered within {timeout:?}")]
    Timeout {
        /// What was asked.
        subject: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The user of this connection has no right to ask.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The answer is of another schema.
    #[error("the answer to {subject} cannot be read")]
    Decode {
        /// What was asked.
        subject: String,
        /// Why.
        source: prost::DecodeError,
    },
    /// The connection.
    #[error("cannot send {subject}")]
    Bus {
        /// What was asked.
        subject: String,
        /// Why.
        source: async_nats::client::RequestError,
    },
}

/// The server refuses what the user of this connection would publish.
#[derive(Debug, thiserror::Error)]
#[error("this key has no right to publish to {subject}")]
pub struct Denied {
    /// Where to.
    pub subject: String,
}

impl Bus {
    /// Sends `request` to `subject` and waits for the answer, at most `timeout`.
    pub async fn request_proto<Request: Message, Reply: Message + Default>(
        &self,
        subject: &str,
        request: &Request,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let reply = self.request(subject, request.encode_to_vec().into(), timeout).await?;
        Reply::decode(reply.payload).map_err(|source| RequestError::Decode { subject: subject.to_owned(), source })
    }

    /// The same with bytes.
    pub(crate) async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message, RequestError> {
        let request = async_nats::Request::new().payload(payload).timeout(Some(timeout));
        let answer = self.client().send_request(subject.to_owned(), request);
        let subject = subject.to_owned();
        self.unless_denied(&subject, answer).await?.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => RequestError::NoResponders { subject },
            RequestErrorKind::TimedOut => RequestError::Timeout { subject, timeout },
            _ => RequestError::Bus { subject, source: error },
        })
    }

    /// Waits for `work`, which publishes to subjects that begin with `subject`: for no longer than until the server
    /// refuses that, of which `work` itself would never hear.
    pub(crate) async fn unless_denied<T>(&self, subject: &str, work: impl IntoFuture<Output = T>) -> Result<T, Denied> {
        let mut refusals = self.refusals();
        let denied = async {
            loop {
                match refusals.recv().await {
                    Ok(text) => {
                        if let Some(subject) = refused(&text).filter(|refused| refused.starts_with(subject)) {
                            return Denied { subject: subject.to_owned() };
                        }
                    }
                    // What was missed costs the time until the work gives up.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            done = work.into_future() => Ok(done),
            denied = denied => Err(denied),
        }
    }
}

/// The subject that the server's words refuse a publish to, if that is what they say.
fn refused(text: &str) -> Option<&str> {
    let is_refusal = text.to_ascii_lowercase().starts_with("permissions violation for publish to ");
    text.split('"').nth(1).filter(|_| is_refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_subject_that_it_is_about() {
        let text = r#"Permissions Violation for Publish to "podbus.api.v1.default.pods.apply""#;
        assert_eq!(refused(text), Some("podbus.api.v1.default.pods.apply"));
        assert_eq!(refused(r#"Permissions Violation for Subscription to "a""#), None);
        assert_eq!(refused("Authorization Violation"), None);
    }
}
