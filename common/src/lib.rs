//! What every podbus service agrees on: the manifest, the model, subjects, messages and the status fold. Pure: no
//! tokio, no I/O, no clock.

pub mod access;
pub mod api;
pub mod defaults;
pub mod digest;
pub mod effective;
pub mod fold;
pub mod image_name;
pub mod manifest;
pub mod model;
pub mod print;
pub mod quantity;
pub mod selector;
pub mod subject;
pub mod validation;

/// Messages of the bus, generated from `proto/bus.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications, reason = "generated")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/podbus.bus.v1.rs"));
}
