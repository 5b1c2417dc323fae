//! What fuzz targets (`tests/fuzz`) call: reading a log, whatever is in it.

use std::io;
use std::path::Path;

use podbus_common::model::Timestamp;
use tokio::sync::watch;

use super::{LogOptions, LogReader};

/// Reads the file `log`, whole and only the last lines of it. What its last lines are is the end of the whole. Says whether
/// there was any text.
///
/// # Errors
/// When the file cannot be read.
pub fn log(log: &Path) -> io::Result<bool> {
    let whole = read(log, LogOptions::default())?;
    for lines in [0, 1, 3] {
        let tail = read(log, LogOptions { tail_lines: Some(lines), ..LogOptions::default() })?;
        assert!(whole.ends_with(&tail), "the last {lines} lines are not the end of the log");
    }
    let since = Some(Timestamp::from_unix_ms(1_767_323_045_000)); // 2026-01-02T03:04:05Z
    read(log, LogOptions { timestamps: true, since, ..LogOptions::default() })?;
    Ok(!whole.is_empty())
}

/// Each byte with the stream that it was written to.
#[tokio::main(flavor = "current_thread")]
async fn read(log: &Path, options: LogOptions) -> io::Result<Vec<(bool, u8)>> {
    let (_ended, ended) = watch::channel(true);
    let mut reader = LogReader::open(log, options, ended).await?;
    let mut text = Vec::new();
    while let Some(chunk) = reader.next().await? {
        text.extend(chunk.data.iter().map(|byte| (chunk.stderr, *byte)));
    }
    Ok(text)
}
