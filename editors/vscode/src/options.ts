/** The settings as `incoder lsp` takes them. */

import { homedir } from 'node:os';
import { join } from 'node:path';

/** Where settings are read from: `workspace.getConfiguration('incoder')`. */
export interface Settings {
  get<T>(name: string): T | undefined;
}

/** Each setting that is passed on, and its flag. A value that is empty or null is left to the program. */
const FLAGS = {
  model: '--model',
  device: '--device',
  quantize: '--quantize',
  kv: '--kv',
  ctxSize: '--ctx-size',
  maxTokens: '--max-tokens',
  temp: '--temp',
  topP: '--top-p',
  topK: '--top-k',
  minP: '--min-p',
  repeatPenalty: '--repeat-penalty',
  repeatLastN: '--repeat-last-n',
  seed: '--seed',
} as const;

/** Flags without a value, and what the setting must be for them to be given. */
const SWITCHES = { alone: ['--alone', true], heal: ['--no-heal', false], lookup: ['--no-lookup', false] } as const;

/** All settings that reach the program. */
export const PASSED = [...Object.keys(FLAGS), ...Object.keys(SWITCHES), 'server'];

/** What the program is started with. */
export interface Options {
  readonly program: string;
  readonly args: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** The address of the server that must be used, where one was given. */
  readonly server: URL | undefined;
}

/** Throws an error that says what to change if a setting cannot be used. */
export function options(settings: Settings): Options {
  const args: string[] = ['lsp'];
  for (const [name, flag] of Object.entries(FLAGS)) {
    const value = settings.get<string | number | null>(name) ?? '';
    if (value !== '') {
      // In one argument: a value that begins with a dash is no flag.
      args.push(`${flag}=${name === 'model' ? withHome(String(value)) : value}`);
    }
  }
  for (const [name, [flag, when]] of Object.entries(SWITCHES)) {
    if (settings.get<boolean>(name) === when) args.push(flag);
  }
  const server = serverAddress(settings.get<string>('server') ?? '');
  if (server) {
    if (settings.get<boolean>('alone')) {
      throw new Error('The settings incoder.server and incoder.alone exclude each other: clear one of them.');
    }
    args.push(`--server=${server.hostname}:${server.port || '80'}`);
  }
  const program = withHome(settings.get<string>('program') || 'incoder');
  return { program, args, environment: settings.get<Record<string, string>>('environment') ?? {}, server };
}

function serverAddress(text: string): URL | undefined {
  if (text.trim() === '') return undefined;
  const url = URL.canParse(text.trim()) ? new URL(text.trim()) : undefined;
  if (url?.protocol !== 'http:' || url.pathname !== '/' || url.search !== '' || url.username !== '') {
    throw new Error(
      `The setting incoder.server is "${text}": write http://, a host and a port only, such as http://127.0.0.1:8012.`,
    );
  }
  return url;
}

/** No shell reads the settings, so what a shell does with `~/` is done here. */
function withHome(path: string): string {
  return path.startsWith('~/') ? join(homedir(), path.slice(2)) : path;
}
