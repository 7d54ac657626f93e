import type { ClientOptions, Connection, Operation, ProgressClient, ProgressError, Status } from "./progress-client.js";

export interface UseProgressOptions {
  /** Milliseconds between two questions where streams do not get through. */
  pollInterval?: number;
  /** Whether `operation.levels` comes along. */
  levels?: boolean;
  /** Called once a run, when it has ended in any way but failure. */
  onComplete?: (operation: Operation) => void;
  /** Called when it failed (then `error.operation` is there), when there is none of this id, or when it may not be asked for. */
  onError?: (error: ProgressError) => void;
}

export interface Progress {
  /** The newest state; null until there is one. */
  operation: Operation | null;
  error: ProgressError | null;
  connection: Connection;
  /** 0 to 100; null while unknown. */
  percentage: number | null;
  /** True where the percentage rests on an estimate, because an opaque step runs. */
  estimated: boolean;
  status: Status | null;
  ended: boolean;
}

/** The hooks of React that are used: hand in React itself. */
export interface Hooks {
  useState: (initial: any) => [any, (next: any) => void];
  useRef: (initial: any) => { current: any };
  useEffect: (effect: () => (() => void) | undefined, dependencies: readonly unknown[]) => void;
}

/** Makes the hook `useProgress`; all components share one client, which is `options.client` or one made with `options`. */
export function createUseProgress(
  React: Hooks,
  options?: ClientOptions & { client?: ProgressClient },
): (id: string | null | undefined, options?: UseProgressOptions) => Progress;
