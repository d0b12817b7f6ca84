/** The program `incoder`, as a child process. */

import { spawn, type ChildProcess } from 'node:child_process';
import { homedir } from 'node:os';
import type { Options } from './options.js';

/** Characters of stderr that are kept for a message. */
const KEPT = 2000;

/** A running program, and what it said last on stderr. */
export interface Started {
  readonly child: ChildProcess;
  lastWords(): string;
}

/** Starts the program; rejects with what to do about it where that is not possible. */
export function start(options: Options, args: readonly string[], key: string | undefined): Promise<Started> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, ...options.environment, ...(key ? { INCODER_API_KEY: key } : {}) };
    // In the home folder: in the folder that is open, Windows would find a foreign incoder.exe.
    const child = spawn(options.program, args, { env, cwd: homedir(), windowsHide: true });
    let kept = '';
    child.stderr.on('data', (data: Buffer) => {
      kept = (kept + data.toString()).slice(-KEPT);
    });
    child.once('error', (error: NodeJS.ErrnoException) => reject(new Error(explained(error, options.program))));
    child.once('spawn', () => resolve({ child, lastWords: () => kept.trim() }));
  });
}

/** What the program prints; rejects where it fails. */
export async function output(options: Options, args: readonly string[], key: string | undefined): Promise<string> {
  const { child, lastWords } = await start(options, args, key);
  let text = '';
  child.stdout?.on('data', (data: Buffer) => {
    text += data.toString();
  });
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  if (code !== 0) throw new Error(`${options.program} ${args.join(' ')} failed: ${lastWords() || `exit code ${code}`}`);
  return text;
}

function explained(error: NodeJS.ErrnoException, program: string): string {
  switch (error.code) {
    case 'ENOENT':
      return `The program "${program}" was not found. Install it, or say where it is in the setting incoder.program.`;
    case 'EACCES':
      return `The program "${program}" may not be run. Make it executable, or name another in the setting incoder.program.`;
    default:
      return `The program "${program}" cannot be started: ${error.message}. The setting incoder.program says which it is.`;
  }
}
