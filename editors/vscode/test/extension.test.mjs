/**
 * The bundled extension in a mock of the editor, with the real `incoder lsp` and the demo model: the program that INCODER_PROGRAM
 * names, or the one that the Rust tests built.
 */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import Module from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { after, afterEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const { editor, vscode } = require('./vscode.cjs');
const load = Module._load;
Module._load = (name, ...rest) => (name === 'vscode' ? vscode : load(name, ...rest));
const extension = require('../dist/extension.js');

const root = fileURLToPath(new URL('..', import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const vsce = join(root, 'node_modules/@vscode/vsce/vsce');
const built = fileURLToPath(new URL('../../../target/debug/incoder', import.meta.url));
const program = resolve(process.env.INCODER_PROGRAM ?? built);
const skip = existsSync(program) ? false : `no ${program}: build it, or say where it is with INCODER_PROGRAM`;
const folder = mkdtempSync(join(tmpdir(), 'incoder-vscode-'));
/** Small, on the CPU, and without whatever this machine has. */
const SETTINGS = {
  'incoder.program': program,
  'incoder.device': 'cpu',
  'incoder.alone': true,
  'incoder.maxTokens': 6,
  'incoder.temp': 0,
  'incoder.environment': { INCODER_MODEL: '', INCODER_API_KEY: '', HF_HOME: folder, HF_HUB_OFFLINE: '1' },
};
const SECRET = 'a_name_that_is_in_no_log';

let context;

const start = (settings = {}) => {
  Object.assign(editor, { settings: { ...SETTINGS, ...settings }, errors: [], warnings: [], log: [], documents: [] });
  const secrets = new Map();
  context = {
    subscriptions: [],
    secrets: { get: async (name) => secrets.get(name), store: async (name, key) => void secrets.set(name, key) },
  };
  extension.activate(context);
};

/** Waits until the status bar shows one of these icons. */
const shows = async (...icons) => {
  const end = Date.now() + 60_000;
  const before = editor.errors.length;
  const shown = (icon) => editor.status.text === `$(${icon}) InCoder`;
  while (!icons.some(shown)) {
    assert.ok(Date.now() < end && (editor.errors.length === before || icons.includes('error')), `${icons} was expected, ${editor.status.text} is shown: ${editor.status.tooltip}`);
    await sleep(20);
  }
};

const ask = async (document, line, { triggerKind = 1, cancel = false } = {}) => {
  const [provider] = editor.providers;
  const source = new vscode.CancellationTokenSource();
  const position = new vscode.Position(line, document.text.split('\n')[line].length);
  const answer = provider.provideInlineCompletionItems(document, position, { triggerKind }, source.token);
  if (cancel) source.cancel();
  return (await answer)?.items?.[0];
};

const stop = async () => {
  await extension.deactivate();
  for (const each of context?.subscriptions ?? []) each.dispose();
  context = undefined;
};

afterEach(stop);
after(() => rmSync(folder, { recursive: true }));

const TEXT = `def ${SECRET}(width, height):\n    return \n\n\nprint(${SECRET}(2, 3))\n`;

/** What the command prints for the hole behind `return `. */
const filled = () => {
  const file = join(folder, 'hole.py');
  writeFileSync(file, TEXT.replace('return ', 'return <infill>'));
  const args = ['infill', '--json', '-q', '-d', 'cpu', '--temp', '0', '-n', '6', '-f', file];
  return JSON.parse(execFileSync(program, args, { encoding: 'utf8' })).infills[0].text.trimEnd();
};

test('suggests what the command writes, and goes on while it is typed', { skip }, async () => {
  start();
  await shows('check');
  assert.match(editor.status.tooltip, /the model is loaded/);
  assert.equal(editor.providers.size, 1);
  const document = editor.open('area.py', 'python', TEXT);
  const item = await ask(document, 1);
  const expected = filled();
  assert.notEqual(expected, '');
  assert.ok(item instanceof vscode.InlineCompletionItem);
  assert.equal(item.insertText, expected);
  assert.deepEqual([item.range.start.line, item.range.start.character], [1, '    return '.length]);
  // What follows is known already.
  editor.type(document, 1, expected[0]);
  const rest = await ask(document, 1);
  assert.equal(rest.insertText, expected.slice(1));

  const other = editor.open('other.py', 'python', TEXT);
  const cancelled = ask(other, 1, { cancel: true });
  await cancelled.then((none) => assert.equal(none, undefined), (error) => assert.ok(error instanceof vscode.CancellationError));

  // Suggestions are switched off for what comes unasked, and for a language.
  editor.settings['incoder.automatic'] = false;
  assert.equal(await ask(document, 1), undefined);
  assert.equal((await ask(document, 1, { triggerKind: 0 })).insertText, expected.slice(1));
  editor.settings['incoder.automatic'] = true;
  editor.settings['incoder.disabledLanguages'] = ['python'];
  assert.equal(await ask(document, 1), undefined);

  assert.deepEqual([editor.errors, editor.warnings], [[], []]);
  assert.ok(!editor.log.join('\n').includes(SECRET));
});

test('a server that is named is used', { skip }, async () => {
  const server = spawn(program, ['serve', '--port', '0', '-d', 'cpu', '--temp', '0', '--max-tokens', '6', '--api-key', 'secret'], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...SETTINGS['incoder.environment'] },
  });
  try {
    const [first] = await once(createInterface({ input: server.stderr }), 'line');
    const address = /http:\/\/127\.0\.0\.1:\d+/.exec(first)[0];
    start({ 'incoder.server': address, 'incoder.alone': false });
    // Without the key it is refused.
    await shows('error');
    assert.match(editor.errors.join('\n'), new RegExp(`No incoder serve at ${address}`));
    editor.typed = 'secret';
    await vscode.commands.executeCommand('incoder.setApiKey');
    await shows('check');
    assert.match(editor.status.tooltip, /incoder serve/);
    assert.equal((await ask(editor.open('area.py', 'python', TEXT), 1)).insertText, filled());
  } finally {
    const ended = once(server, 'exit');
    server.kill();
    await ended;
  }
});

test('what is wrong with the settings is said, and can be put right', { skip }, async () => {
  const cases = [
    [{ 'incoder.program': '/no/such/incoder' }, /"\/no\/such\/incoder" was not found.*incoder\.program/],
    [{ 'incoder.server': 'ftp://a', 'incoder.alone': false }, /write http:\/\/, a host and a port/],
    [{ 'incoder.server': 'http://127.0.0.1:9' }, /incoder\.server and incoder\.alone exclude each other/],
    [{ 'incoder.server': 'http://127.0.0.1:9', 'incoder.alone': false }, /No incoder serve at http:\/\/127\.0\.0\.1:9/],
    [{ 'incoder.device': '', 'incoder.topP': 7 }, /top-p/],
    [{ 'incoder.model': join(folder, 'nothing') }, /nothing/],
  ];
  for (const [settings, message] of cases) {
    start(settings);
    await shows('error');
    assert.match(editor.errors.join('\n'), message);
    await stop();
  }
  start({ 'incoder.program': '/no/such/incoder' });
  await shows('error');
  editor.change('incoder.program', program);
  await shows('check');
  // A click on the item in the status bar, twice.
  await vscode.commands.executeCommand('incoder.toggle');
  await shows('circle-slash');
  assert.equal(editor.providers.size, 0);
  await vscode.commands.executeCommand('incoder.toggle');
  await shows('check');
  // The list of models has the default, what is in the cache, which is empty here, and any other.
  editor.pick = (items) => items.at(-1);
  editor.typed = join(folder, 'nothing');
  await vscode.commands.executeCommand('incoder.pickModel');
  assert.equal(editor.settings['incoder.model'], editor.typed);
  await shows('error');
});

test('every setting reaches the program as a flag that it knows', { skip }, () => {
  const flags = execFileSync(program, ['lsp', '--help'], { encoding: 'utf8' });
  for (const name of manifest.contributes.configuration.slice(1).flatMap((part) => Object.keys(part.properties))) {
    const flag = name.replace('incoder.', '').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    assert.match(flags, new RegExp(`--(no-)?${flag}\\b`), name);
  }
});

test('the package has the extension and nothing else', () => {
  const listed = execFileSync(process.execPath, [vsce, 'ls', '--no-dependencies'], { cwd: root, encoding: 'utf8' });
  const files = listed.split('\n').filter((line) => /^[\w./-]+$/.test(line)).sort();
  assert.deepEqual(files, ['LICENSE.txt', 'README.md', 'dist/NOTICES.txt', 'dist/extension.js', 'package.json']);
});
