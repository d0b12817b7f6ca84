/** The extension: completions at the cursor from `incoder lsp`, which runs on this machine. Nothing is sent anywhere else. */

import * as vscode from 'vscode';
import { Completions, type State } from './client.js';
import { pickModel } from './models.js';
import { options, PASSED } from './options.js';
import { Status } from './status.js';

/** Under which the API key is kept, in the editor's own store of secrets. */
const KEY = 'incoder.apiKey';
/** Settings that a running program must be started again for, or stopped. */
const PROGRAM = ['enabled', 'program', 'environment', ...PASSED];
/** Milliseconds without another change of the settings before the program is started again: they are typed letter by letter. */
const SETTLED = 500;

let completions: Completions | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel('InCoder', { log: true });
  const status = new Status();
  let state: State = { kind: 'off' };
  let shown = '';

  const onState = (next: State): void => {
    state = next;
    status.show(next);
    if (next.kind === 'ready') shown = '';
    // The same failure at every keystroke is one message.
    if (next.kind === 'failed' && next.detail !== shown) {
      shown = next.detail;
      void complain(next.detail);
    }
  };
  const onWarning = (problem: string): void => void vscode.window.showWarningMessage(`InCoder: ${problem}`);
  const running = new Completions(log, () => context.secrets.get(KEY), onState, onWarning);
  completions = running;

  const settings = () => vscode.workspace.getConfiguration('incoder');
  const apply = () => (settings().get<boolean>('enabled') === false ? running.stop() : running.start());
  const change = (name: string, value: unknown) => settings().update(name, value, vscode.ConfigurationTarget.Global);
  const again = () => {
    shown = '';
    return apply();
  };

  const commands: Record<string, () => unknown> = {
    'incoder.toggle': () => {
      if (state.kind === 'failed') return again();
      return change('enabled', state.kind === 'off');
    },
    'incoder.restart': again,
    'incoder.showLog': () => log.show(),
    'incoder.setApiKey': async () => {
      const prompt = 'The key that incoder serve was started with; nothing to use none';
      const key = await vscode.window.showInputBox({ title: 'API key', prompt, password: true });
      if (key === undefined) return;
      await (key === '' ? context.secrets.delete(KEY) : context.secrets.store(KEY, key));
      await again();
    },
    'incoder.pickModel': async () => {
      const current = settings().get<string>('model') ?? '';
      const picked = await pickModel(options(settings()), current);
      if (picked === undefined || picked === current) return;
      if (state.kind === 'ready' && state.detail.includes('incoder serve')) {
        onWarning('completions come from a running incoder serve, which has its own model. Turn on incoder.alone to use another.');
      }
      await change('model', picked);
    },
  };
  const guarded = (command: () => unknown) => async () => {
    try {
      await command();
    } catch (error) {
      void complain(error instanceof Error ? error.message : String(error));
    }
  };

  let timer: NodeJS.Timeout | undefined;
  const onChange = (event: vscode.ConfigurationChangeEvent): void => {
    if (!PROGRAM.some((name) => event.affectsConfiguration(`incoder.${name}`))) return;
    clearTimeout(timer);
    timer = setTimeout(() => void again(), SETTLED);
  };
  context.subscriptions.push(log, status, vscode.workspace.onDidChangeConfiguration(onChange));
  context.subscriptions.push({ dispose: () => clearTimeout(timer) });
  for (const [name, command] of Object.entries(commands)) {
    context.subscriptions.push(vscode.commands.registerCommand(name, guarded(command)));
  }
  // Not awaited: the editor need not wait for a model.
  void apply();
}

/** Ends the program with the editor. */
export function deactivate(): Promise<void> | undefined {
  return completions?.stop();
}

/** Shows what went wrong, with what can be done about it. */
async function complain(problem: string): Promise<void> {
  const actions = {
    'Pick the Model': () => vscode.commands.executeCommand('incoder.pickModel'),
    'Open Settings': () => vscode.commands.executeCommand('workbench.action.openSettings', 'incoder'),
    'Show the Log': () => vscode.commands.executeCommand('incoder.showLog'),
  };
  const names = Object.keys(actions) as (keyof typeof actions)[];
  const chosen = await vscode.window.showErrorMessage(`InCoder: ${problem}`, ...names);
  if (chosen) await actions[chosen]();
}
