//! `meta.db`: the truth about what the store holds.
//!
//! One connection per process behind a mutex; every statement is short and no transaction is held across slow work.
//! Renames into and out of the store's directories happen inside a write transaction, so that the orphan sweep, which
//! runs inside one too, never sees half a change. A row whose file is missing counts as absent everywhere.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior};
use rustix::fs::FlockOperation;

use super::StoreError;

/// `PRAGMA user_version`. A higher one is refused.
const SCHEMA: i64 = 1;

/// How long a statement waits for another process. Transactions are short, so this only runs out if one was stopped.
const BUSY: Duration = Duration::from_secs(60);

/// Bytes of the log from which on it is worth two `fsync`s to empty it: reading it takes half a millisecond.
const LONG_LOG: u64 = 256 << 10;

const CREATE: &str = "
CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO settings VALUES ('generation', 1);

CREATE TABLE blobs (
    digest TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
    created INTEGER NOT NULL, last_used INTEGER NOT NULL, used_gen INTEGER NOT NULL,
    durable INTEGER NOT NULL DEFAULT 0, boot TEXT NOT NULL);

CREATE TABLE layers (
    id TEXT NOT NULL UNIQUE, description TEXT NOT NULL, parents TEXT NOT NULL, depth INTEGER NOT NULL, diff_id TEXT,
    created INTEGER NOT NULL, last_used INTEGER NOT NULL, usage INTEGER NOT NULL DEFAULT 0, used_gen INTEGER NOT NULL);
CREATE TABLE layer_blobs (
    layer TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, codec TEXT NOT NULL, level INTEGER, epoch INTEGER,
    diff_id TEXT NOT NULL, media_type TEXT NOT NULL, PRIMARY KEY (layer, digest)) WITHOUT ROWID;
CREATE INDEX layer_blobs_digest ON layer_blobs (digest);
CREATE TABLE remotes (
    layer TEXT NOT NULL, host TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL, descriptor TEXT NOT NULL,
    PRIMARY KEY (layer, host, repository, digest)) WITHOUT ROWID;
CREATE TABLE dirs (
    key TEXT NOT NULL, dialect TEXT NOT NULL, layer TEXT NOT NULL, name TEXT NOT NULL UNIQUE, bytes INTEGER,
    created INTEGER NOT NULL, durable INTEGER NOT NULL DEFAULT 0, boot TEXT NOT NULL, copied_at INTEGER,
    UNIQUE (key, dialect));
CREATE INDEX dirs_layer ON dirs (layer);

CREATE TABLE records (
    key TEXT PRIMARY KEY, canonical TEXT NOT NULL, outputs TEXT NOT NULL, inputs TEXT NOT NULL, description TEXT NOT NULL,
    created INTEGER NOT NULL, last_used INTEGER NOT NULL, usage INTEGER NOT NULL, used_gen INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE record_layers (layer TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (layer, key)) WITHOUT ROWID;
CREATE TABLE aliases (key TEXT PRIMARY KEY, canonical TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX aliases_canonical ON aliases (canonical);

CREATE TABLE images (name TEXT PRIMARY KEY, descriptor TEXT NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE resolutions (
    reference TEXT NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (reference, platform)) WITHOUT ROWID;

CREATE TABLE mounts (
    name TEXT PRIMARY KEY, id TEXT NOT NULL, created INTEGER NOT NULL, last_used INTEGER NOT NULL,
    usage INTEGER NOT NULL, bytes INTEGER, measured INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
";

/// Tables that came later and that older versions do without.
const ADD: &str = "
CREATE TABLE IF NOT EXISTS downloads (
    address TEXT NOT NULL, digest TEXT NOT NULL, etag TEXT, modified INTEGER, filename TEXT, at INTEGER NOT NULL,
    PRIMARY KEY (address, digest)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
    key BLOB PRIMARY KEY, blob TEXT NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL, crc INTEGER NOT NULL,
    length INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blocks_blob ON blocks (blob);
CREATE TABLE IF NOT EXISTS prefixes (key BLOB PRIMARY KEY, blob TEXT NOT NULL, state BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS prefixes_blob ON prefixes (blob);
CREATE TABLE IF NOT EXISTS archives (
    path BLOB PRIMARY KEY, content TEXT NOT NULL, state BLOB NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
";

/// What a transaction's body can fail with.
pub(crate) enum TxError {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for TxError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for TxError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The data base.
#[derive(Debug)]
pub(crate) struct Meta {
    connection: Mutex<Connection>,
    path: PathBuf,
}

impl Meta {
    /// Opens the data base at `path`; makes it anew where a reset was interrupted.
    pub(crate) fn open(root: &Path, path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path)?;
        let sql = |action| move |source| StoreError::Sql { action, path: path.to_path_buf(), source };
        let version = user_version(&connection).map_err(sql("read"))?;
        if version > SCHEMA {
            return Err(StoreError::TooNew { root: root.to_path_buf(), what: format!("metadata version {version}") });
        }
        if version < SCHEMA {
            // Two first builds at once: changing the journal mode does not wait as transactions do.
            let _alone = super::housekeeping::lock(root, FlockOperation::LockExclusive)?;
            create(&connection).map_err(sql("create"))?;
        }
        // Asking costs less than trying to make them.
        if !has_added(&connection).map_err(sql("read"))? {
            connection.execute_batch(ADD).map_err(sql("create"))?;
        }
        Ok(Self { connection: Mutex::new(connection), path: path.to_path_buf() })
    }

    /// The same for a store that is being created. The caller has locked it, and makes the file durable.
    pub(crate) fn create(root: &Path, path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path)?;
        let sql = |action| move |source| StoreError::Sql { action, path: path.to_path_buf(), source };
        // Nobody believes the file before the caller has synced it.
        connection.pragma_update(None, "synchronous", "OFF").map_err(sql("create"))?;
        if user_version(&connection).map_err(sql("read"))? < SCHEMA {
            create(&connection).map_err(sql("create"))?;
        }
        drop(connection);
        Self::open(root, path)
    }

    /// Runs statements that only read.
    pub(crate) fn read<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        body(&self.lock()).map_err(|e| self.error(action, e))
    }

    /// Runs `body` in a write transaction that begins immediately; an error rolls back.
    pub(crate) fn write<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, TxError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let tx =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| self.error(action, e))?;
        let value = body(&tx).map_err(|e| match e {
            TxError::Sql(e) => self.error(action, e),
            TxError::Store(e) => e,
        })?;
        tx.commit().map_err(|e| self.error(action, e))?;
        Ok(value)
    }

    /// Moves the log into the data base and empties it, unless somebody is reading.
    pub(crate) fn checkpoint(&self) {
        // Best effort: the log is as good as the data base.
        let _ = self.lock().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    /// The same if the log is long: whoever opens the data base first reads all of it.
    pub(crate) fn shorten_log(&self) {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        if std::fs::metadata(log).is_ok_and(|log| log.len() > LONG_LOG) {
            self.checkpoint();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in a body rolled its transaction back; the connection itself is fine.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, action: &'static str, source: rusqlite::Error) -> StoreError {
        StoreError::Sql { action, path: self.path.clone(), source }
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let sql = |action| move |source| StoreError::Sql { action, path: path.to_path_buf(), source };
    let connection = Connection::open(path).map_err(sql("open"))?;
    connection.busy_timeout(BUSY).map_err(sql("open"))?;
    connection.set_prepared_statement_cache_capacity(64);
    // The last one out does not pay for a checkpoint and its fsyncs; `Store::sync` does it when there is a reason.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sql("open"))?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(sql("open"))?;
    Ok(connection)
}

/// Makes the tables, unless another process has done so.
fn create(connection: &Connection) -> rusqlite::Result<()> {
    // Before the file becomes one with a log: then it is complete without one.
    let tx = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    if user_version(&tx)? == 0 {
        tx.execute_batch(CREATE)?;
        tx.execute_batch(ADD)?;
        tx.pragma_update(None, "user_version", SCHEMA)?;
    }
    tx.commit()?;
    // A property of the file that stays. Changing it does not wait as transactions do, and others may just be reading.
    let until = Instant::now() + BUSY;
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)) {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.map(|_| ()),
        }
    }
}

/// Whether the tables that came later are there.
fn has_added(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'archives')", [], |row| row.get(0))
}

fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// The current generation: what is looked up now is marked with it. See [`super::lease`].
pub(crate) fn generation(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("SELECT value FROM settings WHERE name = 'generation'")?.query_row([], |row| row.get(0))
}

/// A number kept in the data base.
pub(crate) fn setting(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT value FROM settings WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

/// Writes a number.
pub(crate) fn set_setting(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO settings VALUES (?1, ?2)")?.execute((name, value)).map(drop)
}

/// A time as the data base keeps it: nanoseconds since 1970.
pub(crate) fn to_nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

/// The reverse of [`to_nanos`].
pub(crate) fn from_nanos(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// Now, as the data base keeps it.
pub(crate) fn now() -> i64 {
    to_nanos(SystemTime::now())
}

/// Which boot of the machine this is: what was written in an earlier one and never synced cannot be trusted.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".into(), |s| s.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("meta.db");
        (dir, path)
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let (dir, path) = fresh();
        Meta::open(dir.path(), &path).expect("creates");
        Connection::open(&path).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("writes");
        let error = Meta::open(dir.path(), &path).expect_err("too new");
        assert!(matches!(error, StoreError::TooNew { .. }), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let (dir, path) = fresh();
        std::fs::write(&path, vec![b'x'; 8192]).expect("writes");
        let error = Meta::open(dir.path(), &path).expect_err("not a data base");
        assert!(error.to_string().contains("meta.db"), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("reset")));
    }

    #[test]
    fn writers_in_several_connections_wait_for_each_other() {
        let (dir, path) = fresh();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let meta = Meta::open(dir.path(), &path).expect("opens");
                    for _ in 0..50 {
                        meta.write("count", |tx| {
                            let value = generation(tx)?;
                            Ok(set_setting(tx, "generation", value + 1)?)
                        })
                        .expect("writes");
                    }
                });
            }
        });
        let meta = Meta::open(dir.path(), &path).expect("opens");
        assert_eq!(meta.read("read", generation).expect("reads"), 201);
    }

    #[test]
    fn a_long_log_is_emptied_and_a_short_one_is_not() {
        let (dir, path) = fresh();
        let meta = Meta::open(dir.path(), &path).expect("opens");
        let log = || std::fs::metadata(dir.path().join("meta.db-wal")).expect("a log").len();
        let count = |to: i64| meta.write("count", |tx| Ok(set_setting(tx, "count", to)?)).expect("writes");
        count(0);
        meta.shorten_log();
        assert!(log() > 0, "a short one stays");
        let mut counted = 0;
        while log() <= LONG_LOG {
            counted += 1;
            count(counted);
        }
        meta.shorten_log();
        assert_eq!(log(), 0);
        assert_eq!(meta.read("read", |c| setting(c, "count")).expect("reads"), Some(counted));
    }

    #[test]
    fn an_error_rolls_back() {
        let (dir, path) = fresh();
        let meta = Meta::open(dir.path(), &path).expect("opens");
        let failed: Result<(), _> = meta.write("fail", |tx| {
            set_setting(tx, "x", 1)?;
            Err(StoreError::Misuse("no".into()).into())
        });
        assert!(failed.is_err());
        assert_eq!(meta.read("read", |c| setting(c, "x")).expect("reads"), None);
    }

    #[test]
    fn times_survive() {
        for time in [SystemTime::now(), UNIX_EPOCH, UNIX_EPOCH - Duration::from_secs(5)] {
            assert_eq!(from_nanos(to_nanos(time)), time);
        }
    }
}
