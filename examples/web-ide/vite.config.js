import { defineConfig } from 'vite';

export default defineConfig({
  // The demo model's files are served beside the page.
  publicDir: '../demo-model/weights',
  // The package is a folder of this repository here, and no copy in node_modules.
  server: { fs: { allow: ['../..'] } },
  build: { target: 'es2022' },
});
