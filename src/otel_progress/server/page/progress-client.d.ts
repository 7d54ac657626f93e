/**
 * Types of progress-client.js. Documents are those of the REST API: times in Unix seconds (`*_at`)
 * or seconds; null if unknown.
 */

export type Status = "pending" | "running" | "completed" | "failed" | "cancelled" | "skipped";
export type Condition = "ok" | "stalled" | "abandoned" | "overdue" | "paused" | "not_reporting" | "superseded";
export type Outcome = "completed" | "failed" | "skipped";
export type Connection =
  "idle" | "connecting" | "live" | "polling" | "reconnecting" | "stale" | "unauthorized" | "closed";
export type MetadataValue = string | boolean | number | string[] | boolean[] | number[];

export interface Failure {
  type: string;
  message: string;
  details: string | null;
}

export interface Eta {
  remaining_s: number | null;
  low_s: number | null;
  high_s: number | null;
  state: "estimated" | "holding" | "stalled" | "unknown";
  basis: "history" | "rate" | "parallel" | "durations" | "expected" | "none";
  runs: number;
  /** Time of the estimate on the process's monotonic clock. */
  clock: number;
  /** Seconds for which it counts down without a further advance; null: down to 0. */
  counts_down_s: number | null;
  /** Seconds without an advance after which it is stalled; null: never. */
  stalls_after_s: number | null;
}

export interface Level {
  operation_id: string;
  operation_type: string;
  /** Unique to one execution: the same operation id can be run again. */
  run: string;
  /** `type:id` for each step below the operation, joined by `/`; empty for the operation. */
  path: string;
  type: string;
  id: string;
  name: string;
  unit: string | null;
  /** The unit for counts other than 1; null without a unit. */
  unit_plural: string | null;
  weight: number;
  /** True for a stage that was announced at the start. */
  declared: boolean;
  attempt: number;
  order: number;
  started_at: number | null;
  deadline_at: number | null;
  ended_at: number | null;
  duration_s: number | null;
  /** Increases with each change within a run. */
  sequence: number;
  status: Status;
  current: number;
  total: number | null;
  /** 0 to 1; null if unknown. */
  ratio: number | null;
  percentage: number | null;
  completed: number;
  /** Failures in the level and in all levels below it, each once. */
  failed: number;
  /** The part of `failed` that is in levels below and not in `current`. */
  failed_below: number;
  skipped: number;
  /** True if the level completed below its total. */
  ended_early: boolean;
  message: string | null;
  /** Id of the running stage. */
  stage: string | null;
  elapsed_seconds: number;
  /** True if the ratio is based on an estimate, because an opaque step is running. */
  estimated: boolean;
  /** Seconds without an advance after which the operation counts as stalled. */
  stall_after_s: number;
  /** Start of the current pause on the process's monotonic clock; null if not paused. */
  paused_clock: number | null;
  /** Total seconds of earlier pauses. */
  paused_s: number;
  /** Number of the operation's last preview; 0 without previews. */
  previews: number;
  /** Upper bound of the first interval for the whole run, in seconds of work. */
  overdue_after_s: number | null;
  metadata: Record<string, MetadataValue>;
  error: Failure | null;
  eta: Eta | null;
  trace_id: string | null;
  span_id: string | null;
  /** Run that has continued this one. */
  superseded_by: string | null;
  /** All ended levels directly below, evicted ones included. */
  ended_levels: LevelCounts;
  /** Ended levels directly below that are not stored any more; only if levels were requested. */
  evicted_levels?: LevelCounts;
}

/** Number of ended levels by status; statuses without levels are left out. */
export type LevelCounts = Partial<Record<"completed" | "failed" | "cancelled" | "skipped" | "ended_early", number>>;

export interface Operation extends Level {
  schema: string;
  condition: Condition;
  remaining_seconds: number | null;
  /** False if its process no longer sends heartbeats. */
  alive: boolean;
  read_at: number;
  clock: number;
  cancel_requested_at: number | null;
  /** Last report of a process without heartbeats that has not reported for long. */
  not_reporting_since: number | null;
  batch: string | null;
  /** Level of another process that started the operation. */
  parent: { operation_id: string; run: string; path: string } | null;
  worker: {
    id: string;
    pid: number;
    host: string;
    service: string;
    started_at: number;
    start: number | null;
  } | null;
  /** Parents before children; only if levels were requested. */
  levels?: Level[];
}

export interface Item {
  operation_id: string;
  operation_type: string;
  run: string;
  path: string;
  level_type: string;
  kind: string;
  number: number;
  at: number;
  name: string | null;
  outcome: Outcome | null;
  error: Failure | null;
  metadata: Record<string, MetadataValue>;
}

export interface Batch {
  id: string;
  name: string;
  type: string;
  status: Status;
  total: number | null;
  counts: Record<Status, number>;
  finished: number;
  ratio: number | null;
  percentage: number | null;
  throughput: number | null;
  started_at: number;
  ended_at: number | null;
  elapsed_seconds: number;
  remaining_seconds: number | null;
  abandoned: number;
  active?: Operation[];
  failed?: Operation[];
}

export class ProgressError extends Error {
  /** HTTP status; 0 if the server was not reached or an operation failed. */
  status: number;
  /** The failed operation. */
  operation: Operation | null;
  /** The server's problem document (RFC 9457). */
  problem: { type: string; title: string; status: number; detail?: string } | null;
}

export interface ClientOptions {
  /**
   * Address of the server's page, such as `http://127.0.0.1:7764/`; default: relative to the
   * current page.
   */
  baseUrl?: string;
  /** Sent as `Authorization: Bearer …`; on the server's own page the cookie is used. */
  token?: string | null;
  /** Poll interval in milliseconds where streams are blocked; default 1000. */
  pollInterval?: number;
  /** False to poll only. */
  stream?: boolean;
  /**
   * True to share one stream between all tabs of the browser, on pages of the server itself. It has
   * no effect with `token`, `fetch` or another origin.
   */
  shared?: boolean;
  fetch?: typeof fetch;
}

export interface Preview {
  operation_id: string;
  operation_type: string;
  run: string;
  /** Path of its level; empty for the operation itself. */
  path: string;
  /** Order of the previews within a run, from 1. */
  number: number;
  at: number;
  name: string;
  media_type: "image/png" | "image/webp" | "image/jpeg" | "text/plain; charset=utf-8" | "application/json";
  size_bytes: number;
  /** SHA-256 of the content. */
  digest: string;
  width: number | null;
  height: number | null;
  /** Progress of the operation at that time, 0 to 1. */
  ratio: number | null;
  /** Path of the content relative to the server's address; in lists only. */
  url?: string | null;
}

export interface SubscribeOptions {
  /** Include `operation.levels`; not possible with "*". */
  levels?: boolean;
  pollInterval?: number;
  onComplete?: (operation: Operation) => void;
  onError?: (error: ProgressError) => void;
  onItem?: (item: Item) => void;
  onPreview?: (preview: Preview) => void;
  onBatch?: (batch: Batch) => void;
  /**
   * Every message in order: "reset" (drop everything, the full set follows), "snapshot", "ready",
   * "item", "preview", "batch", "gone", "missing".
   */
  onMessage?: (kind: string, data: any) => void;
}

export interface ConnectionState {
  state: Connection;
  /** Unix milliseconds. */
  since: number;
  detail: string | null;
}

export interface OperationList {
  schema: string;
  operations: Operation[];
  next: string | null;
}

export class ProgressClient {
  constructor(options?: ClientOptions);
  readonly state: ConnectionState;
  /** performance.now() when the server last sent anything, -Infinity before. */
  readonly receivedAt: number;
  /** Subscribes to one id, several, or "*"; returns an unsubscribe function. */
  subscribe(
    target: string | string[],
    callback: (operation: Operation) => void,
    options?: SubscribeOptions,
  ): () => void;
  /** Called once per run, when it ends in any way but failure. */
  onComplete(id: string | string[], callback: (operation: Operation) => void): () => void;
  /** Called when it fails, does not exist, or may not be read. */
  onError(id: string | string[], callback: (error: ProgressError) => void): () => void;
  onState(callback: (state: ConnectionState) => void): () => void;
  /**
   * Seconds since a document was read, by the server's clock: add them to `elapsed_seconds` of a
   * running operation.
   */
  ageOf(operation: Operation): number;
  /**
   * Requests a page of operations: `list({status: ["running"], type: "import", limit: 50,
   * cursor})`. Rejects with ProgressError.
   */
  list(
    query?: Record<string, string | number | boolean | string[] | null | undefined>,
  ): Promise<OperationList>;
  get(id: string, options?: { levels?: boolean }): Promise<Operation>;
  /** Sends any request below /api/v1/. */
  request(
    path: string,
    options?: { query?: object; method?: string; body?: unknown; signal?: AbortSignal },
  ): Promise<any>;
  /** Connects again: after a login or a log-out. */
  reconnect(): void;
  /**
   * While above 0, polls only at this interval in milliseconds: for a hidden page. A shared stream
   * is closed while all pages are hidden.
   */
  setQuiet(milliseconds: number): void;
  close(): void;
}

export function createProgressClient(options?: ClientOptions): ProgressClient;
export function hasEnded(status: Status): boolean;
/** Reads server-sent events until the body ends. */
export function readEvents(
  body: ReadableStream<Uint8Array>,
  onEvent: (event: { event: string; id: string | null; data: string }) => void,
  onBytes?: () => void,
): Promise<void>;
