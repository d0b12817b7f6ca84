import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

const WEIGHTS = new URL('../../examples/demo-model/weights/', import.meta.url);
const FILES = ['config.json', 'tokenizer.json', 'model.safetensors'];

/** Sizes and hashes, so that the page can tell the size before the download and the engine can check it after. */
function manifest() {
  const files = FILES.map((name) => {
    const bytes = readFileSync(new URL(name, WEIGHTS));
    return { name, size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
  });
  return `${JSON.stringify({ files }, null, 2)}\n`;
}

/** Puts the repository's demo model under `model/`, in the build's output and in the development server alike. */
function demoModel() {
  return {
    name: 'demo-model',
    configureServer(server) {
      server.middlewares.use((request, response, next) => {
        const name = /^\/model\/([\w.]+)(?:\?|$)/.exec(request.url ?? '')?.[1];
        if (name === 'manifest.json') {
          response.setHeader('Content-Type', 'application/json').end(manifest());
        } else if (FILES.includes(name) && existsSync(new URL(name, WEIGHTS))) {
          response.setHeader('Content-Type', name.endsWith('.json') ? 'application/json' : 'application/octet-stream');
          createReadStream(new URL(name, WEIGHTS)).pipe(response);
        } else next();
      });
    },
    generateBundle() {
      const missing = FILES.filter((name) => !existsSync(new URL(name, WEIGHTS)));
      if (missing.length > 0) this.error(`${fileURLToPath(WEIGHTS)} lacks ${missing.join(', ')}`);
      for (const name of FILES) {
        this.emitFile({ type: 'asset', fileName: `model/${name}`, source: readFileSync(new URL(name, WEIGHTS)) });
      }
      this.emitFile({ type: 'asset', fileName: 'model/manifest.json', source: manifest() });
    },
  };
}

/** The service worker: the build's files are its list, and their names its version. */
function offline() {
  return {
    name: 'offline',
    apply: 'build',
    writeBundle({ dir }, bundle) {
      const files = Object.keys(bundle).filter((name) => !name.startsWith('model/')).sort();
      const hash = createHash('sha256');
      for (const name of files) hash.update(name).update(readFileSync(join(dir, name)));
      const source = readFileSync(new URL('src/offline.js', import.meta.url), 'utf8');
      const made = source.replace('%CACHE%', `incoder-page-${hash.digest('hex').slice(0, 16)}`).replace('%FILES%', files.join(' '));
      writeFileSync(join(dir, 'offline.js'), made);
    },
  };
}

export default defineConfig({
  // Relative addresses: the page works under any path of any static server.
  base: './',
  // Browsers with WebGPU have all of this; older ones still get the message that says what they lack.
  build: {
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    chunkSizeWarningLimit: 800,
    rolldownOptions: { input: ['index.html', 'bench.html'] },
  },
  worker: { format: 'es' },
  // Pre-bundling would move the package away from its worker and its wasm file.
  optimizeDeps: { exclude: ['incoder'] },
  plugins: [demoModel(), offline()],
});
