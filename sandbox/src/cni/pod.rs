//! What a pod means in CNI's words: arguments, capabilities, addresses. Pure.

use std::net::IpAddr;

use podbus_common::quantity::Quantity;
use podbus_common_cri::runtime::PodSandboxConfig;
use serde_json::{Map, Value, json};

use crate::network::{HostPort, Protocol};
use crate::process::Invalid;

/// Bits that may pass at once, where a pod limits its rate: as much as the kernel can count, as the kubelet has it.
const BURST_BITS: i64 = i32::MAX as i64 * 8;

/// `CNI_ARGS`: who the pod is, by the names that plugins know.
pub(super) fn arguments(id: &str, config: &PodSandboxConfig) -> String {
    let it = config.metadata.clone().unwrap_or_default();
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={};K8S_POD_INFRA_CONTAINER_ID={id}",
        it.namespace, it.name, it.uid
    )
}

/// What a plugin may want to be told, by the name of the capability.
pub(super) fn capabilities(config: &PodSandboxConfig, ports: &[HostPort]) -> Result<Map<String, Value>, Invalid> {
    let mut told = Map::new();
    if !ports.is_empty() {
        told.insert("portMappings".to_owned(), ports.iter().map(mapping).collect());
    }
    let mut bandwidth = Map::new();
    for direction in ["ingress", "egress"] {
        let key = format!("kubernetes.io/{direction}-bandwidth");
        let Some(text) = config.annotations.get(&key) else { continue };
        let rate = Quantity::parse(text).map_err(|error| Invalid(format!("the annotation {key}: {error}")))?.value();
        bandwidth.insert(format!("{direction}Rate"), json!(rate));
        bandwidth.insert(format!("{direction}Burst"), json!(BURST_BITS));
    }
    if !bandwidth.is_empty() {
        told.insert("bandwidth".to_owned(), Value::Object(bandwidth));
    }
    if let Some(dns) = &config.dns_config {
        let value = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        told.insert("dns".to_owned(), value);
    }
    Ok(told)
}

fn mapping(port: &HostPort) -> Value {
    json!({
        "hostPort": port.host_port,
        "containerPort": port.pod_port,
        "protocol": if port.protocol == Protocol::Tcp { "tcp" } else { "udp" },
        "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    })
}

/// The pod's addresses in a result: the first, and the first of the other family.
pub(super) fn addresses(result: &Value) -> Vec<IpAddr> {
    let entries = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let mut found: Vec<IpAddr> = Vec::new();
    for entry in entries {
        let text = entry.get("address").and_then(Value::as_str).unwrap_or_default();
        let Ok(ip) = text.split('/').next().unwrap_or_default().parse::<IpAddr>() else { continue };
        if found.iter().all(|it| it.is_ipv4() != ip.is_ipv4()) {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_the_first_address_of_each_family() {
        let result = json!({"ips": [{"address": "10.1.0.2/16"}, {"address": "10.2.0.2/16"}, {"address": "fd00::2/64"},
            {"address": "nonsense"}, {}]});
        let expected: [IpAddr; 2] = ["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
        assert_eq!(addresses(&json!({})), [] as [IpAddr; 0]);
    }

    #[test]
    fn ports_rates_and_dns_are_told_where_the_pod_has_them() {
        assert_eq!(capabilities(&PodSandboxConfig::default(), &[]), Ok(Map::new()));
        let mut config = PodSandboxConfig::default();
        config.annotations.insert("kubernetes.io/egress-bandwidth".into(), "10M".into());
        let port = HostPort { protocol: Protocol::Udp, host_ip: None, host_port: 53, pod_port: 5353 };
        let expected = json!({
            "portMappings": [{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": ""}],
            "bandwidth": {"egressRate": 10_000_000, "egressBurst": BURST_BITS},
        });
        assert_eq!(capabilities(&config, &[port]).map(Value::Object), Ok(expected));
        config.annotations.insert("kubernetes.io/egress-bandwidth".into(), "fast".into());
        assert!(capabilities(&config, &[]).is_err());
    }
}
