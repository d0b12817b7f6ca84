/** The item in the status bar: whether there are completions, and a click to turn them on or off. */

import * as vscode from 'vscode';
import type { State } from './client.js';

const ICONS = { off: '$(circle-slash)', loading: '$(loading~spin)', ready: '$(check)', failed: '$(error)' } as const;
const CLICKS = {
  off: 'Click to turn completions on.',
  loading: 'Click to turn completions off.',
  ready: 'Click to turn completions off and free the memory.',
  failed: 'Click to try again.',
} as const;

export class Status implements vscode.Disposable {
  private readonly item = vscode.window.createStatusBarItem('incoder.status', vscode.StatusBarAlignment.Right, 100);

  constructor() {
    this.item.name = 'InCoder';
    this.item.command = 'incoder.toggle';
    this.show({ kind: 'off' });
    this.item.show();
  }

  show(state: State): void {
    const detail = state.kind === 'off' ? 'off' : state.kind === 'ready' ? state.detail : `${state.kind}: ${state.detail}`;
    this.item.text = `${ICONS[state.kind]} InCoder`;
    this.item.tooltip = `InCoder: ${detail.replace(/\.$/, '')}. ${CLICKS[state.kind]}`;
    this.item.accessibilityInformation = { label: `InCoder, ${state.kind}`, role: 'button' };
    this.item.backgroundColor =
      state.kind === 'failed' ? new vscode.ThemeColor('statusBarItem.errorBackground') : undefined;
  }

  dispose(): void {
    this.item.dispose();
  }
}
