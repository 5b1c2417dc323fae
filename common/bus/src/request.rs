//! Requests between services: protobuf in, protobuf out.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use prost::Message;

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

impl Bus {
    /// Sends `request` to `subject` and waits for the answer, at most `timeout`.
    pub async fn request_proto<Request: Message, Reply: Message + Default>(
        &self,
        subject: &str,
        request: &Request,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let request = async_nats::Request::new().payload(request.encode_to_vec().into()).timeout(Some(timeout));
        let subject = subject.to_owned();
        match self.client().send_request(subject.clone(), request).await {
            Ok(reply) => Reply::decode(reply.payload).map_err(|source| RequestError::Decode { subject, source }),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => RequestError::NoResponders { subject },
                RequestErrorKind::TimedOut => RequestError::Timeout { subject, timeout },
                _ => RequestError::Bus { subject, source: error },
            }),
        }
    }
}
