import type {
  ClientOptions,
  Connection,
  Operation,
  ProgressClient,
  ProgressError,
  Status,
} from "./progress-client.js";

export interface UseProgressOptions {
  /** Poll interval in milliseconds where streams are blocked. */
  pollInterval?: number;
  /** Include `operation.levels`. */
  levels?: boolean;
  /** Called once per run, when it ends in any way but failure. */
  onComplete?: (operation: Operation) => void;
  /** Called when it fails (`error.operation` is set), does not exist, or may not be read. */
  onError?: (error: ProgressError) => void;
}

export interface Progress {
  /** The newest state; null before the first. */
  operation: Operation | null;
  error: ProgressError | null;
  connection: Connection;
  /** 0 to 100; null if unknown. */
  percentage: number | null;
  /** True if the percentage is based on an estimate, because an opaque step is running. */
  estimated: boolean;
  status: Status | null;
  ended: boolean;
}

/** The hooks of React that are used: pass React itself. */
export interface Hooks {
  useState: (initial: any) => [any, (next: any) => void];
  useRef: (initial: any) => { current: any };
  useEffect: (effect: () => (() => void) | undefined, dependencies: readonly unknown[]) => void;
}

/**
 * Creates the hook `useProgress`; all components share one client: `options.client`, or one created
 * with `options`.
 */
export function createUseProgress(
  React: Hooks,
  options?: ClientOptions & { client?: ProgressClient },
): (id: string | null | undefined, options?: UseProgressOptions) => Progress;
