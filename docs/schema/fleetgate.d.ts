// Made from shared_types by ./dev schema; do not edit.

/** `POST /api/tasks/{id}/abort`; `kill` skips the grace. */
export type AbortRequest = {
  reason?: string | null;
  kill?: boolean;
};

export type Ack = {
  type: "ack";
  id?: string | null;
  timestamp?: number | null;
  metadata?: Record<string, unknown> | null;
  payload: AckPayload;
};

export type AckPayload = {
  msgID: number;
  taskId?: string | null;
  sessionId?: string | null;
};

/** One thing that happened. `timestamp` is when, in ms since the epoch, at the host. */
export type AgentEvent = {
  type: string;
  timestamp: number;
  content?: string | null;
  data?: Record<string, unknown> | null;
};

/** One agent that a host found installed. `auth_ok` None means: could not tell. */
export type AgentInfo = {
  agent: string;
  version?: string | null;
  path?: string | null;
  authOk?: boolean | null;
  models?: string[];
  hint?: string | null;
};

/** A message is complete. */
export type AgentResponse = {
  type: "agent:response";
  id?: string | null;
  payload: TextPayload;
};

export type AgentStatus = {
  type: "agent:status";
  id?: string | null;
  payload: TextPayload;
};

/** A message grows. */
export type AgentStream = {
  type: "agent:stream";
  id?: string | null;
  payload: TextPayload;
};

/** At most MAX_BATCH_MESSAGES events or MAX_BATCH_BYTES; `has_more`: sync again after the last one. */
export type BatchPayload = {
  messages: EventRecord[];
  latestID: number;
  firstID: number;
  epoch: string;
  verdict: string;
  hasMore: boolean;
  sessionId: string;
};

export type ClientTaskAbort = {
  type: "task:abort";
  id?: string | null;
  timestamp?: number | null;
  metadata?: Record<string, unknown> | null;
  payload: TaskAbortPayload;
};

export type ClientTaskInput = {
  type: "task:input";
  id?: string | null;
  timestamp?: number | null;
  metadata?: Record<string, unknown> | null;
  payload: TaskInputPayload;
};

/** One condition of a host for a task: what is wanted, what is, whether it holds. */
export type Condition = {
  name: string;
  holds: boolean;
  wanted: string;
  found: string;
};

/** Change the gateway's configuration; it answers with a heartbeat that carries the effective one. */
export type ConfigUpdate = {
  type: "config:update";
  config: GatewayConfig;
};

/** What a gateway really does after it clamped `config:update` by the host's own policy. */
export type EffectiveConfig = {
  heartbeatInterval: number;
  taskTimeout: number;
  maxConcurrent: number;
  labels?: Record<string, string>;
  draining?: boolean;
};

/** `event: end`: the task has ended and everything is said. Who comes back is answered 204. */
export type EndFrame = {
  status: TaskState;
};

/** A page of a log in order. `gap`: history before `first_id` is gone, or the epoch is another. */
export type EventPage = {
  items: EventRecord[];
  epoch: string;
  verdict: string;
  firstId: number;
  latestId: number;
  hasMore: boolean;
};

/** An EventRecord, or a FleetEvent on the fleet's stream; there `task_id` is missing. */
export type EventPayload = {
  id: number;
  event: EventRecord | FleetEvent;
  taskId?: string | null;
};

/** An event as streams and pages show it: `AgentEvent` with its public name. */
export type EventRecord = {
  type: string;
  timestamp: number;
  id: number;
  taskId: string;
  attempt: number;
  content: string | null;
  data: Record<string, unknown> | null;
};

/** One line of the fleet stream: `task.status`, `host.online`, `host.offline` or `host.changed`. */
export type FleetEvent = {
  type: string;
  timestamp: number;
  id: number;
  taskId?: string | null;
  sessionId?: string | null;
  status?: TaskState | null;
  reason?: string | null;
  attempt?: number | null;
  rv?: number | null;
  hostId?: string | null;
  host?: HostStatus | null;
};

/** A page of the fleet stream, for those who do not stream; otherwise as `EventPage`. */
export type FleetPage = {
  items: FleetEvent[];
  epoch: string;
  verdict: string;
  firstId: number;
  latestId: number;
  hasMore: boolean;
};

/** `event: snapshot`, the first thing on the fleet stream after a gap or a fresh start. */
export type FleetSnapshot = {
  asOf: number;
  hosts: HostStatus[];
  counts: Record<string, number>;
};

/** What a manager may ask a gateway to change; the host's own policy clamps it. Durations in ms. */
export type GatewayConfig = {
  heartbeatInterval?: number | null;
  taskTimeout?: number | null;
  maxRetries?: number | null;
  maxConcurrent?: number | null;
  labels?: Record<string, string> | null;
  draining?: boolean | null;
};

/** `status` is ok, or degraded with the parts named. */
export type Health = {
  status: string;
  version: string;
  epoch: string;
  degraded: Record<string, string>;
  hostsOnline: number;
  tasksQueued: number;
  tasksRunning: number;
  uptimeMs: number;
};

/** A sign of life; `timestamp` is the gateway's clock when it was sent, `sent` its CLOCK_BOOTTIME in ms. Carries `config` after a change of it. */
export type Heartbeat = {
  type: "heartbeat";
  timestamp: number;
  vitals?: Vitals | null;
  config?: EffectiveConfig | null;
  sent?: number | null;
};

/** The sign of life with this `sent` is written down, and this connection was the host's newest: its lease counts from then. */
export type HeartbeatAck = {
  type: "heartbeat:ack";
  sent: number;
};

/** What a gateway registers with (base dialect). */
export type HostCapabilities = {
  name: string;
  agents: string[];
  maxConcurrent: number;
  cwd: string;
  labels: Record<string, string>;
};

export type HostOffline = {
  type: "host:offline";
  id?: string | null;
  payload: HostStatus;
};

export type HostOnline = {
  type: "host:online";
  id?: string | null;
  payload: HostStatus;
};

export type HostState = "busy" | "offline" | "online";

/** A host as the API shows it; offline hosts too. */
export type HostStatus = {
  hostId: string;
  name: string;
  status: HostState;
  capabilities: HostCapabilities;
  activeTasks: string[];
  lastHeartbeat: number | null;
  connectedAt: number | null;
  agents: AgentInfo[];
  vitals: Vitals | null;
  slotsUsed: number;
  slots: number;
  labels: Record<string, string>;
  draining: boolean;
  version: string | null;
  protocol: number;
  lastAssignedAt: number | null;
};

export type HostWhy = {
  hostId: string;
  name: string;
  wouldRun: boolean;
  conditions: Condition[];
};

export type InputReceipt = {
  inputId: string;
  taskId: string;
  state: InputState;
};

/** `POST /api/tasks/{id}/input`. The same `input_id` again changes nothing. */
export type InputRequest = {
  content: string;
  inputId?: string | null;
};

export type InputState = "refused" | "sent" | "stored" | "taken";

export type JoinCode = {
  code: string;
  expiresAt: number;
};

/** `POST /api/auth/join-codes`: one use, `ttl` in ms (at most a day). */
export type JoinCodeCreate = {
  ttl?: number;
  labels?: Record<string, string>;
};

/** `POST /api/auth/join`, without a token: the code is the credential. */
export type JoinRequest = {
  code: string;
  name: string;
  hostId?: string | null;
};

/** A host token, shown once, bound to `host_id`. */
export type Joined = {
  hostId: string;
  token: string;
  url: string;
  labels: Record<string, string>;
};

/** require: a host must have them; prefer: better with them; avoid: never a host that has them. */
export type LabelRules = {
  require?: Record<string, string>;
  prefer?: Record<string, string>;
  avoid?: Record<string, string>;
};

/** What a lease is worth, in ms. It lasts `ttl` from the `sent` that was acknowledged; an agent may go on for its task's grace after that, and is gone within `kill_budget` then. */
export type LeaseTerms = {
  ttl: number;
  killBudget: number;
};

/** `event: drain` (the manager restarts: come back) or `event: revoked` (the token is). */
export type LeaveFrame = {
  retry: boolean;
};

/** How an agent's asks are answered when nobody is asked. The gateway maps it for each agent. default: reads and harmless commands go on, the rest is decided by the agent's own rules and what it asks is denied; acceptEdits: edits inside the working directory are allowed, other asks denied; plan: the agent may read and plan, nothing else; bypass: everything is allowed; deny: every ask is denied. */
export type PermissionMode = "acceptEdits" | "bypass" | "default" | "deny" | "plan";

/** Answer with a heartbeat. */
export type Ping = {
  type: "ping";
};

/** RFC 9457. `detail` is a sentence a person can act on, `hint` what to do, `code` stable for programs. */
export type Problem = {
  type?: string;
  title: string;
  status: number;
  code: string;
  detail?: string | null;
  hint?: string | null;
  instance?: string | null;
  requestId?: string | null;
  errors?: ProblemField[];
};

/** One offending field: `key` is its path in the body (`$.timeout`), or the name of the parameter. */
export type ProblemField = {
  key: string;
  message: string;
  source?: string;
};

/** The first message on a connection. `instance` is new at each start of the gateway process. */
export type Register = {
  type: "register";
  hostId: string;
  capabilities: HostCapabilities;
  protocol?: number;
  version?: string | null;
  bootId?: string | null;
  instance?: string | null;
  agents?: AgentInfo[];
  running?: RunningAttempt[];
  config?: EffectiveConfig | null;
  sent?: number | null;
};

/** The answer to `register`. With `ok` false the manager says why and closes. Durations in ms. */
export type Registered = {
  type: "registered";
  ok: boolean;
  error?: string | null;
  code?: string | null;
  protocol?: number;
  heartbeatInterval?: number | null;
  resume?: Resume[];
  config?: GatewayConfig | null;
  lease?: LeaseTerms | null;
};

/** The manager's verdict on one reported attempt: go on after `acked_seq`, or stop it and forget it. */
export type Resume = {
  taskId: string;
  attempt: number;
  ackedSeq: number;
  verdict: string;
  started?: boolean;
};

/** `event: resume`, the first frame of a stream. */
export type ResumeFrame = {
  verdict: string;
  epoch: string;
  firstId: number;
  latestId: number;
  task: Task | null;
};

/** An attempt a gateway still knows. `seq` is its newest journal record; `state` running | exited | dead. */
export type RunningAttempt = {
  taskId: string;
  attempt: number;
  uid: string;
  seq: number;
  state: string;
};

/** Which stream is meant: exactly one of the three. */
export type StreamRef = {
  taskId?: string | null;
  sessionId?: string | null;
  fleet?: boolean;
  after?: number | null;
  text?: boolean;
};

export type Subscribe = {
  type: "subscribe";
  id?: string | null;
  timestamp?: number | null;
  metadata?: Record<string, unknown> | null;
  payload: StreamRef;
};

/** Which stream, and after which id it goes on. Said again with verdict `gap` when events were lost to it. */
export type SubscribedPayload = {
  after: number;
  epoch: string;
  verdict: string;
  taskId?: string | null;
  sessionId?: string | null;
  fleet?: boolean;
};

export type Sync = {
  type: "sync";
  id?: string | null;
  timestamp?: number | null;
  metadata?: Record<string, unknown> | null;
  payload: SyncPayload;
};

export type SyncBatch = {
  type: "sync.batch";
  id?: string | null;
  payload: BatchPayload;
};

/** Everything after `lastAckID`; without it, after the client's stored mark. */
export type SyncPayload = {
  taskId?: string | null;
  sessionId?: string | null;
  lastAckID?: number | null;
};

/** The record of a task, as the API shows it and the store keeps it. `reason` is a stable code, `detail` a sentence for people. `disconnected_since` is an overlay on a live state: the host is out of reach since then. `rv` grows by one with every change of this record. */
export type Task = {
  id: string;
  sessionId: string;
  status: TaskState;
  prompt: string;
  agentType: string;
  createdAt: number;
  updatedAt: number;
  rv: number;
  priority: number;
  cwd: string | null;
  model: string | null;
  env: Record<string, string>;
  timeout: number | null;
  idleTimeout: number | null;
  queueTtl: number | null;
  permissionMode: PermissionMode;
  metadata: Record<string, unknown>;
  pinnedHost: string | null;
  labels: LabelRules;
  hostId: string | null;
  attempt: number;
  reason: string | null;
  detail: string | null;
  result: TaskResult | null;
  agentSessionId: string | null;
  disconnectedSince: number | null;
  stopRequestedAt: number | null;
  assignedAt: number | null;
  startedAt: number | null;
  endedAt: number | null;
  deadlineAt: number | null;
  excludedHosts: string[];
  actor: string;
  traceId: string;
  firstEventId: number;
  lastEventId: number;
};

/** Stop the attempt: ask the agent, TERM, after `grace_ms` KILL, until its process tree is gone. */
export type TaskAbort = {
  type: "task:abort";
  taskId: string;
  attempt?: number | null;
  reason?: string | null;
  graceMs?: number | null;
};

export type TaskAbortPayload = {
  taskId: string;
  reason?: string | null;
  kill?: boolean;
};

/** The host is ready to start this attempt and waits for `task:start`. Nothing was spawned. */
export type TaskAccepted = {
  type: "task:accepted";
  taskId: string;
  attempt: number;
};

/** Everything of this attempt up to and including record `seq` is committed (cumulative). */
export type TaskAck = {
  type: "task:ack";
  taskId: string;
  attempt: number;
  seq: number;
};

/** The agent ended with evidence of success, and its process tree is gone. `seq` is the exit record: this message is its only carrier, with the `events` derived from it; `task:events` end with the record before it. */
export type TaskCompleted = {
  type: "task:completed";
  taskId: string;
  result: TaskResult;
  attempt?: number | null;
  seq?: number | null;
  events?: AgentEvent[];
};

/** `POST /api/tasks`. Durations in ms; priority 0 (first) to 9 (last). */
export type TaskCreate = {
  prompt: string;
  agentType: string;
  cwd?: string | null;
  model?: string | null;
  env?: Record<string, string>;
  timeout?: number | null;
  idleTimeout?: number | null;
  metadata?: Record<string, unknown>;
  hostId?: string | null;
  labels?: LabelRules;
  priority?: number;
  queueTtl?: number | null;
  permissionMode?: PermissionMode;
};

/** One event (base dialect). */
export type TaskEvent = {
  type: "task:event";
  taskId: string;
  event: AgentEvent;
  attempt?: number | null;
  seq?: number | null;
};

/** All the events derived from journal records first..last of one attempt, committed together. */
export type TaskEvents = {
  type: "task:events";
  taskId: string;
  attempt: number;
  from: number;
  to: number;
  events: AgentEvent[];
};

/** Full dialect: prepare this attempt and answer accepted or refused. Base dialect: run it. */
export type TaskExecute = {
  type: "task:execute";
  task: TaskRequest;
  attempt?: number | null;
  uid?: string | null;
};

/** The agent ended otherwise, and its process tree is gone. `error` is a sentence, `reason` a stable code. `seq` and `events` as in TaskCompleted. */
export type TaskFailed = {
  type: "task:failed";
  taskId: string;
  error: string;
  details?: unknown;
  attempt?: number | null;
  seq?: number | null;
  reason?: string | null;
  result?: TaskResult | null;
  events?: AgentEvent[];
};

/** Text for the running agent. `input_id` makes a repeat harmless. */
export type TaskInput = {
  type: "task:input";
  taskId: string;
  content: string;
  inputId?: string | null;
};

export type TaskInputPayload = {
  taskId: string;
  content: string;
  inputId?: string | null;
};

/** Newest first. `next_cursor` is null on the last page. */
export type TaskPage = {
  items: Task[];
  nextCursor: string | null;
};

/** The host will not run this attempt; nothing was spawned. `reason` is a stable code. */
export type TaskRefused = {
  type: "task:refused";
  taskId: string;
  attempt: number;
  reason: string;
  details?: string | null;
};

/** A task as a host gets it. Base dialect up to `metadata`; the rest is of the full dialect. */
export type TaskRequest = {
  taskId: string;
  prompt: string;
  cwd: string;
  agentType: string;
  model?: string | null;
  env?: Record<string, string> | null;
  timeout?: number | null;
  metadata?: Record<string, unknown> | null;
  permissionMode?: PermissionMode;
  idleTimeout?: number | null;
  grace?: number | null;
};

/** `output` is the final answer, or its tail when `output_truncated`; `duration` in ms. */
export type TaskResult = {
  success: boolean;
  exitCode?: number | null;
  output?: string | null;
  duration?: number | null;
  filesChanged?: string[] | null;
  outputTruncated?: boolean;
};

/** Spawn the attempt that was accepted. The manager has committed that it may run. */
export type TaskStart = {
  type: "task:start";
  taskId: string;
  attempt: number;
};

/** The agent runs. `session_id` is the agent's own session id; sent again when it is learned. */
export type TaskStarted = {
  type: "task:started";
  taskId: string;
  sessionId?: string;
  attempt?: number | null;
  pid?: number | null;
};

export type TaskState = "aborted" | "assigned" | "completed" | "expired" | "failed" | "lost" | "queued" | "running" | "stopping" | "timeout";

/** The plain-text view of one event; `status` only in `agent:status`. */
export type TextPayload = {
  taskId: string;
  id: number;
  content: string;
  status?: string | null;
};

export type TokenCreate = {
  name: string;
  kind?: TokenKind;
  hostId?: string | null;
};

/** `token` is shown this once. */
export type TokenCreated = {
  token: string;
  info: TokenInfo;
};

export type TokenInfo = {
  id: string;
  name: string;
  kind: TokenKind;
  hostId: string | null;
  createdAt: number;
  lastUsedAt: number | null;
  revokedAt: number | null;
};

export type TokenKind = "host" | "personal";

export type ToldEvent = {
  type: "event";
  id?: string | null;
  payload: EventPayload;
};

export type ToldInput = {
  type: "task:input";
  id?: string | null;
  payload: InputReceipt;
};

export type ToldProblem = {
  type: "error";
  id?: string | null;
  payload: Problem;
};

export type ToldStatus = {
  type: "status";
  id?: string | null;
  payload: Task;
};

export type ToldSubscribed = {
  type: "subscribed";
  id?: string | null;
  payload: SubscribedPayload;
};

export type ToldUnsubscribed = {
  type: "unsubscribed";
  id?: string | null;
  payload: UnsubscribedPayload;
};

export type Unsubscribe = {
  type: "unsubscribe";
  id?: string | null;
  timestamp?: number | null;
  metadata?: Record<string, unknown> | null;
  payload: StreamRef;
};

export type UnsubscribedPayload = {
  taskId?: string | null;
  sessionId?: string | null;
  fleet?: boolean;
};

export type UserMessage = {
  type: "user:message";
  id?: string | null;
  timestamp?: number | null;
  metadata?: Record<string, unknown> | null;
  payload: UserMessagePayload;
};

export type UserMessagePayload = {
  content: string;
  agentType?: string | null;
  hostId?: string | null;
  cwd?: string | null;
};

/** cpu, memory, disk: used share 0..1; load: one-minute load average divided by the cores; journals: used share of what the journals of attempts may take on that host's disk, None when it cannot tell. Above 0.8 it takes no task. */
export type Vitals = {
  cpu: number;
  memory: number;
  disk: number;
  load: number;
  journals: number | null;
};

/** Why a task is where it is: one sentence, then each host's conditions. */
export type Why = {
  taskId: string;
  status: TaskState;
  summary: string;
  wouldRunIf: string | null;
  position: number | null;
  hosts: HostWhy[];
};

export type FromGateway = Register | Heartbeat | TaskAccepted | TaskRefused | TaskStarted | TaskEvent | TaskEvents | TaskCompleted | TaskFailed;

export type FromManager = Registered | HeartbeatAck | Ping | TaskExecute | TaskStart | TaskAbort | TaskInput | TaskAck | ConfigUpdate;

export type FromClient = Sync | Ack | Subscribe | Unsubscribe | UserMessage | ClientTaskInput | ClientTaskAbort;

export type ToClient = SyncBatch | ToldEvent | ToldStatus | ToldSubscribed | ToldUnsubscribed | ToldInput | ToldProblem | AgentStream | AgentResponse | AgentStatus | HostOnline | HostOffline;
