/**
 * useProgress for React, on top of progress-client.
 *
 *     import * as React from "react";
 *     import { createUseProgress } from "…/static/use-progress.js";
 *     const useProgress = createUseProgress(React, { baseUrl: "http://127.0.0.1:7764" });
 *
 * React is a parameter, so this module needs no bundler and works with any version that has hooks.
 */

import { createProgressClient, hasEnded } from "./progress-client.js";

/**
 * Creates the hook. All components share one client, created with `options` when the first
 * component mounts.
 */
export function createUseProgress(React, options = {}) {
  let shared = null;
  const client = () => (shared ??= options.client ?? createProgressClient(options));

  return function useProgress(id, { pollInterval, levels = false, onComplete, onError } = {}) {
    const [operation, setOperation] = React.useState(null);
    const [error, setError] = React.useState(null);
    const [connection, setConnection] = React.useState("connecting");
    // A ref to the newest callbacks: a component may pass new functions each time without
    // subscribing again.
    const callbacks = React.useRef({});
    callbacks.current = { onComplete, onError };

    React.useEffect(() => {
      setOperation(null);
      setError(null);
      if (id === null || id === undefined) return undefined;
      const ends = [
        client().onState(({ state }) => setConnection(state)),
        client().subscribe(
          id,
          (next) => {
            setOperation(next);
            setError(null);
          },
          {
            pollInterval,
            levels,
            onComplete: (ended) => callbacks.current.onComplete?.(ended),
            onError: (problem) => {
              setError(problem);
              callbacks.current.onError?.(problem);
            },
          },
        ),
      ];
      return () => ends.forEach((end) => end());
    }, [id, pollInterval, levels]);

    return {
      operation,
      error,
      connection,
      percentage: operation?.percentage ?? null,
      estimated: operation?.estimated ?? false,
      status: operation?.status ?? null,
      ended: operation !== null && hasEnded(operation.status),
    };
  };
}
