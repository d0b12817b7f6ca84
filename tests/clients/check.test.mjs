/**
 * The npm libraries of OpenAI and Ollama, and tabby-agent, against `incoder serve`.
 *
 *     (cd tests/clients && npm ci)
 *     node --test tests/clients/check.test.mjs
 *
 * INCODER_PROGRAM names the program; otherwise it is the one that the Rust tests built.
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Ollama } from 'ollama';
import OpenAI from 'openai';
import { StreamMessageReader, StreamMessageWriter, createMessageConnection } from 'vscode-jsonrpc/node.js';

const PROGRAM = process.env.INCODER_PROGRAM ?? fileURLToPath(new URL('../../target/debug/incoder', import.meta.url));
const BEFORE = 'def area(w, h):\n    return ';
const BEHIND = '\n\n\nprint(area(2, 3))\n';

let server, url, folder, openai, ollama;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'incoder-clients-'));
  server = spawn(PROGRAM, ['serve', '--port', '0', '-d', 'cpu', '--temp', '0'], { stdio: ['ignore', 'ignore', 'pipe'] });
  const [line] = await once(createInterface({ input: server.stderr }), 'line');
  url = /http:\/\/127\.0\.0\.1:\d+/.exec(line)[0];
  openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'x' });
  ollama = new Ollama({ host: url });
});

after(async () => {
  const ended = once(server, 'exit');
  server.kill();
  await ended;
  rmSync(folder, { recursive: true, force: true });
});

/** What OpenAI's library gets for the hole. */
const filled = async (max_tokens) => {
  const answer = await openai.completions.create({ model: 'incoder', prompt: BEFORE, suffix: BEHIND, max_tokens });
  assert.notEqual(answer.choices[0].text, '');
  return answer.choices[0].text;
};

test('openai and ollama fill the same hole, at once and in pieces', async () => {
  const expected = await filled(16);
  let streamed = '';
  const options = { model: 'incoder', prompt: BEFORE, suffix: BEHIND, max_tokens: 16, stream: true };
  for await (const chunk of await openai.completions.create(options)) streamed += chunk.choices[0]?.text ?? '';
  assert.equal(streamed, expected);
  const request = { model: 'incoder', prompt: BEFORE, suffix: BEHIND, options: { num_predict: 16 } };
  const answer = await ollama.generate(request);
  assert.deepEqual([answer.response, answer.done], [expected, true]);
  streamed = '';
  for await (const part of await ollama.generate({ ...request, stream: true })) streamed += part.response;
  assert.equal(streamed, expected);
});

test('a stream that is left ends, and what is refused is said once', async () => {
  const stream = await openai.completions.create({ model: 'incoder', prompt: BEFORE, max_tokens: 2000, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.object, 'text_completion');
    break;
  }
  await openai.completions.create({ model: 'incoder', prompt: 'x', max_tokens: 1 }, { timeout: 20_000 });
  await assert.rejects(openai.completions.create({ model: 'incoder', prompt: 'x', n: 99 }), OpenAI.BadRequestError);
  const chat = openai.chat.completions.create({ model: 'incoder', messages: [{ role: 'user', content: 'x' }] });
  await assert.rejects(chat, ({ status, headers }) => status === 501 && headers.get('x-should-retry') === 'false');
  assert.deepEqual((await ollama.list()).models.map(({ model }) => model), ['incoder-demo']);
});

test('tabby-agent completes, and takes the text as it is', async () => {
  const settings = join(folder, '.tabby-client/agent');
  mkdirSync(settings, { recursive: true });
  writeFileSync(join(settings, 'config.toml'), `[server]\nendpoint = "${url}"\n\n[anonymousUsageTracking]\ndisable = true\n`);
  const cli = createRequire(import.meta.url).resolve('tabby-agent/dist/cli.js');
  const env = { ...process.env, HOME: folder };
  const agent = spawn(process.execPath, [cli, '--lsp', '--stdio'], { env, stdio: ['pipe', 'pipe', 'ignore'] });
  const connection = createMessageConnection(new StreamMessageReader(agent.stdout), new StreamMessageWriter(agent.stdin));
  // Or a request to an agent that ended would be waited for.
  agent.once('exit', () => connection.dispose());
  connection.listen();
  try {
    const capabilities = { textDocument: { completion: {} } };
    await connection.sendRequest('initialize', { processId: process.pid, rootUri: null, capabilities });
    await connection.sendNotification('initialized', {});
    const uri = 'file:///area.py';
    const textDocument = { uri, languageId: 'python', version: 1, text: BEFORE + BEHIND };
    await connection.sendNotification('textDocument/didOpen', { textDocument });
    const ask = { textDocument: { uri }, position: { line: 1, character: '    return '.length }, context: { triggerKind: 1 } };
    const { items } = await connection.sendRequest('textDocument/completion', ask);
    assert.equal(items.length, 1, JSON.stringify(items));
    const given = items[0].textEdit?.newText ?? items[0].insertText;
    // The agent cuts what it is sent at the end of a block.
    const expected = await filled(64);
    assert.ok(given.trim() !== '' && expected.startsWith(given.trim()), JSON.stringify([given, expected]));
  } finally {
    const ended = agent.exitCode === null && once(agent, 'exit');
    agent.kill();
    await ended;
  }
});
