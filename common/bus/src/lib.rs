//! The NATS client of podbus: the connection, requests, streams with credits, the API and events as a client sees
//! them. It knows how to say things, not what a pod is for.

pub mod api;
pub mod events;
pub mod stream;
pub mod telemetry;

mod connect;
mod request;
#[cfg(feature = "testing")]
pub mod testing;

pub use connect::{Bus, BusOptions, ConnectError, read_token, split_token};
pub use request::{Denied, RequestError};
