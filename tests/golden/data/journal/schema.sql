PRAGMA user_version = 6;
PRAGMA application_id = 1869901938;
PRAGMA journal_mode = wal;
PRAGMA auto_vacuum = 2;
CREATE INDEX contributions_by_operation ON contributions (operation);
CREATE INDEX logs_by_level ON logs (operation, path, number);
CREATE INDEX operations_active ON operations (key) WHERE finished_at IS NULL;
CREATE INDEX operations_active_by_id ON operations (operation_id) WHERE finished_at IS NULL;
CREATE INDEX operations_by_batch ON operations (batch, status, finished_at) WHERE batch IS NOT NULL;
CREATE INDEX operations_by_id ON operations (operation_id);
CREATE INDEX operations_by_lineage ON operations (lineage) WHERE lineage IS NOT NULL;
CREATE INDEX operations_finished ON operations (finished_at, run) WHERE finished_at IS NOT NULL;
CREATE INDEX operations_finished_by_revision ON operations (revision) WHERE finished_at IS NOT NULL;
CREATE INDEX operations_finished_by_type ON operations (operation_type, finished_at, run)
            WHERE finished_at IS NOT NULL;
CREATE INDEX operations_superseded ON operations (instance) WHERE superseded_by IS NOT NULL;
CREATE INDEX previews_by_location ON previews (location);
-- index sqlite_autoindex_contributions_1;
-- index sqlite_autoindex_levels_1;
-- index sqlite_autoindex_logs_1;
-- index sqlite_autoindex_operations_1;
-- index sqlite_autoindex_path_prefixes_1;
-- index sqlite_autoindex_trajectories_1;
CREATE INDEX trajectories_by_operation ON trajectories (operation_id);
CREATE TABLE batches (
            id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, total INTEGER, started_at REAL NOT NULL,
            ended_at REAL, sequence INTEGER NOT NULL, seen_at REAL NOT NULL, completed INTEGER NOT NULL DEFAULT 0,
            failed INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0,
            ends TEXT, last_end REAL
        ) WITHOUT ROWID;
CREATE TABLE checkpoints (operation INTEGER PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE completed_keys (
            lineage INTEGER NOT NULL, scope BLOB NOT NULL, key BLOB NOT NULL, weight NOT NULL, PRIMARY KEY (lineage, scope, key)
        ) WITHOUT ROWID;
CREATE TABLE contributions (
            key INTEGER PRIMARY KEY AUTOINCREMENT, operation INTEGER NOT NULL, writer TEXT NOT NULL, path TEXT NOT NULL,
            sequence INTEGER NOT NULL, contribution TEXT NOT NULL, UNIQUE (operation, writer, path)
        );
CREATE TABLE counters (
            id INTEGER PRIMARY KEY CHECK (id = 1), journal TEXT NOT NULL, revision INTEGER NOT NULL, level_key INTEGER NOT NULL
        );
CREATE TABLE events (
            operation INTEGER NOT NULL, number INTEGER NOT NULL, writer TEXT NOT NULL, path TEXT NOT NULL,
            level_type TEXT NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, name TEXT, outcome TEXT, error TEXT, metadata TEXT,
            PRIMARY KEY (operation, number, writer)
        ) WITHOUT ROWID;
CREATE TABLE instances (
            id TEXT PRIMARY KEY NOT NULL, pid INTEGER NOT NULL, host TEXT NOT NULL, service TEXT NOT NULL,
            started_at REAL NOT NULL, start INTEGER, heartbeat_at REAL NOT NULL, heartbeat_clock REAL NOT NULL
        ) WITHOUT ROWID;
CREATE TABLE levels (
            key INTEGER PRIMARY KEY, operation INTEGER NOT NULL, path TEXT NOT NULL, info TEXT NOT NULL,
            UNIQUE (operation, path)
        );
CREATE TABLE logs (
            key INTEGER PRIMARY KEY, operation INTEGER NOT NULL, number INTEGER NOT NULL, writer TEXT NOT NULL,
            path TEXT NOT NULL, at REAL NOT NULL, severity INTEGER NOT NULL, severity_text TEXT NOT NULL, logger TEXT NOT NULL,
            message TEXT NOT NULL, details TEXT, attributes TEXT, trace_id TEXT, span_id TEXT, UNIQUE (operation, number, writer)
        );
CREATE TABLE operations (
            key INTEGER PRIMARY KEY AUTOINCREMENT, revision INTEGER NOT NULL, run TEXT NOT NULL UNIQUE,
            operation_id TEXT NOT NULL, operation_type TEXT NOT NULL, instance TEXT NOT NULL,
            recorded_at REAL NOT NULL, finished_at REAL
        , batch TEXT, status TEXT, superseded_by TEXT, lineage INTEGER);
CREATE TABLE path_prefixes (
            key INTEGER PRIMARY KEY, operation INTEGER NOT NULL, path TEXT NOT NULL, UNIQUE (operation, path)
        );
CREATE TABLE previews (
            operation INTEGER NOT NULL, number INTEGER NOT NULL, writer TEXT NOT NULL, path TEXT NOT NULL, at REAL NOT NULL,
            name TEXT NOT NULL, media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, digest TEXT NOT NULL, location TEXT NOT NULL,
            width INTEGER, height INTEGER, ratio REAL, PRIMARY KEY (operation, number, writer)
        ) WITHOUT ROWID;
CREATE TABLE requests (operation INTEGER PRIMARY KEY, reason TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE samples (
            instance TEXT NOT NULL, at REAL NOT NULL, clock REAL NOT NULL, cpu_ratio REAL NOT NULL, memory_bytes INTEGER NOT NULL,
            gpu_ratio REAL, gpu_memory_bytes INTEGER, PRIMARY KEY (instance, clock)
        ) WITHOUT ROWID;
CREATE TABLE sqlite_sequence(name,seq);
CREATE TABLE states (
            level INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, current NOT NULL, ratio REAL, message TEXT,
            observed_at REAL NOT NULL, observed_clock REAL NOT NULL, advanced_at REAL, advanced_clock REAL,
            longest_gap_s REAL NOT NULL, status TEXT NOT NULL, total, failed INTEGER NOT NULL, skipped INTEGER NOT NULL,
            metadata TEXT, error TEXT, stage TEXT, eta TEXT, ended_at REAL, duration_s REAL
        , stall_after_s REAL, extra TEXT);
CREATE TABLE totals (
            metrics_group TEXT NOT NULL, process TEXT NOT NULL, series TEXT NOT NULL, value TEXT NOT NULL, at REAL NOT NULL,
            PRIMARY KEY (metrics_group, process, series)
        ) WITHOUT ROWID;
CREATE TABLE trajectories (
            key INTEGER PRIMARY KEY, operation_type TEXT NOT NULL, level TEXT NOT NULL, eta_key TEXT NOT NULL,
            host_class TEXT NOT NULL, run TEXT NOT NULL, number INTEGER NOT NULL, operation_id TEXT, at REAL NOT NULL,
            trajectory TEXT NOT NULL, UNIQUE (operation_type, level, eta_key, host_class, run, number)
        );
CREATE TABLE uses (operation INTEGER PRIMARY KEY, use TEXT NOT NULL);
