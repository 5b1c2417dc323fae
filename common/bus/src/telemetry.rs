//! What a connection to the bus counts.

use std::sync::atomic::Ordering::Relaxed;

use podbus_common_telemetry::{Kind, Registry, Samples, register_reader};

use crate::Bus;

/// Registers `podbus_bus_*`; `bus` is asked with each look, and there is none before the first connection is tried.
pub fn register(registry: &mut Registry, bus: impl Fn() -> Option<Bus> + Send + Sync + 'static) {
    register_reader(registry, move |samples| read(bus().as_ref(), samples));
}

fn read(bus: Option<&Bus>, samples: &mut Samples) {
    let connected = f64::from(u8::from(bus.is_some_and(Bus::is_connected)));
    samples.family(Kind::Gauge, "podbus_bus_connected", "Whether the connection to nats-server stands.");
    samples.add("podbus_bus_connected", Vec::new(), connected);
    let Some(bus) = bus else { return };
    let statistics = bus.client().statistics();
    let mut counter = |name: &'static str, help: &'static str, count: u64| {
        samples.family(Kind::Counter, name, help);
        #[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
        samples.add(name, Vec::new(), count as f64);
    };
    counter("podbus_bus_connects_total", "Connections made to nats-server.", statistics.connects.load(Relaxed));
    counter("podbus_bus_received_messages_total", "Messages received.", statistics.in_messages.load(Relaxed));
    counter("podbus_bus_received_bytes_total", "Bytes received.", statistics.in_bytes.load(Relaxed));
    counter("podbus_bus_sent_messages_total", "Messages sent.", statistics.out_messages.load(Relaxed));
    counter("podbus_bus_sent_bytes_total", "Bytes sent.", statistics.out_bytes.load(Relaxed));
}
