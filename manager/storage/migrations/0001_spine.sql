-- The spine: tasks, their attempts and events, hosts, inputs, tokens.
-- What is written once (task) and what changes all the time (standing) are apart, so that a change of state never
-- rewrites a prompt. Columns beside `spec` and `record` (JSON) exist only to be looked for.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    first_kept INTEGER NOT NULL DEFAULT 1
) STRICT;

CREATE TABLE task (
    no INTEGER PRIMARY KEY, -- the order of arrival
    id TEXT NOT NULL UNIQUE,
    session_no INTEGER NOT NULL REFERENCES session,
    agent TEXT NOT NULL,
    actor TEXT NOT NULL,
    idempotency_key TEXT,
    digest TEXT NOT NULL,
    spec TEXT NOT NULL, -- without its prompt
    prompt TEXT NOT NULL
) STRICT;

CREATE INDEX task_of_session ON task (session_no);
CREATE UNIQUE INDEX task_asked_once ON task (actor, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE queue_key (
    no INTEGER PRIMARY KEY,
    requirement TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE standing (
    task_no INTEGER PRIMARY KEY REFERENCES task,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    key_no INTEGER REFERENCES queue_key, -- while it is queued
    host_id TEXT,
    deadline_at INTEGER, -- while it is live
    record TEXT NOT NULL,
    CHECK ((key_no IS NOT NULL) = (status = 'queued'))
) STRICT;

CREATE INDEX standing_queue ON standing (key_no, priority, task_no) WHERE key_no IS NOT NULL;
CREATE INDEX standing_deadline ON standing (deadline_at) WHERE deadline_at IS NOT NULL;

CREATE TABLE attempt (
    task_no INTEGER NOT NULL REFERENCES task,
    attempt INTEGER NOT NULL,
    uid TEXT NOT NULL,
    host_id TEXT NOT NULL REFERENCES host,
    generation INTEGER NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER, -- null while it holds a slot of its host
    outcome TEXT, -- the task's state after it
    PRIMARY KEY (task_no, attempt)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX attempt_one_live ON attempt (task_no) WHERE ended_at IS NULL;
CREATE INDEX attempt_slots ON attempt (host_id) WHERE ended_at IS NULL;

-- A run of events that were committed together: bodies are lines of JSON. The key holds the session in its upper
-- 31 bits and the public id of the last event in its lower 32, so that a session's log lies together, in order.
CREATE TABLE event (
    no INTEGER PRIMARY KEY,
    task_no INTEGER NOT NULL REFERENCES task,
    attempt INTEGER NOT NULL,
    count INTEGER NOT NULL,
    bodies BLOB NOT NULL
) STRICT;

CREATE TABLE host (
    id TEXT PRIMARY KEY,
    labels TEXT NOT NULL DEFAULT '{}', -- given by the manager
    capabilities TEXT, -- null until it connected for the first time
    agents TEXT NOT NULL DEFAULT '[]',
    generation INTEGER NOT NULL DEFAULT 0,
    protocol INTEGER NOT NULL DEFAULT 1,
    version TEXT,
    boot_id TEXT,
    last_seen_at INTEGER,
    connected_at INTEGER,
    disconnected_at INTEGER,
    draining INTEGER NOT NULL DEFAULT 0,
    last_assigned_at INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE input (
    no INTEGER PRIMARY KEY, -- the order of arrival
    task_no INTEGER NOT NULL REFERENCES task,
    input_id TEXT NOT NULL,
    content TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (task_no, input_id)
) STRICT;

CREATE TABLE token (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    host_id TEXT,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at INTEGER
) STRICT;

CREATE TABLE join_code (
    hash TEXT PRIMARY KEY,
    expires_at INTEGER NOT NULL,
    labels TEXT NOT NULL,
    used_at INTEGER
) STRICT;

CREATE TABLE mark (
    principal TEXT NOT NULL,
    device TEXT NOT NULL,
    session_id TEXT NOT NULL,
    event_id INTEGER NOT NULL,
    PRIMARY KEY (principal, device, session_id)
) STRICT, WITHOUT ROWID;
