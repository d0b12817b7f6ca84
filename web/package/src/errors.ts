/** The one error type: a code that programs branch on, a sentence that people read, and the numbers. */

export type ErrorCode =
  | 'WEBGPU_UNAVAILABLE'
  | 'LIMIT_TOO_SMALL'
  | 'OUT_OF_MEMORY'
  | 'DEVICE_LOST'
  | 'NETWORK'
  | 'NOT_FOUND'
  | 'INTEGRITY'
  | 'QUOTA_EXCEEDED'
  | 'CACHE_BUSY'
  | 'OFFLINE_MISS'
  | 'BAD_CHECKPOINT'
  | 'UNSUPPORTED_MODEL'
  | 'CONTEXT_OVERFLOW'
  | 'INVALID_ARGUMENT'
  | 'DISPOSED'
  | 'WORKER_FAILED'
  | 'WASM_LOAD'
  | 'SERVER_ERROR'
  | 'NOT_SUPPORTED';

/** Details are plain values (numbers, strings), so that they survive the worker border. */
export type ErrorDetails = Record<string, unknown>;

/** Everything that this package throws, aborts aside (they reject with the signal's own reason). */
export class InCoderError extends Error {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message);
    this.name = 'InCoderError';
    this.code = code;
    this.details = details;
  }

  /** A plain object for `postMessage`. */
  toJSON(): { code: ErrorCode; message: string; details: ErrorDetails } {
    return { code: this.code, message: this.message, details: this.details };
  }

  /** The engine's error, which it throws as a JSON text; null when `value` is none. */
  static fromEngine(value: unknown): InCoderError | null {
    if (typeof value !== 'string') return null;
    const { code, message, details } = JSON.parse(value) as InCoderError;
    return new InCoderError(code, message, details);
  }

  /** The error behind `value`: one of ours as it is, anything else with `code`. */
  static from(value: unknown, code: ErrorCode): InCoderError {
    if (value instanceof InCoderError) return value;
    return new InCoderError(code, value instanceof Error ? value.message : String(value));
  }
}
