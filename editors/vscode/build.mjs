/** The extension as one file, with the licences of what is in it, and the licence file that `vsce` asks for. */

import { build } from 'esbuild';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = new URL('../../', import.meta.url);
const { metafile } = await build({
  absWorkingDir: fileURLToPath(new URL('.', import.meta.url)),
  entryPoints: ['src/extension.ts'],
  outfile: 'dist/extension.js',
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node20',
  external: ['vscode'],
  minify: true,
  metafile: true,
});

const packages = new Set();
for (const input of Object.keys(metafile.inputs)) {
  const path = input.match(/^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//);
  if (path) packages.add(path[1]);
}
const notices = [...packages].sort().map((folder) => {
  const file = readdirSync(new URL(`${folder}/`, import.meta.url)).find((name) => /^licen[cs]e/i.test(name));
  if (!file) throw new Error(`${folder} has no licence file: it may not be bundled`);
  const { name, version } = JSON.parse(readFileSync(new URL(`${folder}/package.json`, import.meta.url), 'utf8'));
  return `${name} ${version}\n\n${readFileSync(new URL(`${folder}/${file}`, import.meta.url), 'utf8').trim()}\n`;
});
const line = `\n${'-'.repeat(80)}\n\n`;
const heading = 'dist/extension.js contains these packages, under their own licences:\n';
writeFileSync(new URL('dist/NOTICES.txt', import.meta.url), [heading, ...notices].join(line));

const licences = ['LICENSE-MIT', 'LICENSE-APACHE'].map((name) => readFileSync(new URL(name, root), 'utf8').trim());
const choice = 'Licensed under either the MIT licence or the Apache License, Version 2.0, at your option.';
writeFileSync(new URL('LICENSE.txt', import.meta.url), `${[choice, ...licences].join(line)}\n`);
