//! What a process in a container can make more of than anyone expects.

use podbus_common_cri::runtime::runtime_service_client::RuntimeServiceClient;
use podbus_common_cri::runtime::*;

use crate::runtime::host::{is_alive, on_host, until};

/// Makes directories in each other, twenty times as deep as a path can tell, and a file of 1 MiB in the last.
const DEEP: &str = "
    part=d; for n in 1 2 3 4 5 6 7 8 9 10; do part=$part/$part; done
    for n in 1 2 3 4 5 6 7 8 9 10; do mkdir -p $part && cd -P $part || exit 1; done
    head -c 1048576 /dev/zero > file";

#[test]
fn a_tree_of_any_depth_is_measured_and_goes_with_the_container_that_made_it() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", DEEP).await;
        assert_eq!(host.exit(&id).await.exit_code, 0);
        let daemon = host.daemon_pid();
        let used = until(async || {
            let request = ContainerStatsRequest { container_id: id.clone() };
            let stats = host.cri.container_stats(request).await.map_err(|error| error.to_string())?.into_inner();
            let layer = stats.stats.unwrap().writable_layer.ok_or("it is not measured yet")?;
            Ok::<_, String>((layer.used_bytes.unwrap().value, layer.inodes_used.unwrap().value))
        });
        let (bytes, inodes) = used.await;
        assert!(bytes >= 1 << 20 && inodes > 10_000, "{bytes} bytes, {inodes} inodes");
        host.remove_pod(&sandbox).await;
        assert_eq!(host.daemon_pid(), daemon);
        assert!(is_alive(daemon));
        host
    });
}

#[test]
fn a_command_without_end_costs_the_runtime_no_more_than_its_bound() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let request = |script: &str| ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: 10,
        };
        let mut cri = RuntimeServiceClient::new(host.channel()).max_decoding_message_size(16 << 20);
        let answer = cri.exec_sync(request("head -c 33554432 /dev/zero; echo end >&2")).await.unwrap().into_inner();
        assert!(answer.stdout.len() <= 8 << 20, "{} bytes", answer.stdout.len());
        assert_eq!((answer.exit_code, answer.stderr.as_slice()), (0, &b"end\n"[..]), "what is left out is still read");
        let endless = ExecSyncRequest { timeout: 1, ..request("yes") };
        assert_eq!(host.cri.exec_sync(endless).await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert_eq!(host.exec(&id, "echo alive").await.0, "alive\n");
        host
    });
}
