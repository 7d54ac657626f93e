/**
 * useProgress for React, on top of progress-client.
 *
 *     import * as React from "react";
 *     import { createUseProgress } from "…/static/use-progress.js";
 *     const useProgress = createUseProgress(React, { baseUrl: "http://127.0.0.1:7764" });
 *
 * React is handed in, so that this module needs no bundler and works with any version that has hooks.
 */

import { createProgressClient, hasEnded } from "./progress-client.js";

/** Makes the hook. All components that use it share one client, made with `options` when the first of them is shown. */
export function createUseProgress(React, options = {}) {
  let shared = null;
  const client = () => (shared ??= options.client ?? createProgressClient(options));

  return function useProgress(id, { pollInterval, levels = false, onComplete, onError } = {}) {
    const [operation, setOperation] = React.useState(null);
    const [error, setError] = React.useState(null);
    const [connection, setConnection] = React.useState("connecting");
    // The newest callbacks, so that a component may pass new functions each time without subscribing anew.
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
