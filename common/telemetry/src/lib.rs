//! What a service shows of itself over HTTP, in the words of Kubernetes and Prometheus.
//!
//! ```text
//! /metrics           Prometheus text (0.0.4); more pages beside it where a service has them
//! /livez             whether the process works: one that does not is to be started again
//! /readyz            whether it can do its work now; /readyz/NAME is one check of it
//! /healthz           the old name of /livez
//! ```
//!
//! `?verbose` lists the checks, `?exclude=NAME` leaves one out. A service makes a [`Registry`], registers what it counts,
//! gives [`Endpoints`] its checks and lets a [`Server`] run. Pure cores count nothing: they tell facts.

mod address;
mod checks;
mod endpoints;
mod process;
mod samples;
mod server;

pub use address::{Address, AddressError};
pub use checks::{Check, Checks};
pub use endpoints::{Endpoints, encode};
pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::Registry;
pub use samples::{Kind, Labels, Samples};
pub use server::Server;

/// Registers samples that are made with each look.
pub fn register_reader(registry: &mut Registry, read: impl Fn(&mut Samples) + Send + Sync + 'static) {
    registry.register_collector(Box::new(samples::Reader(read)));
}

/// A family of histograms with the bounds of [`LATENCY_SECONDS`].
pub type Latencies<const LABELS: usize> = Family<[(&'static str, &'static str); LABELS], Histogram, fn() -> Histogram>;

/// An empty family of histograms.
pub fn latencies<const LABELS: usize>() -> Latencies<LABELS> {
    Family::new_with_constructor(latency)
}

/// Upper bounds in seconds for what takes from a tenth of a millisecond to some seconds.
pub const LATENCY_SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds in seconds for what people wait for: the start of a pod.
pub const WAIT_SECONDS: [f64; 15] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// A histogram with the bounds of [`LATENCY_SECONDS`].
pub fn latency() -> Histogram {
    Histogram::new(LATENCY_SECONDS)
}

/// A histogram with the bounds of [`WAIT_SECONDS`].
pub fn wait() -> Histogram {
    Histogram::new(WAIT_SECONDS)
}
