/** Picking the model: what the program has in its cache, or any other. */

import * as vscode from 'vscode';
import type { Options } from './options.js';
import { output } from './program.js';

/** A model as `incoder models ls --json` lists it. */
interface Listed {
  readonly model: string;
  readonly revisions: readonly string[];
  readonly commit: string;
  readonly weights: string | null;
  readonly bytes: number;
  readonly complete: boolean;
  readonly path: string;
}

interface Choice extends vscode.QuickPickItem {
  /** What the setting becomes; none to ask for it. */
  readonly value?: string;
}

/** What the setting `incoder.model` is to be, or nothing if the user gives up. */
export async function pickModel(options: Options, current: string): Promise<string | undefined> {
  const choices: Choice[] = [
    { label: 'The default', description: 'INCODER_MODEL, or the demo model in the program', value: '' },
    ...(await cached(options)).map(choice),
    { label: 'Another model…', description: 'a folder, or a name of the Hugging Face hub' },
  ];
  const marked = choices.map((item) => (item.value === current ? { ...item, label: `$(check) ${item.label}` } : item));
  const picked = await vscode.window.showQuickPick(marked, {
    title: 'The model that fills in code',
    placeHolder: "InCoder's own weights are under CC-BY-NC 4.0: no commercial use",
    matchOnDescription: true,
  });
  if (!picked || picked.value !== undefined) return picked?.value;
  const named = await vscode.window.showInputBox({
    title: 'The model that fills in code',
    prompt: 'A folder, or org/name[@revision] of the Hugging Face hub, which is downloaded once (several gigabytes)',
    placeHolder: 'facebook/incoder-1B',
    value: current,
  });
  return named?.trim();
}

/** The models in the cache. Where they cannot be listed, the user is told why and may still name one. */
async function cached(options: Options): Promise<Listed[]> {
  try {
    const { models } = JSON.parse(await output(options, ['models', 'ls', '--json'], undefined)) as { models: Listed[] };
    return models;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    void vscode.window.showWarningMessage(`InCoder: the models in the cache cannot be listed. ${why}`);
    return [];
  }
}

function choice({ model, revisions, commit, weights, bytes, complete, path }: Listed): Choice {
  const name = revisions.includes('main') ? model : `${model}@${revisions[0] ?? commit}`;
  // A quantized form of a model has no name of its own, only a folder.
  const isQuantized = weights === 'q8' || weights === 'q4';
  const size = `${(bytes / 1e9).toFixed(1)} GB`;
  const facts = [weights, size, complete ? undefined : 'not downloaded completely'].filter((fact) => fact);
  return { label: name, description: facts.join(', '), value: isQuantized ? path : name };
}
